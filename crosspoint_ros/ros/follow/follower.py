"""Follows the active target in a thread: verifies its place, or keeps it up to date."""
from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from crosspoint_ros.core.datatypes import Code, Matcher, MissingView, Rejected, Transform, View
from crosspoint_ros.core.pipeline import LocateResult
from crosspoint_ros.core.track.state import Track, TrackingState
from crosspoint_ros.core.track.tracker import DOUBT_PAUSES, Tracker
from crosspoint_ros.core.verify import Limits
from crosspoint_ros.ros.config import FollowConfig
from crosspoint_ros.ros.follow.fresh_views import FreshLook, FreshViews
from crosspoint_ros.ros.node.query_queue import QueryThread
from crosspoint_ros.ros.node.views import ViewCollector

log = logging.getLogger(__name__)
WATCH_PERIOD_S = 1.0
FIRST_LOOK_S = 0.3  # of `watch`, after the answer: first a person sees that, or clicks again
DOUBT_PERIOD_S = 0.25  # of `watch`, while the target is not where it should be
PAUSES = {'off': 0.0, 'watch': 5.0, 'track': 0.5}  # of a cycle's time, before the next
SAME_TIME_PERIODS = 1.5
MAX_POSTPONED_S = 3.0  # by queries
MAX_SEARCH_S = 30.0  # a search that has not come back, or has failed


@dataclass(frozen=True, eq=False)
class FollowJob:
    """A target to follow: the answer with its images, and where it was put (base_from_target)."""

    key: object
    located: LocateResult
    base_from_target: Transform


@dataclass(frozen=True, eq=False)
class FollowReport:
    """What the thread found about a target.

    track: None where it cannot be followed, for `reason`. base_from_target: where it is.
    """

    key: object
    track: Track | None
    base_from_target: Transform
    reason: str = ''


class Follower:
    """Owns the thread. `follow`, `set_config` and the like come from the executor's thread.

    The matcher runs in the query thread alone, as idle work; its finds are verified here.
    """

    def __init__(self, config: FollowConfig, views: ViewCollector, queries: QueryThread,
                 get_matcher: Callable[[], Matcher | None], now_ns: Callable[[], int],
                 on_report: Callable[[FollowReport], None]) -> None:
        """on_report: called in the follow thread."""
        self._config, self._views, self._queries = config, views, queries
        self._get_matcher, self._now_ns, self._on_report = get_matcher, now_ns, on_report
        self.limits = Limits()
        self._job: FollowJob | None = None
        self._put_s = 0.0  # when that came (monotonic)
        self._is_held = self._is_closed = False
        self._condition = threading.Condition()
        self._tracker: Tracker | None = None
        self._tracked: FollowJob | None = None
        self._found: list[tuple[Tracker, list, float]] = []  # of searches
        self._search_after_s, self._turn = 0.0, 0
        self._fresh = FreshViews(views, now_ns)
        self._build: Callable[[], None] | None = None  # waits for the query thread
        self._was_paused, self._is_readable = False, True
        self.cycle_s = 0.0
        self._thread = threading.Thread(target=self._run, name='crosspoint-follow', daemon=True)
        self._thread.start()

    # --- the executor's side

    @property
    def config(self) -> FollowConfig:
        """The parameters `follow.*`."""
        return self._config

    @property
    def is_held(self) -> bool:
        """Whether following is on hold."""
        return self._is_held

    def follow(self, job: FollowJob | None) -> None:
        """Follow another target, or none."""
        with self._condition:
            self._job, self._put_s = job, time.monotonic()
            self._condition.notify()

    def set_config(self, config: FollowConfig) -> None:
        """Take other parameters."""
        with self._condition:
            self._config = config
            self._condition.notify()

    def set_hold(self, is_held: bool) -> None:
        """Stop looking at images, or go on."""
        with self._condition:
            self._is_held = is_held
            self._condition.notify()

    def close(self) -> None:
        """End the thread after the look that it is at; nothing is reported of that."""
        with self._condition:
            self._is_closed, self._job = True, None
            self._condition.notify()

    # --- the thread

    def _run(self) -> None:
        due_s = looked_s = 0.0
        while True:
            with self._condition:
                while not self._is_closed and (
                        self._job is None or self._is_held or self._config.mode == 'off'):
                    self._forget()
                    self._condition.wait()
                if self._is_closed:
                    return
                job, config = self._job, self._config
                if job is not self._tracked:
                    due_s = self._put_s + FIRST_LOOK_S * (config.mode == 'watch')
                wait_s = due_s - time.monotonic()
                if wait_s > 0:
                    self._condition.wait(wait_s)
                    continue
            assert job is not None
            started_s = time.monotonic()
            if config.mode == 'watch' and self._queries.open_tasks and self._tracker \
                    and started_s - looked_s < MAX_POSTPONED_S:  # a person waits for an answer
                with self._condition:
                    self._condition.wait(DOUBT_PERIOD_S)
                continue
            looked_s = started_s
            try:
                self._step(job, config)
            except Exception as error:
                if job is self._job:  # else the node has ended, or has another target
                    log.exception('following failed: the target is withdrawn')
                    self._give_up(job, f'following failed: {type(error).__name__}: {error}')
            self.cycle_s = time.monotonic() - started_s
            pauses = PAUSES[config.mode] * self.cycle_s
            due_s = max(started_s + self._get_period_s(config), started_s + self.cycle_s + pauses)

    def _forget(self) -> None:
        if self._job is None or self._config.mode == 'off':
            self._tracker = self._tracked = None
        self._was_paused = True
        self._found.clear()

    def _get_period_s(self, config: FollowConfig) -> float:
        if config.mode == 'track':
            return 1.0 / config.rate_hz
        state = TrackingState.TRACKING if self._tracker is None else self._tracker.track.state
        return WATCH_PERIOD_S if state is TrackingState.TRACKING else DOUBT_PERIOD_S

    def _step(self, job: FollowJob, config: FollowConfig) -> None:
        if job is not self._tracked:
            self._begin(job, config)
        tracker = self._tracker
        if tracker is None:
            if self._build is not None:
                self._queries.submit_idle(self, self._build)
            return
        tracker.set_limits(config.limits, self.limits)
        now_ns = self._now_ns()
        if self._was_paused:
            tracker.resume(now_ns)
        self._was_paused = False
        found, self._found = self._found, []  # the query thread goes on adding
        for searched, candidates, took_s in found:
            if searched is tracker:
                tracker.offer(candidates, now_ns, took_s)
        look = self._look(job, SAME_TIME_PERIODS / config.rate_hz)
        if look is None or job is not self._job:
            return
        track = tracker.update(look.views, self._now_ns(), look.due)
        if job is self._job:
            self._on_report(FollowReport(job.key, track, compose(track, job)))
        is_sure = track.state in (TrackingState.TRACKING, TrackingState.MOVED)
        if tracker.wants_search(now_ns) and not (is_sure and config.mode == 'watch'):
            self._search(tracker, [view for view in look.views if isinstance(view, View)])

    def _begin(self, job: FollowJob, config: FollowConfig) -> None:
        located = job.located
        assert located.target is not None
        begun_ns = self._now_ns()
        if self._tracked is not None and self._tracked.located is located and self._tracker:
            self._tracked = job  # put elsewhere by hand
            return
        with self._condition:
            self._tracked, self._tracker, self._build = job, None, None
            self._fresh = FreshViews(self._views, self._now_ns)

        def build(matcher: Matcher | None) -> None:
            if self._tracked is not job or self._tracker is not None:
                return  # of another target by now, or done
            try:
                tracker = Tracker.from_answer(located, matcher, config.limits, self.limits,
                                              begun_ns)
            except Rejected as why:
                self._fail(job, why.message)
                return
            except Exception as error:
                log.exception('this target cannot be followed')
                self._fail(job, f'{type(error).__name__}: {error}')
                return
            with self._condition:
                if self._tracked is job:
                    self._tracker, self._build = tracker, None

        if has_depth(located):
            build(None)
        else:  # its corners are matched
            self._build = lambda: build(self._get_matcher())

    def _look(self, job: FollowJob, same_time_s: float) -> FreshLook | None:
        """Return the new images; those that cannot be read show nothing."""
        was_readable, self._is_readable = self._is_readable, True
        try:
            return self._fresh.collect(same_time_s, lambda: job is not self._job)
        except Exception as error:
            self._is_readable = False
            if job is self._job and was_readable:  # else once for each look
                log.exception('the images cannot be read')
            why = Rejected(Code.NO_IMAGE, f'{type(error).__name__}: {error}')
            return FreshLook(tuple(MissingView(camera, why) for camera in self._views.cameras),
                             frozenset())

    def _give_up(self, job: FollowJob, reason: str) -> None:
        """Withdraw a target that cannot be followed any more: where it is is not known."""
        tracker, now_ns = self._tracker, self._now_ns()
        if tracker is None:
            self._fail(job, reason)
            return
        lost = replace(tracker.track, state=TrackingState.LOST, since_ns=now_ns, evidence={},
                       message=reason)
        with self._condition:
            if self._tracked is job:
                self._tracker = self._build = None
        self._on_report(FollowReport(job.key, lost, compose(lost, job)))

    def _fail(self, job: FollowJob, reason: str) -> None:
        with self._condition:
            if self._tracked is job:
                self._tracker = self._build = None
        self._on_report(FollowReport(job.key, None, job.base_from_target, reason))

    def _search(self, tracker: Tracker, views: Sequence[View]) -> None:
        matcher = self._get_matcher()
        if matcher is None or not views or time.monotonic() < self._search_after_s:
            return
        started_s, began_ns = time.monotonic(), self._now_ns()
        self._search_after_s = started_s + MAX_SEARCH_S  # it may hang
        self._turn += 1
        view = views[self._turn % len(views)]  # one at a time: a click must not wait for long

        def work() -> None:
            try:
                begun_s = time.monotonic()
                candidates = tracker.search([view], matcher)
                ended_s = time.monotonic()
                self._found.append((tracker, candidates, ended_s - begun_s))
                self._search_after_s = ended_s + (ended_s - begun_s) * DOUBT_PAUSES
            except Rejected as why:  # it would fail again, and fill the log
                log.warning('no search for %g s: %s', MAX_SEARCH_S, why.message)
        tracker.offer([], began_ns)
        self._queries.submit_idle(self, work)


def has_depth(located: LocateResult) -> bool:
    """Return whether a view of an answer, that shows its target, has depth."""
    return any(view is not None and view.depth_m is not None for view in (
        located.clicked, *(c.view for c in located.correspondences if c.rejected is None)))


def compose(track: Track, job: FollowJob) -> Transform:
    """Return where the target of a job is: a person may have moved it from the answer's place."""
    assert job.located.target is not None
    clicked_from_put = job.located.target.base_from_target.inverse @ job.base_from_target
    return track.base_from_target @ clicked_from_put
