"""The latency of the matcher `xfeat` in passes of its network, by what is known, and its stages."""
from __future__ import annotations

import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby, islice
from operator import attrgetter
from pathlib import Path
from types import FrameType
from typing import Any

import cv2

from crosspoint_ros.bench.latency.timing import summarize_ms
from crosspoint_ros.bench.pairs.dataset import SITUATIONS
from crosspoint_ros.bench.pairs.sources import KnownSceneSource
from crosspoint_ros.core.datatypes import Matcher, Query, Rejected, View
from crosspoint_ros.core.pipeline import locate
from crosspoint_ros.data.qa.point_visibility import Visibility
from crosspoint_ros.data.scenes.known_scene import KnownScene
from crosspoint_ros.matchers import load_matcher, xfeat
from crosspoint_ros.matchers.xfeat.network import Backbone
from crosspoint_ros.scenes import KITCHEN

NAMES = tuple(SITUATIONS)[:3]  # images, poses, poses and depth
CLICKS = 5  # on a pair: the first, and others
ANGLES_DEG = 5.0, 40.0
PACKAGE = Path(xfeat.__file__).parent
OUTSIDE = 'verify, lift'  # what `locate` does outside of the matcher


@dataclass(frozen=True)
class ClickTimes:
    """Times of clicks, an entry for each: ms, and in two passes of the network next to it."""

    wall_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    wall_multiples: list[float] = field(default_factory=list)
    cpu_multiples: list[float] = field(default_factory=list)

    def add(self, click_ms: tuple[float, float], passes_ms: tuple[float, float]) -> None:
        """Add the wall and CPU time of a click, and those of two passes."""
        for times, multiples, click, passes in zip(
                (self.wall_ms, self.cpu_ms), (self.wall_multiples, self.cpu_multiples), click_ms,
                passes_ms, strict=True):
            times.append(click)
            multiples.append(click / passes)


@dataclass(frozen=True)
class SituationLatency:
    """First and other clicks in one situation; stages: ms of CPU time in each of a first click."""

    passes: ClickTimes
    first: ClickTimes
    again: ClickTimes
    stages: dict[str, float]


def measure_situations(options: Mapping[str, Any], rounds: int, warm_up: int
                       ) -> dict[str, SituationLatency]:
    """Time clicks on pairs of the built-in kitchen, each pair next to two passes of the network."""
    backbone, matcher = Backbone(), load_matcher('xfeat', **options)
    found = {name: SituationLatency(ClickTimes(), ClickTimes(), ClickTimes(), {})
             for name in NAMES}
    for number, pair in enumerate(islice(draw_pairs(), warm_up + rounds)):
        for name, latency in found.items():
            queries = copy_views(pair[name])
            passes = time_ms(partial(run_twice, backbone, queries[0].clicked))
            clicks = [time_ms(partial(click, matcher, query)) for query in queries]
            if number >= warm_up:
                latency.passes.add(passes, passes)
                latency.first.add(clicks[0], passes)
                for again in clicks[1:]:
                    latency.again.add(again, passes)
    for name, latency in found.items():
        latency.stages.update(profile_stages(options, copy_views(pair[name])[0]))
    return found


def draw_pairs() -> Iterator[dict[str, list[Query]]]:
    """Yield the first visible clicks of pairs of the built-in kitchen, in each situation."""
    scene = KnownScene(KITCHEN)
    sources = [groupby(KnownSceneSource(scene, SITUATIONS[name]), attrgetter('pair'))
               for name in NAMES]
    for same in zip(*sources, strict=True):
        pair = {name: [each.query for each in labelled
                       if each.visibility == Visibility.VISIBLE
                       and ANGLES_DEG[0] <= each.angle_deg <= ANGLES_DEG[1]][:CLICKS]
                for name, (_, labelled) in zip(NAMES, same, strict=True)}
        if len(pair[NAMES[0]]) == CLICKS:
            yield pair


def copy_views(queries: Sequence[Query]) -> list[Query]:
    """Return the queries on copies of their images, which no cache knows."""
    clicked, other = (replace(view, image=view.image.copy())
                      for view in (queries[0].clicked, queries[0].other))
    return [Query(clicked, other, query.pixel) for query in queries]


def run_twice(backbone: Backbone, view: View) -> None:
    """Run the network on the image twice."""
    for _ in range(2):
        backbone(view.image)


def click(matcher: Matcher, query: Query) -> None:
    """Answer a click as the robot does, but for images and TF; a refusal is an answer."""
    with suppress(Rejected):
        locate(query.clicked, [query.other], query.pixel, matcher)


def time_ms(work: Callable[[], None]) -> tuple[float, float]:
    """Return the wall and the CPU time of a call, of all threads, ms."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    work()
    return 1e3 * (time.perf_counter() - wall_s), 1e3 * (time.process_time() - cpu_s)


class StageProfiler:
    """Adds the CPU time of each thread up by the module of the matcher that is at work.

    A call into a module begins its stage; what it calls elsewhere (NumPy, OpenCV, core) belongs to
    it. Only threads that start inside the `with` are counted, and the one that enters it.
    """

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._local = threading.local()
        self._stages: dict[str, str] = {}  # of each source file; '' for that of its caller

    def __enter__(self) -> StageProfiler:
        threading.setprofile(self._on_event)
        sys.setprofile(self._on_event)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]

    def _on_event(self, frame: FrameType, event: str, _: object) -> None:
        if event not in ('call', 'return'):
            return
        now_s, local = time.thread_time(), self._local.__dict__
        stages = local.setdefault('stages', [OUTSIDE])
        self.seconds[stages[-1]] += now_s - local.get('since_s', now_s)
        if event == 'call':
            name = frame.f_code.co_filename
            if name not in self._stages:
                path = Path(name)
                self._stages[name] = path.stem if path.parent == PACKAGE else ''
            stages.append(self._stages[name] or stages[-1])
        elif len(stages) > 1:
            stages.pop()
        local['since_s'] = time.thread_time()  # without that of this function


def profile_stages(options: Mapping[str, Any], query: Query) -> dict[str, float]:
    """Return the CPU time of each stage of a first click, ms, the longest first.

    A new matcher, so that its threads start under the profiler; OpenCV takes one thread, so that
    its work is that of its caller.
    """
    matcher = load_matcher('xfeat', **options)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with StageProfiler() as profiler:
            click(matcher, query)
    finally:
        cv2.setNumThreads(threads)
    return {stage: 1e3 * seconds for stage, seconds in profiler.seconds.most_common()}


def format_situations(found: Mapping[str, SituationLatency]) -> str:
    """Format the multiples and the shares of the stages as text."""
    passes_ms = [ms for each in found.values() for ms in each.passes.wall_ms]
    width = max(map(len, found)) + 2
    lines = ['kitchen, in two passes of the network on 640x480 '
             f'({statistics.median(passes_ms):.0f} ms, median), least .. most:',
             f'{"":{width}}{"first click":>24}{"CPU":>7}{"ms":>7}'
             f'{"another click":>24}{"CPU":>7}{"ms":>7}']
    lines += [f'{name:{width}}' + ''.join(map(_format_times, (each.first, each.again)))
              for name, each in found.items()]
    stages = dict.fromkeys(stage for each in found.values() for stage in each.stages)
    lines += ['', 'stages of a first click, % of its CPU time',
              f'{"":20}' + ''.join(f'{name:>20}' for name in found)]
    for stage in stages:
        shares = [each.stages.get(stage, 0.0) / sum(each.stages.values())
                  for each in found.values()]
        lines.append(f'{stage:20}' + ''.join(f'{100 * share:20.1f}' for share in shares))
    return '\n'.join(lines)


def _format_times(times: ClickTimes) -> str:
    median, least, most = (value / 1e3 for value in summarize_ms(times.wall_multiples))
    return (f'{f"{median:.2f} ({least:.2f} .. {most:.2f})":>24}'
            f'{statistics.median(times.cpu_multiples):7.2f}'
            f'{statistics.median(times.wall_ms):7.0f}')
