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
HONEST = (Code.NOT_VISIBLE, Code.LOW_CONFIDENCE, Code.INCONSISTENT)


@dataclass(frozen=True)
class Way:
    """One way: `answer(frames, seed)` answers so many clicks at once; refusals are among them."""

    name: str
    answer: Callable[[Frames, int], Sequence[object]]
    clicks: int = 1


class Watched(Protocol):
    """What runs a model: when it is done, and how many forward passes it has run."""

    @property
    def passes(self) -> int:
        """How many there have been."""
        ...

    def wait(self) -> None:
        """Return when the device has done what it was given."""
        ...


@dataclass
class Taken:
    """What a way took, s a click, one entry a round; CPU time is that of all threads.

    passes: how many forward passes all its clicks took, the last time; None where nobody counts.
    """

    name: str
    clicks: int
    cpu_s: list[float] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)
    passes: int | None = None
    refused: Counter[str] = field(default_factory=Counter)

    @property
    def cpu_ms(self) -> tuple[float, float, float]:
        """Median, least and most CPU time a click."""
        return spread_ms(self.cpu_s)

    @property
    def wall_ms(self) -> tuple[float, float, float]:
        """Median, least and most wall time a click."""
        return spread_ms(self.wall_s)


def spread_ms(spells_s: Sequence[float]) -> tuple[float, float, float]:
    """Return median, least and most, ms."""
    return (1e3 * statistics.median(spells_s), 1e3 * min(spells_s), 1e3 * max(spells_s))


def ratio(slow: Taken, fast: Taken, by_cpu: bool) -> float:
    """How many times faster: the median over the rounds of the ratio within a round."""
    spells = zip(*((t.cpu_s if by_cpu else t.wall_s) for t in (slow, fast)), strict=True)
    return statistics.median(a / b for a, b in spells)


def take(ways: Sequence[Way], new_frames: Callable[[int], Frames], rounds: int, warm_up: int,
         watched: Watched | None = None) -> list[Taken]:
    """Run every way in each round, on that round's frames; those of the warm-up do not count.

    Raises ValueError where a way fails.
    """
    taken = [Taken(way.name, way.clicks) for way in ways]
    for number in range(warm_up + rounds):
        frames = new_frames(number)
        for seed, (way, figures) in enumerate(zip(ways, taken, strict=True)):
            once = _once(way, frames, len(ways) * number + seed, watched)
            if number >= warm_up:
                figures.cpu_s += once.cpu_s
                figures.wall_s += once.wall_s
                figures.passes = once.passes
                figures.refused += once.refused
    return taken


def _once(way: Way, frames: Frames, seed: int, watched: Watched | None) -> Taken:
    before = watched.passes if watched else 0
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    try:
        answers = way.answer(frames, seed)
    except Rejected as rejected:
        raise ValueError(f'{way.name}: {rejected.message} ({rejected.code.name})') from rejected
    if watched:
        watched.wait()
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    refused = [answer for answer in answers if isinstance(answer, Rejected)]
    failed = next((refusal for refusal in refused if refusal.code not in HONEST), None)
    if failed:
        raise ValueError(f'{way.name}: {failed.message} ({failed.code.name})')
    return Taken(way.name, way.clicks, [cpu_s / way.clicks], [wall_s / way.clicks],
                 watched.passes - before if watched else None,
                 Counter(refusal.code.name for refusal in refused))


@dataclass(frozen=True)
class Frames:
    """What one round of a benchmark asks about: a new pair, then with one camera moved on."""

    pair: tuple[View, View]
    other_moved: tuple[View, View]
    clicked_moved: tuple[View, View]
