"""Passes of fixed shape: what a GPU records, run here unrecorded, for this machine has none."""
from __future__ import annotations

import numpy as np
import pytest
import tiny_qwen
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from crosspoint_ros.matchers.cropond.engine.cuda_graphs import (
    LENGTH_BUCKETS,
    CapturedStep,
    CudaGraphRunner,
)
from crosspoint_ros.matchers.cropond.engine.decoder import Decoder
from crosspoint_ros.matchers.cropond.engine.engine import Engine, EngineOptions
from crosspoint_ros.matchers.cropond.engine.kv_cache import StaticKVCache
from crosspoint_ros.matchers.cropond.engine.token_tree import ROOT, TokenTree
from crosspoint_ros.matchers.cropond.image_processor import ImageInput
from crosspoint_ros.matchers.cropond.prompt import (
    CoordinateFormat,
    ReplyTemplate,
    build_pointing_prompt,
)

torch.set_num_threads(1)
PREFIX = 9


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tiny_qwen.build(tmp_path_factory.mktemp('tiny'))


@pytest.fixture(scope='module')
def model(folder):
    return tiny_qwen.load(folder)[0]


def arena_of(model, room: int) -> StaticKVCache:
    weight = model.get_input_embeddings().weight
    return StaticKVCache(model.model.language_model.config, room, weight.dtype, weight.device)


def prefilled(model, room: int, fixed: bool) -> Decoder:
    """A decoder behind whose prefix steps can be run."""
    arena = arena_of(model, room)
    decoder = Decoder(model, arena, CudaGraphRunner(model, arena, capture=False) if fixed else None)
    with torch.inference_mode():
        decoder.prefill(decoder.embed(range(PREFIX)), torch.arange(PREFIX).expand(3, -1))
    return decoder


def grown(decoder: Decoder, lengths: list[int]) -> list[np.ndarray]:
    """Hidden states of forks of these sizes, grown one below the other."""
    tree, parent, states = TokenTree(), ROOT, []
    for length in lengths:
        step = tree.extend([7 + n for n in range(length)], [parent] * length)
        with torch.inference_mode():
            states.append(decoder.run_step(step, PREFIX, PREFIX).numpy())
        parent = len(tree) - 1
    return states


@pytest.mark.parametrize('room', [100, 1024, 1500])
def test_padding_and_the_rest_of_the_arena_change_nothing(model, room):
    lengths = [3, 1, 5, 16, 17]
    plain = grown(prefilled(model, room, False), lengths)
    for expected, found in zip(plain, grown(prefilled(model, room, True), lengths), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_pass_attends_to_as_much_of_the_arena_as_is_in_use(model):
    decoder = prefilled(model, 4096, True)
    grown(decoder, [3, 100])
    assert set(decoder._graph_runner._captured) == {(4, 1024), (128, 1024)}


def test_a_step_too_long_for_a_recording_runs_in_its_own_shape(model):
    lengths = [LENGTH_BUCKETS[-1] + 1, 2]
    plain, fixed = (grown(prefilled(model, 512, kind), lengths) for kind in (False, True))
    for expected, found in zip(plain, fixed, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)


class Calls(TorchDispatchMode):
    """Notes the operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


# What waits for the device, or takes a shape from its values, cannot be recorded.
UNRECORDABLE = {'_local_scalar_dense', 'item', 'nonzero', 'masked_select', 'unique', 'lift_fresh',
                'is_nonzero', 'equal'}


def test_nothing_in_a_pass_waits_for_the_device(model):
    arena = arena_of(model, 64)
    step = CapturedStep(model, arena, 4, 64, None)
    with torch.inference_mode(), Calls() as calls:
        step.forward()
    assert 'index_copy_' in calls.names
    assert calls.names & UNRECORDABLE == set()


def test_half_precision_agrees_with_full_in_what_is_likely(folder):
    """bfloat16 is what a GPU runs: near ties may fall the other way, probabilities hardly move."""
    model, tokenizer = tiny_qwen.load(folder)
    rng = np.random.default_rng(0)
    images = tuple(ImageInput(name, rng.integers(0, 255, (120, 160, 3), dtype=np.uint8))
                     for name in 'ab')
    questions = [build_pointing_prompt('512', '307'), build_pointing_prompt('88', '615')]
    spreads = []
    for dtype in (torch.float32, torch.bfloat16):
        engine = Engine(model.to(dtype), tokenizer, EngineOptions(
            max_pixels=100 * 28 * 28, static_shapes=True))
        form = engine.tokenizer.build_format(ReplyTemplate(), CoordinateFormat.RELATIVE_1000, 3)
        spreads.append([s for s, *_ in engine.decode_distributions(images, questions, form)])
    for full, half in zip(*spreads, strict=True):
        assert half.p_x.dtype == np.float64
        # Hundreds of x, distinguished by their first digit.
        first = [p.p_x.reshape(10, 100).sum(axis=1) for p in (full, half)]
        np.testing.assert_allclose(first[1], first[0], atol=0.15)
