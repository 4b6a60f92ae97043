"""A checkpoint in 4 bits answers what its weights decode to uncached, in the memory foretold."""
from __future__ import annotations

import os

import numpy as np
import pytest

if 'CROSSPOINT_NEEDS_TORCH' not in os.environ:
    for needed in ('torch', 'transformers', 'bitsandbytes', 'accelerate'):
        pytest.importorskip(needed, reason=f'no {needed} here: make test-cropond')

import copy_qwen
import torch
from copy_qwen import view
from reference_decoder import ReferenceDecoder

from crosspoint_ros.core.datatypes import Query
from crosspoint_ros.matchers import load_matcher
from crosspoint_ros.matchers.cropond.engine.checkpoint import (
    BYTES_PER_PARAM,
    WeightFiles,
    estimate_required_bytes,
    read_weights,
)
from crosspoint_ros.matchers.cropond.image_processor import ImageInput
from crosspoint_ros.matchers.cropond.prompt import (
    CoordinateFormat,
    ReplyTemplate,
    build_pointing_prompt,
)

torch.set_num_threads(1)
MAX_PIXELS = 16 * 28 * 28
CLICKS = [(120.0, 60.0), (30.0, 140.0), (99.0, 20.0)]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return copy_qwen.build(tmp_path_factory.mktemp('copying'), shape=copy_qwen.IN_64S)


@pytest.fixture(scope='module')
def matcher(folder):
    """It takes the self-test in 4 bits, too."""
    return load_matcher('cropond', model=str(folder), device='cpu', weights='4bit',
                        max_pixels=MAX_PIXELS, allow_repeating=True)


def test_the_layers_of_the_text_model_are_in_4_bits_and_nothing_else_is(matcher):
    kinds = {name: type(part).__name__ for name, part in matcher.checkpoint.model.named_modules()
             if isinstance(part, torch.nn.Linear)}
    in_4_bits = {name for name, kind in kinds.items() if kind == 'Linear4bit'}
    assert in_4_bits == {name for name in kinds if 'language_model' in name}
    assert len(in_4_bits) == 7 * copy_qwen.IN_64S.layers
    assert {kind for name, kind in kinds.items() if name not in in_4_bits} == {'Linear'}
    assert matcher.checkpoint.model.lm_head.weight.dtype == torch.bfloat16


def test_a_taught_checkpoint_still_answers_its_clicks(matcher):
    assert matcher.describe()['weights'] == '4bit'
    clicked, other = view('a', 1), view('b', 2)
    for pixel in CLICKS:
        found = matcher.match(Query(clicked, other, np.array(pixel)))
        np.testing.assert_allclose(found.pixel, pixel, atol=1.0)


def test_it_says_what_uncached_decoding_of_the_same_weights_says(matcher):
    plain = ReferenceDecoder(matcher.checkpoint.model, matcher.checkpoint.tokenizer, MAX_PIXELS)
    images = [ImageInput(seed, view('a', seed).image) for seed in (1, 2)]
    questions = [build_pointing_prompt(str(x), str(y))
                 for x, y in ((600, 400), (151, 933), (495, 133))]
    form = matcher.engine.tokenizer.build_format(ReplyTemplate(), CoordinateFormat.RELATIVE_1000, 3)
    expected = [plain.decode_greedy([p.rgb for p in images], q, form) for q in questions]
    found = matcher.engine.decode_greedy(tuple(images), questions, form)
    assert [(greedy.numbers, greedy.tokens) for greedy, _ in found] == expected
    assert len({numbers for numbers, _ in expected}) == len(questions)


def test_the_weights_take_as_much_memory_as_was_estimated(matcher, folder):
    model = matcher.checkpoint.model
    taken = sum(w.numel() * w.element_size() for w in model.parameters()) + sum(
        part.weight.quant_state.absmax.nbytes for part in model.modules()
        if type(part).__name__ == 'Linear4bit')
    found = read_weights(folder)
    kept = found.unquantized_count
    estimated = kept * 2 + (found.param_count - kept) * BYTES_PER_PARAM['4bit']
    assert taken == pytest.approx(estimated, rel=0.02)
    nothing = estimate_required_bytes(WeightFiles((), 0, 0, 0), '4bit')
    needed = estimate_required_bytes(found, '4bit')
    assert needed - nothing == pytest.approx(1.1 * estimated, rel=0.01)
