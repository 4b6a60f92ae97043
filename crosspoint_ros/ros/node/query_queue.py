"""Queries wait for a matcher here, in one thread of their own; the executor's threads never do."""
from __future__ import annotations

import threading
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from crosspoint_ros.core.datatypes import Array, Code, Rejected
from crosspoint_ros.core.pipeline import LocateResult

MAX_QUEUED = 16


@dataclass(frozen=True, eq=False)
class Correction:
    """A person says where the point of an earlier query is in another view.

    pixel: (2,) in the image of `camera` that was searched. located is None when it is not kept.
    """

    query_id: str
    camera: str
    pixel: Array
    locate_result: LocateResult | None


@dataclass(frozen=True, eq=False)
class QueryRequest:
    """What somebody asked: a pixel, an instruction, or a 3D point that some camera shows.

    stamp_ns is that of the clicked image, 0 for the newest. With `point_m` (3,), given in
    `point_frame`, the camera is chosen by who sees it best and `camera` is empty. `clamp` moves a
    pixel just past the border onto the image. A correction asks no matcher, and no camera.
    `refused` is what speaks against it already: it only gets its result.
    """

    camera: str = ''
    stamp_ns: int = 0
    pixel: Array | None = None
    instruction: str = ''
    other_cameras: tuple[str, ...] = ()
    point_m: Array | None = None
    point_frame: str = ''
    clamp: bool = False
    correction: Correction | None = None
    rejected: Rejected | None = None


class QueryAborted(Exception):  # noqa: N818  (an interruption, not an error)
    """Raised inside a query that was ended from outside, to stop working on it."""


class QueryTask:
    """One query on its way. It ends exactly once, whoever ends it first."""

    def __init__(self, request: QueryRequest, on_stage: Callable[[str], None],
                 on_done: Callable[[QueryTask], None]) -> None:
        self.request = request
        self.query_id = str(uuid.uuid4())
        self.started_s = time.monotonic()
        self.stages: list[tuple[str, float]] = []  # name, when it began (monotonic s)
        self.locate_result: LocateResult | None = None
        self.rejected: Rejected | None = None
        self.finished_s = 0.0
        self._on_stage, self._on_done = on_stage, on_done
        self._lock = threading.Lock()

    @property
    def is_done(self) -> bool:
        """Tell whether the query has its answer."""
        return self.locate_result is not None or self.rejected is not None

    @property
    def age_s(self) -> float:
        """Seconds since it was asked."""
        return time.monotonic() - self.started_s

    @property
    def stage(self) -> str:
        """Name of the stage it is in."""
        return self.stages[-1][0] if self.stages else 'queued'

    def stage_durations_s(self) -> dict[str, float]:
        """Seconds spent in each stage."""
        stages = [*self.stages, ('ended', self.finished_s or time.monotonic())]
        return {name: end - begun for (name, begun), (_, end) in pairwise(stages)}

    def enter_stage(self, stage: str) -> None:
        """Begin a stage, or go on with it; raise `Ended` if the query was ended meanwhile."""
        with self._lock:  # a stage must not begin after the end
            if self.is_done:
                raise QueryAborted(self.query_id)
            if stage == self.stage:
                return
            self.stages.append((stage, time.monotonic()))
        self._on_stage(stage)

    def revoke(self, rejected: Rejected) -> None:
        """Refuse what was answered, as long as nobody has been told of it."""
        self.locate_result, self.rejected = None, rejected

    def finish(self, outcome: LocateResult | Rejected) -> bool:
        """Give the query its answer; False if it has one already."""
        with self._lock:
            if self.is_done:
                return False
            self.finished_s = time.monotonic()
            if isinstance(outcome, Rejected):
                self.rejected = outcome
            else:
                self.locate_result = outcome
        self._on_done(self)
        return True


class QueryThread:
    """Answers queries one after the other: a matcher is never called twice at a time.

    `busy` says what a new query does to the one that runs: 'preempt' ends it as CANCELLED, 'queue'
    waits behind it, 'reject' is refused as BUSY.
    """

    def __init__(self, run_query: Callable[[QueryTask], LocateResult], on_answered: Callable[[QueryTask], None],
                 complain: Callable[[str], object], busy: str, max_query_s: float,
                 load: Callable[[], bool] = lambda: True) -> None:
        """Start the thread. It calls `prepare` first, and takes no query if that says False.

        `afterwards` runs in the thread when a query's answer is out already.
        """
        self._run_query, self._on_answered, self._complain = run_query, on_answered, complain
        self._load, self._is_loading = load, True
        self._busy = busy
        self.max_query_s = max_query_s
        self._current: QueryTask | None = None
        self._busy_since_s: float | None = None
        self._queue: deque[QueryTask] = deque()
        self._idle_work: Callable[[], None] | None = None
        self._condition = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name='crosspoint-queries', daemon=True)
        self._thread.start()

    @property
    def open_tasks(self) -> list[QueryTask]:
        """The queries without an answer, the running one first."""
        with self._condition:
            held = [] if self._current is None else [self._current]
            return [task for task in (*held, *self._queue) if not task.is_done]

    def submit(self, task: QueryTask) -> None:
        """Take a query; it may end at once (BUSY), or end another (CANCELLED)."""
        earlier = self.open_tasks
        if earlier and self._busy == 'reject':
            task.finish(Rejected(Code.BUSY, f'busy with query {earlier[0].query_id} in stage '
                             f'{earlier[0].stage} for {earlier[0].age_s:.2f} s (busy: reject)'))
        elif self._busy == 'queue' and len(earlier) >= MAX_QUEUED:
            task.finish(Rejected(Code.BUSY, f'{len(earlier)} queries are waiting (limit {MAX_QUEUED})'))
        else:
            for other in earlier if self._busy == 'preempt' else ():
                other.finish(Rejected(Code.CANCELLED, f'preempted in stage {other.stage} after '
                                   f'{other.age_s:.2f} s by query {task.query_id}'))
            self._enqueue(task)

    def _enqueue(self, task: QueryTask) -> None:
        with self._condition:
            # While a matcher hangs nobody takes the ended ones out; do not let them pile up.
            self._queue = deque(other for other in self._queue if not other.is_done)
            self._queue.append(task)
            self._condition.notify()

    def submit_idle(self, work: Callable[[], None]) -> None:
        """Do this when there is no query to answer; it takes the place of an earlier offer."""
        with self._condition:
            self._idle_work = work
            self._condition.notify()

    def expire_overdue(self) -> None:
        """End the queries that took too long; call it a few times a second."""
        for task in self.open_tasks:
            if task.age_s > self.max_query_s:
                task.finish(Rejected(Code.TIMEOUT, f'no answer in stage {task.stage} after '
                                 f'{task.age_s:.2f} s (limits.max_query_s {self.max_query_s} s)'
                                 f'{self._explain_timeout(task)}'))

    def _explain_timeout(self, task: QueryTask) -> str:
        if self._is_loading:
            return '; the matcher is still loading'
        running = self._current
        if running is None and self.busy_for_s:
            return (f'; the matcher has prepared for new images for {self.busy_for_s:.1f} s: lower '
                    'warm_share, or cleanup and configure load it anew')
        if running is None or running is task:
            return ''
        return (f'; the matcher still works on query {running.query_id}, asked '
                f'{running.age_s:.1f} s ago: cleanup and configure load it anew')

    @property
    def busy_for_s(self) -> float:
        """How long the thread has been in the matcher, s, for a query (ended since or not) or idle
        work; 0 when it is free."""
        since_s = self._busy_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def cancel_all(self, reason: str, code: Code = Code.CANCELLED) -> None:
        """End every open query."""
        for task in self.open_tasks:
            task.finish(Rejected(code, f'{reason} while it was in stage {task.stage}'))

    def close(self) -> None:
        """End the thread as soon as its matcher returns."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        # Not joined for long: a matcher that hangs must not hang the shutdown with it.
        self._thread.join(timeout=0.5)

    def _run(self) -> None:
        prepared = self._load()
        self._is_loading = False
        while prepared:
            with self._condition:
                self._current = self._busy_since_s = None
                while not (self._queue or self._idle_work or self._closed):
                    self._condition.wait()
                if self._closed:
                    return
                task, idle_work = None, self._idle_work
                self._busy_since_s = time.monotonic()
                if self._queue:
                    self._current = task = self._queue.popleft()
                else:
                    self._idle_work = None
            if task is not None:
                self._execute(task)
            elif idle_work is not None:
                self._execute_idle(idle_work)

    def _execute_idle(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException:  # a bug of a matcher's: the next query will meet it, and refuse
            self._complain(traceback.format_exc())

    def _execute(self, task: QueryTask) -> None:
        if task.is_done:
            return
        try:
            if task.finish(self._run_query(task)):
                self._on_answered(task)
        except QueryAborted:
            return
        except Rejected as rejected:
            task.finish(rejected)
        # A bug of ours or of a matcher: one refusal, and carry on. Panics of libraries in Rust
        # (tokenizers, safetensors) are no Exceptions, and would end the thread without a word.
        except BaseException as error:
            self._complain(traceback.format_exc())
            task.finish(Rejected(Code.MATCHER_FAILED,
                             f'{type(error).__name__} in stage {task.stage}: {error}'))
