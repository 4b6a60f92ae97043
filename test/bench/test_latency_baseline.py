"""What `crosspoint bench latency` compares is one model, asked in two ways: here a random one."""
from __future__ import annotations

import json

import needs_torch  # noqa: F401
import numpy as np
import pytest
import torch
from reference_decoder import ReferenceDecoder
from transformers import Qwen2_5_VLConfig

from crosspoint_ros import cli
from crosspoint_ros.bench.latency import dummy_model
from crosspoint_ros.bench.latency.baseline import ModelVariants
from crosspoint_ros.bench.latency.cases import (
    BASELINE,
    BASELINE_SHORT,
    BATCH,
    BATCH_GREEDY,
    CLICKED_MOVED,
    FIRST_CLICK,
    NEXT_CLICK,
    NEXT_CLICK_GREEDY,
    OTHER_MOVED,
    SHAPES,
    build_config,
    build_variants,
    draw_frames,
    sample_queries,
)
from crosspoint_ros.bench.latency.cli import DUMMY_OPTIONS, build_matcher
from crosspoint_ros.bench.latency.roofline import DeviceMeter
from crosspoint_ros.bench.latency.timing import time_variants
from crosspoint_ros.matchers.cropond.engine import checkpoint, memory
from crosspoint_ros.matchers.cropond.prompt import build_pointing_prompt

torch.set_num_threads(1)
HERE = {'device': 'cpu', 'max_pixels': 20 * 28 * 28}


@pytest.fixture(scope='module')
def matcher():
    return build_matcher('cropond', HERE, 'tiny')


@pytest.fixture
def compared(matcher):
    return ModelVariants(matcher)


@pytest.fixture(scope='module')
def query():
    (one,) = sample_queries(draw_frames(0, 160, 120).pair, 1, 0)
    return one


def test_the_authors_way_says_what_uncached_decoding_says(matcher, compared, query):
    loaded = matcher.checkpoint
    plain = ReferenceDecoder(loaded.model, loaded.tokenizer, HERE['max_pixels'])
    x, y = (str(int(n)) for n in np.rint(query.pixel * 1000 / (160, 120)))
    images = [query.clicked.image, query.other.image]
    written: list[int] = []
    for _ in range(6):
        logits = plain.compute_logits(images, build_pointing_prompt(x, y), written)
        written.append(int(logits.argmax()))
    assert compared.generate_baseline(query, 6) == written


def test_both_ways_say_the_same_when_nothing_is_forced(compared, query):
    free = compared.generate(query, 12)
    assert free == compared.generate_baseline(query, 12)[:len(free)]
    assert len(free) > 2


def test_the_penalty_of_a_checkpoint_does_not_change_the_authors_reply(matcher, compared, query,
                                                                       monkeypatch):
    before = compared.generate_baseline(query, 12)
    monkeypatch.setattr(matcher.checkpoint.model.generation_config, 'repetition_penalty', 5.0)
    assert compared.generate_baseline(query, 12) == before


def test_the_authors_way_writes_as_many_tokens_as_asked_even_past_an_end(matcher, compared, query,
                                                                         monkeypatch):
    first = compared.generate_baseline(query, 1)[0]
    monkeypatch.setattr(matcher.checkpoint.model.generation_config, 'eos_token_id', first)
    assert len(compared.generate_baseline(query, 9)) == 9


def test_a_click_on_a_known_pair_takes_six_passes_at_most_and_a_moved_camera_its_own(matcher,
                                                                                     compared):
    taken = time_variants(build_variants(matcher, compared),
                          lambda n: draw_frames(n, 160, 120), 1, 1, compared)
    passes = {t.name: t.passes for t in taken}
    assert (passes[BASELINE], passes[BASELINE_SHORT]) == (30, 20)
    assert max(passes[n] for n in (NEXT_CLICK, NEXT_CLICK_GREEDY, BATCH, BATCH_GREEDY)) <= 6
    assert passes[OTHER_MOVED] <= 6 + 1 < passes[CLICKED_MOVED] + 1 <= passes[FIRST_CLICK] + 1
    # What drawn weights would say first need not be a number, which is then no answer.
    assert {code for t in taken for code in t.refusals} <= {'NOT_VISIBLE'}


def test_in_both_transformers_a_shape_has_the_weights_of_the_published_models():
    tokenizer = dummy_model.train_tokenizer()
    count = {name: dummy_model.count_params(Qwen2_5_VLConfig.from_dict(build_config(
        SHAPES[name], tokenizer.get_vocab_size(), dummy_model.get_special_ids(tokenizer))))
        for name in ('3b', '7b')}
    assert count == {'3b': 3_754_622_976, '7b': 8_292_166_656}  # as the hub's own pages say


def test_random_weights_are_in_their_number_format_from_the_start():
    model = dummy_model.build_dummy_checkpoint('tiny', 'cpu', 'bfloat16').model
    assert [n for n, w in model.named_parameters() if w.dtype is not torch.bfloat16] == []
    assert model.model.language_model.rotary_emb.inv_freq.dtype == torch.float32
    assert torch.get_default_dtype() == torch.float32


def test_a_shape_that_does_not_fit_is_refused_with_need_and_free_memory(monkeypatch, capsys):
    monkeypatch.setattr(memory, 'get_free_bytes', lambda device: 2_000_000_000)
    assert cli.main(['bench', 'latency', '--random-weights', '7b', '--option', 'device=cpu']) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert 'needs about 37.0 GB on cpu, 2.0 GB are free' in line


@pytest.mark.parametrize(('name', 'weights', 'said'), [
    ('tiny', '4bit', 'made from a checkpoint'), ('5b', 'auto', "no shape '5b'; known: 3b")])
def test_what_cannot_be_drawn_is_refused(name, weights, said):
    with pytest.raises(ValueError, match=said):
        dummy_model.build_dummy_checkpoint(name, 'cpu', weights)


def test_a_pass_reads_the_layers_of_the_text_model_and_no_embedding(matcher):
    shape = SHAPES['tiny']
    size = shape.hidden // shape.heads * shape.kv_heads
    attention = 2 * shape.hidden ** 2 + 2 * shape.hidden * size + shape.hidden + 2 * size
    layer = attention + 3 * shape.hidden * shape.inner + 2 * shape.hidden
    gauge = DeviceMeter(matcher.checkpoint.model)
    assert gauge.bytes_per_pass == 4 * (shape.layers * layer + shape.hidden)
    assert gauge.measure_bandwidth() > 1e8
    assert gauge.peak_bytes > gauge.bytes_per_pass


def test_the_command_prints_a_table_a_size_with_ratios_and_writes_all_figures(tmp_path, capsys):
    out = tmp_path / 'out.json'
    words = f'bench latency --random-weights tiny --rounds 1 --size 96x64 --size 64x96 --json {out}'
    assert cli.main([*words.split(), '--option', 'device=cpu', '--option', 'max_pixels=4000']) == 0
    told = capsys.readouterr().out
    for part in ('96x64', '64x96', 'vs 30', f'transformers {checkpoint.transformers.__version__}',
                 '1 threads of PyTorch', 'text model 2 layers of 64', 'peak memory'):
        assert part in told
    sizes = json.loads(out.read_text())['sizes']
    assert [len(rows) for rows in sizes.values()] == [10, 10]


def test_options_given_hold_against_those_for_random_weights():
    with pytest.raises(ValueError, match='self-test'):
        build_matcher('cropond', {**HERE, 'self_test': True}, 'tiny')
    assert DUMMY_OPTIONS['self_test'] is False
