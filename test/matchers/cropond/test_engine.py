"""The engine says, token for token, what uncached, unpacked decoding says, and in fewer passes."""
from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import tiny_qwen
import torch
from reference_decoder import ReferenceDecoder

from crosspoint_ros.core.datatypes import Code, Rejected
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
MAX_PIXELS = 100 * 28 * 28
CLICKS = [(7, 903), (512, 307), (0, 0), (999, 40), (88, 615), (345, 12)]
QUESTIONS = [build_pointing_prompt(str(x), str(y)) for x, y in CLICKS]
NO_PRUNING = BeamOptions(beam_width=1000, x_candidates=1, min_prob=0.0)
SIZES = [(56, 84), (120, 160), (100, 60), (300, 400)]  # the last is shrunk to the cap


@pytest.fixture(scope='module')
def loaded(tmp_path_factory):
    return tiny_qwen.load(tiny_qwen.build(tmp_path_factory.mktemp('tiny')))


@pytest.fixture(scope='module')
def uncached(loaded):
    return ReferenceDecoder(*loaded, MAX_PIXELS)


def engine_of(loaded, **options) -> Engine:
    return Engine(*loaded, EngineOptions(**{'max_pixels': MAX_PIXELS} | options))


@pytest.fixture
def engine(loaded):
    return engine_of(loaded)


def make_image(seed: int, size: tuple[int, int] = (120, 160)) -> ImageInput:
    return ImageInput(('camera', seed), np.random.default_rng(seed).integers(
        0, 255, (*size, 3), dtype=np.uint8))


def form_of(engine: Engine, digits: int = 3,
            convention: CoordinateFormat = CoordinateFormat.RELATIVE_1000):
    return engine.tokenizer.build_format(ReplyTemplate(), convention, digits)


def answers(engine, images, questions, form):
    return [(g.numbers, g.tokens) for g, _ in engine.decode_greedy(images, questions, form)]


def decode_uncached(uncached, images, questions, form):
    return [uncached.decode_greedy([p.rgb for p in images], q, form) for q in questions]


@pytest.mark.parametrize('size', SIZES, ids=str)
def test_greedy_answers_are_those_of_uncached_decoding(engine, uncached, size):
    images = make_image(1, size), make_image(2, SIZES[1])
    form = form_of(engine)
    expected = decode_uncached(uncached, images, QUESTIONS[:3], form)
    assert [answers(engine, images, [q], form)[0] for q in QUESTIONS[:3]] == expected


def test_different_clicks_get_different_answers(engine):
    """Or the tests here would compare a constant with itself."""
    images = make_image(1), make_image(2)
    found = answers(engine, images, QUESTIONS, form_of(engine))
    other = answers(engine, (make_image(1), make_image(3)), QUESTIONS, form_of(engine))
    assert len({numbers for numbers, _ in found}) >= 3
    assert found != other


def test_clicks_packed_in_one_pass_are_answered_as_alone(engine, uncached):
    images, form = (make_image(3), make_image(4)), form_of(engine)
    packed = answers(engine, images, QUESTIONS, form)
    assert packed == [answers(engine, images, [q], form)[0] for q in QUESTIONS]
    assert packed == decode_uncached(uncached, images, QUESTIONS, form)


def test_four_digits_and_fractions_have_their_own_grammar(engine, uncached):
    images = make_image(3), make_image(4)
    form = form_of(engine, 4, CoordinateFormat.ABSOLUTE)
    assert answers(engine, images, QUESTIONS[:2], form) == decode_uncached(
        uncached, images, QUESTIONS[:2], form)
    fraction = form_of(engine, 3, CoordinateFormat.RELATIVE_1)
    assert engine.tokenizer.decode(fraction.before).endswith('[0.')
    whole = engine_of(engine_parts(engine), beam=NO_PRUNING)
    (spread, *_), = whole.decode_distributions(images, QUESTIONS[:1], fraction)
    assert spread.p_x.sum() == pytest.approx(1.0, abs=1e-5)
    assert len(spread.p_x) == 1000


def engine_parts(engine):
    """The model and tokenizer that an engine was made of."""
    return engine._prefix_cache._model, engine.tokenizer._tokenizer


def test_interleaved_and_forgotten_frame_pairs_stay_apart(loaded, uncached):
    engine = engine_of(loaded, max_pairs=2)
    form = form_of(engine)
    pairs = [(make_image(i), make_image(j)) for i, j in ((1, 2), (2, 1), (1, 3), (4, 3), (1, 1))]
    expected = [decode_uncached(uncached, pair, QUESTIONS[:1], form) for pair in pairs]
    for number in (0, 1, 0, 2, 3, 4, 1, 0, 3):
        assert answers(engine, pairs[number], QUESTIONS[:1], form) == expected[number], number


def test_a_camera_that_moved_is_encoded_alone(engine, uncached):
    form, still = form_of(engine), make_image(1)
    engine.prefill((still, make_image(2)))
    assert engine.vision_encodes == 2
    passes = engine.passes
    moved = make_image(5)
    assert answers(engine, (still, moved), QUESTIONS[:1], form) == decode_uncached(
        uncached, (still, moved), QUESTIONS[:1], form)
    assert engine.vision_encodes == 3
    assert engine.passes - passes <= 1 + 6
    assert answers(engine, (moved, still), QUESTIONS[:1], form) == decode_uncached(
        uncached, (moved, still), QUESTIONS[:1], form)
    assert engine.vision_encodes == 3


def test_another_image_under_the_same_key_is_another_image(engine, uncached):
    form, first, second = form_of(engine), make_image(1), make_image(2)
    answers(engine, (first, second), QUESTIONS[:1], form)
    changed = ImageInput(second.key, make_image(6).rgb)
    assert answers(engine, (first, changed), QUESTIONS[:1], form) == decode_uncached(
        uncached, (first, changed), QUESTIONS[:1], form)


def test_one_image_answers_an_instruction(engine, uncached):
    form, asked = form_of(engine), build_grounding_prompt('the drawer handle')
    engine.prefill((make_image(1), make_image(2)))
    assert answers(engine, (make_image(1),), [asked], form) == decode_uncached(
        uncached, (make_image(1),), [asked], form)


def test_a_click_on_a_known_pair_takes_six_passes_at_most(engine):
    images, form = (make_image(1), make_image(2)), form_of(engine)
    engine.prefill(images)
    for ask in (engine.decode_greedy, engine.decode_distributions):
        for question in QUESTIONS:
            before = engine.passes
            ask(images, [question], form)
            assert engine.passes - before <= 6


def test_spreads_sum_to_one_and_match_brute_force(loaded, uncached):
    engine = engine_of(loaded, beam=NO_PRUNING)
    images, form = (make_image(1), make_image(2)), form_of(engine)
    (spread, *_), = engine.decode_distributions(images, QUESTIONS[1:2], form)
    assert spread.p_x.sum() == pytest.approx(1.0, abs=1e-5)
    assert spread.p_y.sum() == pytest.approx(1.0, abs=1e-5)
    arrays = [p.rgb for p in images]
    for value in (0, 7, 42, 100, 512, 999, int(spread.p_x.argmax())):
        expected = uncached.compute_probability(arrays, QUESTIONS[1], form, value)
        assert spread.p_x[value] == pytest.approx(expected, rel=1e-3, abs=1e-9)


def test_the_spread_of_y_is_that_of_the_most_probable_x(loaded, uncached):
    engine = engine_of(loaded, beam=NO_PRUNING)
    images, form = (make_image(1), make_image(2)), form_of(engine)
    form = replace(form, terminators=form.terminators[:1])
    (spread, *_), = engine.decode_distributions(images, QUESTIONS[1:2], form)
    x = str(spread.p_x.argmax())
    after_x = replace(form, between=form.terminators, before=(
        *form.before, *engine.tokenizer.encode(x), *form.between))
    arrays = [p.rgb for p in images]
    for value in (0, 42, 512, int(spread.p_y.argmax())):
        expected = uncached.compute_probability(arrays, QUESTIONS[1], after_x, value)
        assert spread.p_y[value] == pytest.approx(expected, rel=1e-3, abs=1e-9)
    assert spread.mode == (int(x), int(spread.p_y.argmax()))


@pytest.mark.parametrize('digits', [3, 4])
def test_what_the_form_leaves_out_is_weighed_by_the_whole_vocabulary(loaded, uncached, digits):
    engine = engine_of(loaded, beam=NO_PRUNING)
    images, form = (make_image(1), make_image(2)), form_of(engine)
    form = replace(form, max_digits=digits)
    (spread, first, second), = engine.decode_distributions(images, QUESTIONS[1:2], form)
    arrays, digit = [p.rgb for p in images], list(engine.tokenizer.digits)

    def next_probabilities(written):
        scores = uncached.compute_logits(arrays, QUESTIONS[1], [*form.before, *written])
        return torch.softmax(scores.double(), -1)

    x = engine.tokenizer.encode(str(spread.mode[0]))
    states = [next_probabilities((*x, *form.between[:n])) for n in range(len(form.between) + 1)]
    between = math.prod(float(s[w]) for s, w in zip(states, form.between, strict=False))
    if len(x) < digits:  # how probable its ending is among what the grammar allows is in px
        allowed = [*digit, form.between[0]]
        between /= float(states[0][form.between[0]] / states[0][allowed].sum())
    assert first.p_digit == pytest.approx(float(next_probabilities(())[digit].sum()), rel=1e-3)
    assert second.p_digit == pytest.approx(float(states[-1][digit].sum()), rel=1e-3)
    assert spread.p_format == pytest.approx(first.p_digit * between * second.p_digit, rel=1e-3)
    assert second.is_greedy is all(
        int(s.argmax()) == w for s, w in zip(states, form.between, strict=False))
    assert bool(second.preferred_token) is (int(states[-1].argmax()) not in digit)


def test_packed_spreads_are_those_of_single_questions(engine):
    images, form = (make_image(1), make_image(2)), form_of(engine)
    packed = engine.decode_distributions(images, QUESTIONS, form)
    for question, (spread, check, _) in zip(QUESTIONS, packed, strict=True):
        (alone, same, _), = engine.decode_distributions(images, [question], form)
        assert alone.mode == spread.mode
        np.testing.assert_allclose(alone.p_x, spread.p_x, atol=1e-5)
        np.testing.assert_allclose(alone.p_y, spread.p_y, atol=1e-5)
        assert check.is_greedy == same.is_greedy
        assert check.logprob == pytest.approx(same.logprob, abs=1e-3)


def test_pruned_branches_are_missing_from_the_sum(loaded):
    images = make_image(1), make_image(2)
    few = engine_of(loaded, beam=BeamOptions(beam_width=2))
    all_ = engine_of(loaded, beam=NO_PRUNING)
    form = form_of(few)
    (pruned, *_), = few.decode_distributions(images, QUESTIONS[:1], form)
    (whole, *_), = all_.decode_distributions(images, QUESTIONS[:1], form)
    assert pruned.p_x.sum() < whole.p_x.sum()
    kept = pruned.p_x > 0
    np.testing.assert_allclose(pruned.p_x[kept], whole.p_x[kept], rtol=1e-3)


def test_free_replies_are_those_of_generate(engine, uncached):
    images = make_image(1), make_image(2)
    for question in QUESTIONS[:3]:
        expected = uncached.generate([p.rgb for p in images], question, 24)
        found = list(engine.generate(images, question, 24).tokens)
        assert found == [t for t in expected if t not in engine.tokenizer.eos_tokens][:len(found)]
        assert len(found) >= min(24, len(expected) - 1)


@pytest.mark.parametrize('tokens', [1, 2, 12])
def test_a_free_reply_takes_a_pass_a_token_and_none_for_what_would_follow(engine, tokens):
    images = make_image(1), make_image(2)
    engine.prefill(images)
    before = engine.passes
    assert len(engine.generate(images, QUESTIONS[0], tokens).tokens) == tokens
    assert engine.passes - before == tokens  # the question's own pass yields the first


def test_the_template_is_greedy_only_when_the_model_would_have_written_it(engine):
    images = make_image(1), make_image(2)
    own = engine.generate(images, QUESTIONS[0], 6).tokens
    form = form_of(engine)
    for before, expected in ((own, True), (form.before, False)):
        forced = type(form)(tuple(before), form.between, form.terminators, form.max_digits)
        (_, check, _), = engine.decode_distributions(images, QUESTIONS[:1], forced)
        assert check.is_greedy is expected
    assert check.logprob < -1.0


def test_half_precision_agrees_with_full_in_what_is_likely(tmp_path):
    """bfloat16 is what a GPU runs: near ties may fall the other way, probabilities hardly move."""
    model, tokenizer = tiny_qwen.load(tiny_qwen.build(tmp_path / 'tiny'))
    images = make_image(1), make_image(2)
    full, half = ([spread for spread, *_ in engine.decode_distributions(
        images, QUESTIONS[:2], form_of(engine))] for engine in (
            engine_of((model.to(dtype), tokenizer)) for dtype in (torch.float32, torch.bfloat16)))
    for exact, rounded in zip(full, half, strict=True):
        assert rounded.p_x.dtype == np.float64
        # Hundreds of x, distinguished by their first digit.
        first = [p.p_x.reshape(10, 100).sum(axis=1) for p in (exact, rounded)]
        np.testing.assert_allclose(first[1], first[0], atol=0.15)


@pytest.mark.parametrize('ask', ['decode_greedy', 'decode_distributions', 'generate'])
def test_not_a_number_is_refused(tmp_path, ask):
    model, tokenizer = tiny_qwen.load(tiny_qwen.build(tmp_path / 'tiny'))
    with torch.no_grad():
        model.model.language_model.norm.weight.fill_(math.nan)
    engine = engine_of((model, tokenizer))
    arguments = QUESTIONS[0] if ask == 'generate' else QUESTIONS[:1]
    extra = () if ask == 'generate' else (form_of(engine),)
    with pytest.raises(Rejected, match='NaN or infinity') as refused:
        getattr(engine, ask)((make_image(1), make_image(2)), arguments, *extra)
    assert refused.value.code == Code.MATCHER_FAILED


def test_more_than_the_arena_holds_is_refused_and_the_next_click_works(loaded, uncached):
    engine = engine_of(loaded, question_tokens=20)
    images, form = (make_image(1), make_image(2)), form_of(engine)
    with pytest.raises(Rejected, match='do not fit in 220'):
        engine.decode_greedy(images, QUESTIONS, form)
    assert answers(engine, images, QUESTIONS[:1], form) == decode_uncached(
        uncached, images, QUESTIONS[:1], form)


def test_more_questions_than_may_be_packed_are_answered_in_turns(loaded, engine):
    images, form = (make_image(1), make_image(2)), form_of(engine)
    turns = engine_of(loaded, max_questions=4)
    turns.prefill(images)
    before = turns.passes
    assert answers(turns, images, QUESTIONS, form) == answers(engine, images, QUESTIONS, form)
    assert turns.passes - before > 6


def test_the_model_attends_as_before_when_others_use_it(loaded, engine):
    config = loaded[0].model.language_model.config
    before = config._attn_implementation
    engine.prefill((make_image(1), make_image(2)))
    assert config._attn_implementation == before
