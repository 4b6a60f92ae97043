"""Qwen3-VL and its mixture of experts: token for token what uncached, unpacked decoding says."""
from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import tiny_qwen
import torch
from reference_decoder import ReferenceDecoder

from crosspoint_ros.matchers.cropond.engine import checkpoint
from crosspoint_ros.matchers.cropond.engine.coordinate_decoding import BeamOptions
from crosspoint_ros.matchers.cropond.engine.engine import Engine, EngineOptions
from crosspoint_ros.matchers.cropond.image_processor import ImageInput
from crosspoint_ros.matchers.cropond.prompt import (
    CoordinateFormat,
    ReplyTemplate,
    build_grounding_prompt,
    build_pointing_prompt,
)

torch.set_num_threads(1)
MAX_PIXELS = 80 * 32 * 32
CLICKS = [(7, 903), (512, 307), (0, 0), (999, 40)]
QUESTIONS = [build_pointing_prompt(str(x), str(y)) for x, y in CLICKS]
# The third is grown to the least that Qwen3-VL takes, the last is shrunk to the cap.
SIZES = [(256, 288), (300, 260), (60, 100), (500, 700)]
OPENING, ASKED = '<|im_start|>user\n', '<|im_end|>\n<|im_start|>assistant\n'


@pytest.fixture(scope='module', params=[tiny_qwen.QWEN3, tiny_qwen.QWEN3_MOE])
def family(request):
    return request.param


@pytest.fixture(scope='module')
def folder(family, tmp_path_factory):
    return tiny_qwen.build(tmp_path_factory.mktemp(family), family=family)


@pytest.fixture(scope='module')
def loaded(folder):
    """Loaded as the matcher does."""
    return checkpoint.load_checkpoint(str(folder), '', 'cpu', 'float32')


@pytest.fixture(scope='module')
def uncached(loaded, folder):
    """Loaded as a user's script does."""
    return ReferenceDecoder(*tiny_qwen.load(folder), MAX_PIXELS, loaded.preprocessor, OPENING,
                            ASKED)


def make_engine(loaded, **options) -> Engine:
    return Engine(loaded.model, loaded.tokenizer, EngineOptions(
        max_pixels=MAX_PIXELS, preprocessor=loaded.preprocessor, **options))


@pytest.fixture
def engine(loaded):
    return make_engine(loaded)


def make_image(seed: int, size: tuple[int, int] = SIZES[0]) -> ImageInput:
    return ImageInput(('camera', seed), np.random.default_rng(seed).integers(
        0, 255, (*size, 3), dtype=np.uint8))


def build_form(engine: Engine):
    return engine.tokenizer.build_format(ReplyTemplate(), CoordinateFormat.RELATIVE_1000, 3)


def answer(engine, images, questions):
    return [(reply.numbers, reply.tokens) for reply, _ in engine.decode_greedy(
        images, questions, build_form(engine))]


def answer_uncached(uncached, engine, images, questions):
    return [uncached.decode_greedy([image.rgb for image in images], question, build_form(engine))
            for question in questions]


@pytest.mark.parametrize('size', SIZES, ids=str)
def test_answers_are_those_of_uncached_decoding_also_of_the_second_click(engine, uncached, size):
    images = make_image(1, size), make_image(2, SIZES[1])
    expected = answer_uncached(uncached, engine, images, QUESTIONS[:2])
    assert answer(engine, images, QUESTIONS[:1]) == expected[:1]
    passes, encodes = engine.passes, engine.vision_encodes
    assert answer(engine, images, QUESTIONS[1:2]) == expected[1:]  # on the cached pair
    assert engine.passes - passes <= 6
    assert engine.vision_encodes == encodes == 2


def test_packed_clicks_are_answered_as_uncached_and_differ(engine, uncached):
    images = make_image(3), make_image(4)
    found = answer(engine, images, QUESTIONS)
    assert found == answer_uncached(uncached, engine, images, QUESTIONS)
    assert len({numbers for numbers, _ in found}) > 1  # or a constant would be compared with itself
    assert found != answer(engine, (make_image(3), make_image(5)), QUESTIONS)


def test_a_camera_that_moved_is_encoded_alone_and_its_pair_answered_as_uncached(engine, uncached):
    still, moved = make_image(1), make_image(5)
    answer(engine, (still, make_image(2)), QUESTIONS[:1])
    for pair in ((still, moved), (moved, still)):
        assert answer(engine, pair, QUESTIONS[:1]) == answer_uncached(
            uncached, engine, pair, QUESTIONS[:1])
    assert engine.vision_encodes == 3


def test_one_image_answers_an_instruction_and_free_replies_are_those_of_generate(engine, uncached):
    image, question = make_image(1), build_grounding_prompt('the drawer handle')
    assert answer(engine, (image,), [question]) == answer_uncached(
        uncached, engine, (image,), [question])
    pair = image, make_image(2)
    expected = uncached.generate([each.rgb for each in pair], QUESTIONS[0], 16)
    found = list(engine.generate(pair, QUESTIONS[0], 16).tokens)
    assert found == [t for t in expected if t not in engine.tokenizer.eos_tokens][:len(found)]
    assert len(found) >= min(16, len(expected) - 1)


def test_the_distribution_is_that_of_brute_force(loaded, uncached):
    engine = make_engine(loaded, beam=BeamOptions(beam_width=1000, x_candidates=1, min_prob=0.0))
    images, form = (make_image(1), make_image(2)), build_form(engine)
    (found, *_), = engine.decode_distributions(images, QUESTIONS[1:2], form)
    assert found.p_x.sum() == pytest.approx(1.0, abs=1e-5)
    for value in (7, 512, int(found.p_x.argmax())):
        assert found.p_x[value] == pytest.approx(uncached.compute_probability(
            [image.rgb for image in images], QUESTIONS[1], form, value), rel=1e-3, abs=1e-9)


def test_deepstack_features_matter_here(loaded, engine, monkeypatch):
    """Or the tests above would not show that they reach the layers."""
    images = make_image(3), make_image(4)
    before, form = answer(engine, images, QUESTIONS), build_form(engine)
    decoder = type(engine.decoder)
    original = decoder.prefill
    monkeypatch.setattr(decoder, 'prefill', lambda self, embedded, positions, deepstack=():
                        original(self, embedded, positions))
    without = make_engine(loaded)
    spreads = [e.decode_distributions(images, QUESTIONS[:1], form)[0][0].p_x
               for e in (engine, without)]
    assert before != answer(without, images, QUESTIONS) or abs(spreads[0] - spreads[1]).max() > 1e-3


# --- the checkpoint's own files

def test_the_preprocessor_is_the_checkpoints_own(loaded, folder, tmp_path):
    assert loaded.preprocessor.patch_px == 16
    assert loaded.preprocessor.mean == loaded.preprocessor.std == (0.5, 0.5, 0.5)
    assert loaded.preprocessor.min_pixels == 65536
    copy = shutil.copytree(folder, tmp_path / 'copy')
    path = copy / 'preprocessor_config.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | {
        'image_mean': [0.1, 0.2, 0.3], 'min_pixels': 4096, 'max_pixels': 40960}))
    found = checkpoint.read_preprocessor(copy)
    assert (found.mean, found.min_pixels, found.max_pixels) == ((0.1, 0.2, 0.3), 4096, 40960)
    path.rename(copy / 'processor_config.json')  # as transformers 5 saves it
    nested = copy / 'processor_config.json'
    nested.write_text(json.dumps({'image_processor': json.loads(nested.read_text())}))
    assert checkpoint.read_preprocessor(copy) == found


def test_a_preprocessor_of_another_checkpoint_is_refused(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / 'copy')
    path = copy / 'preprocessor_config.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | {'patch_size': 14}))
    with pytest.raises(ValueError, match='the preprocessor has patch_size 14, the model 16'):
        checkpoint.load_checkpoint(str(copy), '', 'cpu', 'float32')


def test_a_cap_below_the_least_that_the_model_takes_is_refused(loaded):
    with pytest.raises(ValueError, match='max_pixels must be 65536 or more'):
        EngineOptions(max_pixels=4096, preprocessor=loaded.preprocessor)


def test_the_system_message_and_an_empty_thought_are_by_the_chat_template(loaded, folder, tmp_path):
    assert make_engine(loaded).tokenizer.prompt_header == OPENING
    assert make_engine(loaded).tokenizer.reply_header == ASKED
    copy = shutil.copytree(folder, tmp_path / 'copy')
    thinks = tiny_qwen.TEMPLATE.replace('assistant\n{% endif %}', 'assistant\n<think>\n{% endif %}')
    (copy / 'chat_template.json').write_text(json.dumps({'chat_template': thinks}))
    path = copy / 'tokenizer_config.json'
    path.write_text(json.dumps({name: value for name, value in json.loads(path.read_text()).items()
                                if name != 'chat_template'}))
    tokenizer = make_engine(checkpoint.load_checkpoint(str(copy), '', 'cpu', 'float32')).tokenizer
    assert tokenizer.prompt_header == (
        '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n')
    assert tokenizer.reply_header == ASKED + '<think>\n\n</think>\n\n'


@pytest.mark.parametrize(('config', 'words'), [
    ({'architectures': ['Qwen3_5ForConditionalGeneration'], 'vision_config': {}}, 'recurrent'),
    ({'architectures': ['Next'], 'vision_config': {}, 'text_config': {
        'layer_types': ['linear_attention', 'full_attention']}}, 'recurrent'),
    ({'architectures': ['Molmo2ForConditionalGeneration'], 'vision_config': {}}, 'grounding'),
    ({'architectures': ['LlavaForConditionalGeneration'], 'vision_config': {}}, 'Llava')])
def test_what_the_engine_cannot_run_is_refused_by_name_with_what_to_use(
        folder, tmp_path, config, words):
    copy = shutil.copytree(folder, tmp_path / 'copy')
    (copy / 'config.json').write_text(json.dumps(config))
    with pytest.raises(ValueError, match=words) as refused:
        checkpoint.load_checkpoint(str(copy), '', 'cpu', 'float32')
    assert config['architectures'][0] in str(refused.value)
    assert 'use cropond_remote' in str(refused.value)


def test_experts_in_four_bits_are_refused(folder, family):
    if family == tiny_qwen.QWEN3_MOE:
        with pytest.raises(ValueError, match='4bit leaves the experts'):
            checkpoint.load_checkpoint(str(folder), '', 'cpu', '4bit')
