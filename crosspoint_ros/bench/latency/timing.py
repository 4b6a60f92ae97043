"""Ways to answer a click, timed in turns so that a machine's mood meets all of them alike."""
from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from crosspoint_ros.core.datatypes import (
    Code,
    Rejected,
    View,
)

# What an image may be answered with; any other refusal means that nothing was measured.
VALID_REFUSALS = (Code.NOT_VISIBLE, Code.LOW_CONFIDENCE, Code.INCONSISTENT)


@dataclass(frozen=True)
class Variant:
    """One way: `answer(frames, seed)` answers so many clicks at once; refusals are among them."""

    name: str
    answer: Callable[[FrameSet, int], Sequence[object]]
    clicks: int = 1


class Device(Protocol):
    """What runs a model: when it is done, and how many forward passes it has run."""

    @property
    def passes(self) -> int:
        """How many there have been."""
        ...

    def wait(self) -> None:
        """Return when the device has done what it was given."""
        ...


@dataclass
class Timing:
    """What a way took, s a click, one entry a round; CPU time is that of all threads.

    passes: how many forward passes all its clicks took, the last time; None where nobody counts.
    """

    name: str
    clicks: int
    cpu_s: list[float] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)
    passes: int | None = None
    refusals: Counter[str] = field(default_factory=Counter)

    @property
    def cpu_ms(self) -> tuple[float, float, float]:
        """Median, least and most CPU time a click."""
        return summarize_ms(self.cpu_s)

    @property
    def wall_ms(self) -> tuple[float, float, float]:
        """Median, least and most wall time a click."""
        return summarize_ms(self.wall_s)


def summarize_ms(durations_s: Sequence[float]) -> tuple[float, float, float]:
    """Return median, least and most, ms."""
    return (1e3 * statistics.median(durations_s), 1e3 * min(durations_s), 1e3 * max(durations_s))


def compute_speedup(slow: Timing, fast: Timing, by_cpu: bool) -> float:
    """How many times faster: the median over the rounds of the ratio within a round."""
    spells = zip(*((t.cpu_s if by_cpu else t.wall_s) for t in (slow, fast)), strict=True)
    return statistics.median(a / b for a, b in spells)


def time_variants(variants: Sequence[Variant], draw_frames: Callable[[int], FrameSet], rounds: int, warm_up: int,
         device: Device | None = None) -> list[Timing]:
    """Run every way in each round, on that round's frames; those of the warm-up do not count.

    Raises ValueError where a way fails.
    """
    taken = [Timing(way.name, way.clicks) for way in variants]
    for number in range(warm_up + rounds):
        frames = draw_frames(number)
        for seed, (way, figures) in enumerate(zip(variants, taken, strict=True)):
            once = _time_once(way, frames, len(variants) * number + seed, device)
            if number >= warm_up:
                figures.cpu_s += once.cpu_s
                figures.wall_s += once.wall_s
                figures.passes = once.passes
                figures.refusals += once.refusals
    return taken


def _time_once(variant: Variant, frames: FrameSet, seed: int, device: Device | None) -> Timing:
    before = device.passes if device else 0
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    try:
        answers = variant.answer(frames, seed)
    except Rejected as rejected:
        raise ValueError(f'{variant.name}: {rejected.message} ({rejected.code.name})') from rejected
    if device:
        device.wait()
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    refused = [answer for answer in answers if isinstance(answer, Rejected)]
    failed = next((refusal for refusal in refused if refusal.code not in VALID_REFUSALS), None)
    if failed:
        raise ValueError(f'{variant.name}: {failed.message} ({failed.code.name})')
    return Timing(variant.name, variant.clicks, [cpu_s / variant.clicks], [wall_s / variant.clicks],
                 device.passes - before if device else None,
                 Counter(refusal.code.name for refusal in refused))


@dataclass(frozen=True)
class FrameSet:
    """What one round of a benchmark asks about: a new pair, then with one camera moved on."""

    pair: tuple[View, View]
    other_moved: tuple[View, View]
    clicked_moved: tuple[View, View]
