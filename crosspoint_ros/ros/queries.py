"""Queries wait for a matcher here, in one thread of their own; the executor's threads never do."""
from __future__ import annotations

import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from crosspoint_ros.core.datatypes import Array, Code, Rejected
from crosspoint_ros.core.pipeline import Located

MAX_QUEUED = 16


@dataclass(frozen=True, eq=False)
class Request:
    """What somebody asked: a pixel, an instruction, or a 3D point that some camera shows.

    stamp_ns is that of the clicked image, 0 for the newest. With `point_m` (3,), given in
    `point_frame`, the camera is chosen by who sees it best and `camera` is empty.
    """

    camera: str = ''
    stamp_ns: int = 0
    pixel: Array | None = None
    instruction: str = ''
    other_cameras: tuple[str, ...] = ()
    point_m: Array | None = None
    point_frame: str = ''


class Ended(Exception):  # noqa: N818  (an interruption, not an error)
    """Raised inside a query that was ended from outside, to stop working on it."""


class Job:
    """One query on its way. It ends exactly once, whoever ends it first."""

    def __init__(self, request: Request, on_stage: Callable[[Job], None],
                 on_end: Callable[[Job], None]) -> None:
        self.request = request
        self.query_id = str(uuid.uuid4())
        self.begun_s = time.monotonic()
        self.stages: list[tuple[str, float]] = []  # name, when it began (monotonic s)
        self.located: Located | None = None
        self.rejected: Rejected | None = None
        self.ended_s = 0.0
        self._on_stage, self._on_end = on_stage, on_end
        self._lock = threading.Lock()

    @property
    def ended(self) -> bool:
        """Tell whether the query has its answer."""
        return self.located is not None or self.rejected is not None

    @property
    def age_s(self) -> float:
        """Seconds since it was asked."""
        return time.monotonic() - self.begun_s

    @property
    def stage(self) -> str:
        """Name of the stage it is in."""
        return self.stages[-1][0] if self.stages else 'queued'

    def stage_seconds(self) -> dict[str, float]:
        """Seconds spent in each stage."""
        ends = [begun for _, begun in self.stages[1:]] + [self.ended_s or time.monotonic()]
        spent: dict[str, float] = {}
        for (name, begun), end in zip(self.stages, ends, strict=True):
            spent[name] = spent.get(name, 0.0) + end - begun
        return spent

    def enter(self, stage: str) -> None:
        """Begin a stage; raise `Ended` if the query was ended meanwhile."""
        if self.ended:
            raise Ended(self.query_id)
        self.stages.append((stage, time.monotonic()))
        self._on_stage(self)

    def end(self, outcome: Located | Rejected) -> bool:
        """Give the query its answer; False if it has one already."""
        with self._lock:
            if self.ended:
                return False
            self.ended_s = time.monotonic()
            if isinstance(outcome, Rejected):
                self.rejected = outcome
            else:
                self.located = outcome
        self._on_end(self)
        return True


class QueryThread:
    """Answers queries one after the other: a matcher is never called twice at a time.

    `busy` says what a new query does to the one that runs: 'preempt' ends it as CANCELLED, 'queue'
    waits behind it, 'reject' is refused as BUSY.
    """

    def __init__(self, answer: Callable[[Job], Located], busy: str, max_query_s: float) -> None:
        self._answer, self._busy = answer, busy
        self.max_query_s = max_query_s
        self._open: deque[Job] = deque()  # not yet ended, the running one first
        self._waiting: deque[Job] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._held_since_s = 0.0  # when the matcher took a query that has ended since; 0: free
        self._thread = threading.Thread(target=self._run, name='crosspoint-queries', daemon=True)
        self._thread.start()

    @property
    def idle(self) -> bool:
        """Tell whether no query is open."""
        with self._wake:
            return not any(not job.ended for job in self._open)

    def submit(self, job: Job) -> None:
        """Take a query; it may end at once (BUSY), or end another (CANCELLED)."""
        with self._wake:
            earlier = [other for other in self._open if not other.ended]
        if earlier and self._busy == 'reject':
            job.end(Rejected(Code.BUSY, f'busy with query {earlier[0].query_id} in stage '
                             f'{earlier[0].stage} for {earlier[0].age_s:.2f} s (busy: reject)'))
            return
        if self._busy == 'preempt':
            for other in earlier:
                other.end(Rejected(Code.CANCELLED, f'preempted in stage {other.stage} after '
                                   f'{other.age_s:.2f} s by query {job.query_id}'))
        elif len(earlier) >= MAX_QUEUED:
            job.end(Rejected(Code.BUSY, f'{len(earlier)} queries are waiting (limit {MAX_QUEUED})'))
            return
        with self._wake:
            self._open.append(job)
            self._waiting.append(job)
            self._wake.notify()

    def expire(self) -> None:
        """End the queries that took too long; call it a few times a second."""
        with self._wake:
            late = [job for job in self._open if job.age_s > self.max_query_s and not job.ended]
            held_s = time.monotonic() - self._held_since_s if self._held_since_s else 0.0
        for job in late:
            why = f'; the matcher still works on an earlier query, {held_s:.1f} s' if (
                held_s > job.age_s) else ''
            job.end(Rejected(Code.TIMEOUT, f'no answer in stage {job.stage} after {job.age_s:.2f} '
                             f's (limits.max_query_s {self.max_query_s} s){why}'))

    def close(self, reason: str) -> None:
        """End every open query as CANCELLED, and the thread when its matcher returns."""
        with self._wake:
            self._closed = True
            open_jobs = list(self._open)
            self._wake.notify()
        for job in open_jobs:
            job.end(Rejected(Code.CANCELLED, f'{reason} in stage {job.stage}'))
        # Not joined for long: a matcher that hangs must not hang the shutdown with it.
        self._thread.join(timeout=0.5)

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._waiting and not self._closed:
                    self._wake.wait()
                if self._closed:
                    return
                job = self._waiting.popleft()
                self._held_since_s = time.monotonic()
            self._work(job)
            with self._wake:
                self._open.remove(job)
                self._held_since_s = 0.0

    def _work(self, job: Job) -> None:
        if job.ended:
            return
        try:
            job.end(self._answer(job))
        except Ended:
            return
        except Rejected as rejected:
            job.end(rejected)
        except Exception as error:  # a bug of ours or of a matcher: one refusal, and carry on
            job.end(Rejected(Code.MATCHER_FAILED,
                             f'{type(error).__name__} in stage {job.stage}: {error}'))
