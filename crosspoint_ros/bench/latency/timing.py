"""Interleaved timing, so load and clock changes affect all variants equally."""
from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tqdm import tqdm

from crosspoint_ros.core.datatypes import Code, Rejected, View

if TYPE_CHECKING:
    from crosspoint_ros.bench.latency.baseline import ModelVariants

# Valid answers to an image; any other refusal means that nothing was measured.
VALID_REFUSALS = (Code.NOT_VISIBLE, Code.LOW_CONFIDENCE, Code.INCONSISTENT)


@dataclass(frozen=True)
class FrameSet:
    """The views of one round: a new pair, then with one camera moved, then the other."""

    pair: tuple[View, View]
    other_moved: tuple[View, View]
    clicked_moved: tuple[View, View]


@dataclass(frozen=True)
class Variant:
    """A way to answer clicks: `answer(frames, seed)` returns an answer or refusal for each."""

    name: str
    answer: Callable[[FrameSet, int], Sequence[object]]
    clicks: int = 1


@dataclass
class Timing:
    """The time per click of a variant, s, an entry per round; CPU time is that of all threads.

    passes: forward passes of its clicks in the last round; None if unknown.
    """

    name: str
    clicks: int
    cpu_s: list[float] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)
    passes: int | None = None
    refusals: Counter[str] = field(default_factory=Counter)

    @property
    def cpu_ms(self) -> tuple[float, float, float]:
        """Median, least and most CPU time per click."""
        return summarize_ms(self.cpu_s)

    @property
    def wall_ms(self) -> tuple[float, float, float]:
        """Median, least and most wall time per click."""
        return summarize_ms(self.wall_s)


def summarize_ms(durations_s: Sequence[float]) -> tuple[float, float, float]:
    """Return median, least and most, ms."""
    return 1e3 * statistics.median(durations_s), 1e3 * min(durations_s), 1e3 * max(durations_s)


def compute_speedup(slow: Timing, fast: Timing, by_cpu: bool) -> float:
    """Return the median over the rounds of the ratio within a round."""
    durations = zip(*((t.cpu_s if by_cpu else t.wall_s) for t in (slow, fast)), strict=True)
    return statistics.median(a / b for a, b in durations)


def time_variants(variants: Sequence[Variant], draw_frames: Callable[[int], FrameSet],
                  rounds: int, warm_up: int, device: ModelVariants | None = None) -> list[Timing]:
    """Run every variant in each round on that round's frames; warm-up rounds are not timed.

    Raises ValueError if a variant fails.
    """
    timings = [Timing(variant.name, variant.clicks) for variant in variants]
    for number in tqdm(range(warm_up + rounds), unit='round', disable=None):
        frames = draw_frames(number)
        for seed, (variant, timing) in enumerate(zip(variants, timings, strict=True)):
            once = _time_once(variant, frames, len(variants) * number + seed, device)
            if number >= warm_up:
                timing.cpu_s += once.cpu_s
                timing.wall_s += once.wall_s
                timing.passes = once.passes
                timing.refusals += once.refusals
    return timings


def _time_once(variant: Variant, frames: FrameSet, seed: int, device: ModelVariants | None
               ) -> Timing:
    passes = device.passes if device else 0
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    try:
        answers = variant.answer(frames, seed)
    except Rejected as error:
        raise ValueError(f'{variant.name}: {error.message} ({error.code.name})') from error
    if device:
        device.wait()
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    refusals = [answer for answer in answers if isinstance(answer, Rejected)]
    if failure := next((each for each in refusals if each.code not in VALID_REFUSALS), None):
        raise ValueError(f'{variant.name}: {failure.message} ({failure.code.name})')
    return Timing(variant.name, variant.clicks, [cpu_s / variant.clicks],
                  [wall_s / variant.clicks], device.passes - passes if device else None,
                  Counter(refusal.code.name for refusal in refusals))
