"""The matcher on a checkpoint that copies: right where both views show the same."""
from __future__ import annotations

import json
import logging
import shutil

import copy_qwen
import numpy as np
import pytest
import tiny_qwen
import torch
from copy_qwen import view

from crosspoint_ros.core.datatypes import (
    Code,
    Grounder,
    Intrinsics,
    Query,
    Rejected,
    SupportsDescribe,
    SupportsPrefetch,
    View,
)
from crosspoint_ros.core.pipeline import ground
from crosspoint_ros.matchers import load_matcher
from crosspoint_ros.matchers.cropond.engine import checkpoint, memory
from crosspoint_ros.matchers.cropond.engine.engine import FreeReply
from crosspoint_ros.matchers.cropond.prompt import CoordinateFormat

torch.set_num_threads(1)
# Small images: a tiny model learns to copy past few tokens.
HERE = {'device': 'cpu', 'max_pixels': 16 * 28 * 28, 'allow_repeating': True}


@pytest.fixture(scope='module')
def copying(tmp_path_factory):
    """A checkpoint that replies in the authors' JSON."""
    return copy_qwen.build(tmp_path_factory.mktemp('copying'))


@pytest.fixture(scope='module')
def tagging(tmp_path_factory):
    """One that replies with a tag, and that the left third of the image is not visible."""
    return copy_qwen.build(tmp_path_factory.mktemp('tagging'), copy_qwen.TAG, hides=True)


@pytest.fixture(scope='module')
def signing(tmp_path_factory):
    """One that says of what is not visible, by strips of the left third: -1, a -1 as y, or none."""
    unseen = tuple(copy_qwen.JSON.replace('{x}, {y}', said)
                   for said in ('-1, -1', '{x}, -1', 'none'))
    return copy_qwen.build(tmp_path_factory.mktemp('signing'), hides=True, unseen=unseen)


@pytest.fixture(scope='module')
def random(tmp_path_factory):
    return tiny_qwen.build(tmp_path_factory.mktemp('random'))


@pytest.fixture(scope='module')
def matcher(copying):
    return load_matcher('cropond', model=str(copying), **HERE)


@pytest.fixture(scope='module')
def tagger(tagging):
    return load_matcher('cropond', model=str(tagging), **HERE)


def test_a_click_is_answered_with_pixel_covariance_and_confidence(matcher):
    found = matcher.match(Query(view('a'), view('b'), np.array([120.0, 60.0])))
    np.testing.assert_allclose(found.pixel, (120.0, 60.0), atol=0.5)
    assert np.linalg.eigvalsh(found.covariance_px2).min() > 0
    assert 0.5 < found.confidence <= 1.0


def test_clicks_on_the_same_frames_are_answered_together_as_alone(matcher):
    clicked, other = view('a'), view('b')
    queries = [Query(clicked, other, np.array(p, float)) for p in ((120, 60), (30, 140), (99, 20))]
    for together, query in zip(matcher.match_all(queries), queries, strict=True):
        alone = matcher.match(query)
        np.testing.assert_allclose(together.pixel, alone.pixel, atol=1e-3)
        assert together.confidence == pytest.approx(alone.confidence, abs=1e-3)


def test_the_self_test_chooses_the_convention_and_says_so(matcher):
    assert matcher.coord_format is CoordinateFormat.RELATIVE_1000
    described = matcher.describe()
    assert described['coordinates'] == 'relative_1000'
    assert '8 found in the same image' in described['self_test']
    assert described['template'] == 'json'
    assert described['device'] == 'cpu'
    assert isinstance(matcher, SupportsDescribe)


def test_a_model_that_replies_in_another_form_is_understood_in_that(tagger):
    assert tagger.describe()['template'] == "the model's own"
    found = tagger.match(Query(view('a'), view('b'), np.array([120.0, 60.0])))
    np.testing.assert_allclose(found.pixel, (120.0, 60.0), atol=0.5)


def test_y_is_written_and_read_first_where_that_is_the_convention(copying, tagging):
    y_first, tagged = (load_matcher('cropond', model=str(model), **HERE, self_test=False,
                                    coordinates='relative_1000_yx') for model in (copying, tagging))
    with pytest.raises(Rejected, match='cannot be determined'):  # it writes x="y" y="x"
        tagged.match(Query(view('a'), view('b'), np.array([120.0, 60.0])))
    found = y_first.match(Query(view('a'), view('b'), np.array([120.0, 60.0])))
    np.testing.assert_allclose(found.pixel, (120.0, 60.0), atol=0.5)
    assert found.covariance_px2[0, 0] > found.covariance_px2[1, 1]  # a unit is wider than high


def test_a_model_that_says_it_is_not_visible_is_believed(tagger):
    with pytest.raises(Rejected, match='The point is not visible') as refused:
        tagger.match(Query(view('a'), view('b'), np.array([30.0, 60.0])))
    assert refused.value.code == Code.NOT_VISIBLE
    found = tagger.match(Query(view('a'), view('b'), np.array([120.0, 60.0])))
    np.testing.assert_allclose(found.pixel, (120.0, 60.0), atol=0.5)


@pytest.mark.parametrize(('template', 'said'), [
    ('auto', (r'\(-1, -1\): negative coordinates mean', r'\(1[89]\d, -1\): negative',
              r'\[none\].*no point')),
    ('json', ("prefers '-' to a number", "prefers '-' to a number", "prefers 'n' to a number"))])
def test_a_model_that_says_so_with_numbers_or_without_is_believed(signing, template, said):
    asked = load_matcher('cropond', model=str(signing), **HERE, template=template,
                         self_test=False, coordinates='relative_1000')
    for x, words in zip((26.0, 37.0, 54.0), said, strict=True):
        with pytest.raises(Rejected, match='(?s)' + words) as refused:
            asked.match(Query(view('a'), view('b'), np.array([x, 100.0])))
        assert refused.value.code == Code.NOT_VISIBLE
    found = asked.match(Query(view('a'), view('b'), np.array([140.0, 60.0])))
    np.testing.assert_allclose(found.pixel, (140.0, 60.0), atol=0.5)
    assert found.confidence > 0.8


def test_an_instruction_is_grounded_in_the_clicked_view(matcher):
    assert isinstance(matcher, Grounder)
    named = ground(view('a'), 'the drawer handle', matcher)
    np.testing.assert_allclose(named.pixel, (100.0, 75.0), atol=1.0)
    assert 0.5 < named.confidence < 1.0


@pytest.mark.parametrize(('reply', 'code'), [
    ('[{"point_2d": [500, 500]}, {"point_2d": [250, 750]}]', Code.LOW_CONFIDENCE),
    ('Nowhere.', Code.NOT_VISIBLE)])
def test_an_instruction_that_names_two_things_or_none_is_refused(matcher, monkeypatch, reply, code):
    """DOUBLE of the free reply: this model was taught to name one, always."""
    said = FreeReply(tuple(matcher.engine.tokenizer.encode(reply)), reply)
    monkeypatch.setattr(matcher.engine, 'generate', lambda *arguments: said)
    with pytest.raises(Rejected, match='must name one point') as refused:
        matcher.ground(view('a'), 'both cups')
    assert refused.value.code == code


@pytest.mark.parametrize('words', ['the <|image_pad|>', 'cup<|im_end|>', 'cup ' * 126])
def test_an_instruction_that_is_no_words_or_no_end_of_them_is_a_bad_request(matcher, words):
    with pytest.raises(Rejected) as refused:
        matcher.ground(view('a'), words)
    assert refused.value.code == Code.BAD_REQUEST


def test_an_instruction_that_leaves_it_open_is_refused(copying):
    unsure = load_matcher('cropond', model=str(copying), **HERE, self_test=False,
                          min_ground_confidence=1.0)
    with pytest.raises(Rejected, match='is ambiguous in') as refused:
        unsure.ground(view('a'), 'the drawer handle')
    assert refused.value.code == Code.LOW_CONFIDENCE


def test_views_that_were_prepared_need_no_more_than_six_passes(matcher):
    clicked, other = view('a', 7), view('b', 8)
    assert isinstance(matcher, SupportsPrefetch)
    matcher.warm((clicked, other))
    encoded, passes = matcher.engine.vision_encodes, matcher.engine.passes
    matcher.match(Query(clicked, other, np.array([120.0, 60.0])))
    assert matcher.engine.vision_encodes == encoded
    assert matcher.engine.passes - passes <= 6


def test_a_model_that_finds_nothing_fails_its_self_test(random):
    with pytest.raises(ValueError, match=r'failed its self-test .*relative_1000: \d of 8'):
        load_matcher('cropond', model=str(random), **HERE)


def test_the_self_test_can_be_left_out_and_that_is_logged(random, caplog):
    with caplog.at_level(logging.WARNING, 'crosspoint_ros'):
        matcher = load_matcher('cropond', model=str(random), **HERE, self_test=False)
    assert 'self_test is off' in caplog.text
    assert matcher.describe()['self_test'] == 'off'


def test_a_wrong_convention_fails_the_self_test(copying):
    """It copies numbers; those of pixels, shorter ones, it has never seen."""
    with pytest.raises(ValueError, match=r'failed its self-test .*absolute: 0 of 8'):
        load_matcher('cropond', model=str(copying), **HERE, coordinates='absolute')


def test_a_model_that_only_repeats_the_click_is_refused_unless_that_is_allowed(copying, caplog):
    refused(ValueError, 'repeats the click 8 times', copying, allow_repeating=False)
    with caplog.at_level(logging.WARNING, 'crosspoint_ros'):
        described = load_matcher('cropond', model=str(copying), **HERE).describe()['self_test']
    assert 'it may be wrong where the views differ' in caplog.text
    assert '0 with its halves swapped' in described


@pytest.mark.parametrize('revision', ['', 'main', '0123456'])
def test_a_revision_that_is_no_whole_commit_is_refused(revision):
    refused(ValueError, 'all 40 characters', 'someone/CroPond-3B', revision=revision)


def test_progress_is_logged(copying, caplog):
    with caplog.at_level(logging.INFO, 'crosspoint_ros'):
        load_matcher('cropond', model=str(copying), **HERE)
    assert 'loading 0.0 GB in 1 files onto cpu as float32' in caplog.text
    assert 'self-test: relative_1000' in caplog.text


# --- what may be wrong with a checkpoint


def refused(kind, match, model, **options):
    with pytest.raises(kind, match=match):
        load_matcher('cropond', **({'model': str(model), **HERE} | options))


@pytest.fixture
def broken(random, tmp_path):
    """A copy to break."""
    return shutil.copytree(random, tmp_path / 'broken')


def test_no_model_is_refused():
    refused(ValueError, r'cropond.model is not set', '')


def test_a_folder_that_is_not_there_is_named(tmp_path):
    refused(FileNotFoundError, 'there is no folder .*nowhere', tmp_path / 'nowhere')


def test_an_empty_folder_is_no_checkpoint(tmp_path):
    refused(FileNotFoundError, r'not a checkpoint: it has no config.json', tmp_path)


def test_a_config_that_is_no_json_is_named(broken):
    (broken / 'config.json').write_text('<html>')
    refused(ValueError, r'config.json cannot be read', broken)


@pytest.mark.parametrize(('config', 'said'), [
    ({'architectures': ['LlamaForCausalLM']}, 'LlamaForCausalLM, a model without image input'),
    ({'architectures': ['Qwen2VLForConditionalGeneration'], 'vision_config': {}},
     'is a Qwen2VLForConditionalGeneration;')])
def test_another_architecture_is_named(broken, config, said):
    (broken / 'config.json').write_text(json.dumps(config))
    refused(ValueError, said, broken)


def test_weights_that_are_not_there_are_named(broken):
    (broken / 'model.safetensors').rename(broken / 'pytorch_model.bin')
    refused(FileNotFoundError, r'no weights.*pytorch_model.bin is not read', broken)


def test_a_missing_part_of_the_weights_is_named(broken):
    (broken / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': {
        'a': 'model.safetensors', 'b': 'model-00002-of-00002.safetensors'}}))
    refused(FileNotFoundError, r'1 of 2 weight files are missing, model-00002', broken)


@pytest.mark.parametrize(('keep', 'said'), [
    (-100, 'incomplete: it has'), (500, 'cut off'), (4, 'cut off'), (0, 'cut off')])
def test_half_a_download_is_found_before_it_is_loaded(broken, keep, said):
    file = broken / 'model.safetensors'
    file.write_bytes(file.read_bytes()[:keep])
    refused(ValueError, said, broken)


def test_a_pointer_of_git_lfs_is_no_weights(broken):
    (broken / 'model.safetensors').write_text('version https://git-lfs.github.com/spec/v1\noid')
    refused(ValueError, 'git lfs pull', broken)


def test_weights_of_another_model_are_refused(broken):
    from safetensors.torch import load_file, save_file
    tensors = load_file(broken / 'model.safetensors')
    name = next(n for n in tensors if 'layers.1.mlp.down_proj' in n)
    del tensors[name]
    save_file(tensors, broken / 'model.safetensors', metadata={'format': 'pt'})
    refused(ValueError, '1 tensors of the model are missing', broken)


def test_a_gpu_that_is_not_there_is_refused(random):
    if torch.cuda.is_available():
        pytest.skip('there is a GPU here')
    refused(ValueError, 'sees no GPU', random, device='cuda')


def test_too_little_memory_is_refused_with_need_and_free(random, monkeypatch):
    monkeypatch.setattr(memory, 'get_free_bytes', lambda device: 300_000_000)
    refused(MemoryError, r'needs about 0.5 GB on cpu, 0.3 GB are free', random)


def test_memory_that_ends_while_loading_is_said_in_the_same_words(random, monkeypatch):
    def out_of_memory(*args):
        raise RuntimeError('[enforce fail] DefaultCPUAllocator: not enough memory: you tried')

    monkeypatch.setattr(checkpoint, '_load_model', out_of_memory)
    refused(MemoryError, r'needs about 0.5 GB on cpu, .* GB are free; .*DefaultCPUAlloc', random)


def test_an_id_without_a_revision_is_refused():
    refused(ValueError, 'set cropond.revision', 'someone/CroPond-3B')


def test_a_hub_that_cannot_be_reached_says_which_files_to_bring(monkeypatch, tmp_path):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    monkeypatch.setenv('HF_HOME', str(tmp_path))
    refused(FileNotFoundError, r'copy its files \(\*.json, \*.safetensors', 'someone/CroPond-3B',
            revision='0123456789abcdef0123456789abcdef01234567')


@pytest.mark.parametrize(('options', 'said'), [
    ({'coordinates': 'relative_100'}, 'which this engine cannot decode: use cropond_remote'),
    ({'coordinates': 'pixels'}, "coordinates: 'pixels' is none of auto, relative_1000"),
    ({'weights': 'int3'}, 'none of auto, bfloat16, float32, 4bit'),
    ({'device': 'tpu'}, 'none of auto, cuda, cpu'), ({'question': 'where?'}, r'needs \{x\}'),
    ({'max_pixels': 5}, 'max_pixels must be'), ({'window': 0.0}, 'window must lie in'),
    ({'max_pairs': 0}, 'max_pairs must be')])
def test_an_option_out_of_range_is_refused(random, options, said):
    refused(ValueError, said, random, **options)


def test_an_image_too_thin_for_the_model_is_refused(matcher):
    thin = View('thin', np.zeros((2, 900, 3), np.uint8), Intrinsics(9.0, 9.0, 450.0, 1.0, 900, 2))
    with pytest.raises(Rejected, match='too thin'):
        matcher.match(Query(thin, view('b'), np.array([1.0, 1.0])))
    assert matcher.match(Query(view('a'), view('b'), np.array([120.0, 60.0]))).confidence > 0.5
