"""The query queue: its threads run the matcher, so that no executor's thread waits for it."""
from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from crosspoint_ros.core.datatypes import Array, Code, Rejected
from crosspoint_ros.core.grasp.approach import OPEN_APPROACH, Approach
from crosspoint_ros.core.pipeline import LocateResult

log = logging.getLogger(__name__)
MAX_QUEUED = 16


@dataclass(frozen=True, eq=False)
class Correction:
    """The pixel that a person gives for an earlier query's point in another view.

    pixel: (2,) in the searched image of `camera`. locate_result: of that query, None if no longer
    kept.
    """

    query_id: str
    camera: str
    pixel: Array
    locate_result: LocateResult | None


@dataclass(frozen=True, eq=False)
class QueryRequest:
    """A pixel, an instruction, or a 3D point that some camera shows.

    stamp_ns: of the clicked image, 0 for the newest. With `point_m` (3,), given in `point_frame`,
    the camera with the best view is chosen and `camera` is empty. clamp: move a pixel just past the
    border onto the image. approach: AUTO and a standoff of 0 are left to the node. target_name,
    hold_s: as in Correspond.action. correction: needs no matcher and no new image. rejected: set if
    the request is invalid; it is answered without running.
    """

    camera: str = ''
    stamp_ns: int = 0
    pixel: Array | None = None
    instruction: str = ''
    other_cameras: tuple[str, ...] = ()
    point_m: Array | None = None
    point_frame: str = ''
    clamp: bool = False
    approach: Approach = OPEN_APPROACH
    target_name: str = ''
    hold_s: float = 0.0
    correction: Correction | None = None
    rejected: Rejected | None = None

    @classmethod
    def build(cls, camera: str, make: Callable[[], QueryRequest]) -> QueryRequest:
        """Return what `make` returns; a request that is refused, if it raises."""
        try:
            return make()
        except Rejected as rejected:
            return cls(camera, rejected=rejected)
        except Exception as error:
            log.exception('a request for %r cannot be read', camera)
            return cls(camera, rejected=Rejected(
                Code.BAD_REQUEST, f'the request cannot be read: {type(error).__name__}: {error}'))


class QueryAborted(Exception):  # noqa: N818  (an interruption, not an error)
    """Raised in a query that was cancelled or has timed out, to stop the work on it."""


class QueryTask:
    """One query. It is finished exactly once, by whichever thread comes first."""

    def __init__(self, request: QueryRequest, on_done: Callable[[QueryTask], None]) -> None:
        self.request = request
        self.query_id = str(uuid.uuid4())
        self.started_s = time.monotonic()
        self.stages: list[tuple[str, float]] = []  # name, start (monotonic s)
        self.locate_result: LocateResult | None = None
        self.rejected: Rejected | None = None
        self.finished_s = 0.0
        self._on_done = on_done
        self._lock = threading.Lock()

    @property
    def is_done(self) -> bool:
        """Whether the query has its answer."""
        return self.locate_result is not None or self.rejected is not None

    @property
    def age_s(self) -> float:
        """Seconds since it was submitted."""
        return time.monotonic() - self.started_s

    @property
    def stage(self) -> str:
        """Name of the current stage."""
        return self.stages[-1][0] if self.stages else 'queued'

    def stage_durations_s(self) -> dict[str, float]:
        """Return the seconds spent in each stage."""
        stages = [*self.stages, ('end', self.finished_s or time.monotonic())]
        return {name: end - start for (name, start), (_, end) in pairwise(stages)}

    def enter_stage(self, stage: str) -> None:
        """Begin a stage, or continue it. Raises `QueryAborted` if the query was ended meanwhile."""
        with self._lock:  # a stage must not begin after the end
            if self.is_done:
                raise QueryAborted(self.query_id)
            if stage != self.stage:
                self.stages.append((stage, time.monotonic()))

    def revoke(self, rejected: Rejected) -> None:
        """Replace an answer that is not published yet by a rejection."""
        self.locate_result, self.rejected = None, rejected

    def finish(self, outcome: LocateResult | Rejected) -> bool:
        """Set the outcome; False if the query has one already."""
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
    """Answers queries one after the other, or as many at a time as the matcher takes.

    busy: what a new query does to those for the same target: 'preempt' ends them as CANCELLED,
    'queue' waits for its turn, 'reject' is rejected as BUSY.
    """

    def __init__(self, run_query: Callable[[QueryTask], LocateResult],
                 on_answered: Callable[[QueryTask], None], busy: str, max_query_s: float,
                 load: Callable[[], int] = lambda: 1,
                 is_same_target: Callable[[QueryTask, QueryTask], bool] = lambda a, b: True
                 ) -> None:
        """Start the thread. It calls `load` first: how many queries may run at a time.

        With 0 it takes none; with several there are as many threads. on_answered: runs in a query's
        thread, after it is finished.
        """
        self._run_query, self._on_answered = run_query, on_answered
        self._load, self._is_loading = load, True
        self._busy, self._is_same_target = busy, is_same_target
        self.max_query_s = max_query_s
        # By thread, the oldest first: its query, None for idle work, and since when.
        self._running: dict[threading.Thread, tuple[QueryTask | None, float]] = {}
        self._queue: deque[QueryTask] = deque()
        self._idle_work: dict[object, Callable[[], None]] = {}  # by owner, the oldest first
        self._condition = threading.Condition()
        self._closed = False
        self._thread = self._start_thread(self._run)

    @property
    def open_tasks(self) -> list[QueryTask]:
        """The queries without an answer, the running ones first."""
        with self._condition:
            running = [task for task, _ in self._running.values() if task is not None]
            return [task for task in (*running, *self._queue) if not task.is_done]

    def submit(self, task: QueryTask) -> None:
        """Take a query; it may end at once (BUSY), or end another (CANCELLED)."""
        earlier = self.open_tasks
        preempted = [other for other in earlier
                     if self._busy == 'preempt' and self._is_same_target(other, task)]
        if earlier and self._busy == 'reject':
            task.finish(Rejected(Code.BUSY, f'busy with query {earlier[0].query_id} in stage '
                                 f'{earlier[0].stage} for {earlier[0].age_s:.2f} s (busy: reject)'))
        elif len(earlier) - len(preempted) >= MAX_QUEUED:
            task.finish(Rejected(Code.BUSY, f'{len(earlier)} queries are waiting (limit '
                                 f'{MAX_QUEUED}): wait for their results'))
        else:
            for other in preempted:
                other.finish(Rejected(Code.CANCELLED, f'preempted in stage {other.stage} after '
                                      f'{other.age_s:.2f} s by query {task.query_id}'))
            with self._condition:
                # While a matcher hangs, nothing takes finished ones out: do not let them pile up.
                self._queue = deque(other for other in self._queue if not other.is_done)
                self._queue.append(task)
                self._condition.notify()

    def submit_idle(self, owner: object, work: Callable[[], None]) -> None:
        """Run `work` when idle; it replaces what the same owner has pending."""
        with self._condition:
            self._idle_work[owner] = work
            self._condition.notify()

    def expire_overdue(self) -> None:
        """End the queries that took too long; call it a few times a second."""
        for task in self.open_tasks:
            if task.age_s > self.max_query_s:
                task.finish(Rejected(
                    Code.TIMEOUT, f'no answer in stage {task.stage} after {task.age_s:.2f} s '
                    f'(limits.max_query_s {self.max_query_s} s){self._explain_timeout(task)}'))

    def _explain_timeout(self, task: QueryTask) -> str:
        if self._is_loading:
            return '; the matcher is still loading'
        running = [each for each, _ in tuple(self._running.values())]
        if running == [None]:
            return (f'; the matcher has prepared for new images for {self.busy_for_s:.1f} s: lower '
                    'warm_share, or reload it with cleanup and configure')
        current = next((each for each in running if each is not None), task)
        if task in running or current is task:
            return ''
        return (f'; the matcher still works on query {current.query_id}, submitted '
                f'{current.age_s:.1f} s ago: reload it with cleanup and configure')

    @property
    def busy_for_s(self) -> float:
        """Seconds that a thread has been in the matcher, for a query (finished since or not) or
        idle work; 0 when it is free."""
        return max((time.monotonic() - since_s for _, since_s in tuple(self._running.values())),
                   default=0.0)

    def cancel_all(self, reason: str, code: Code = Code.CANCELLED,
                   selects: Callable[[QueryTask], bool] = lambda task: True) -> bool:
        """End every open query that `selects` selects; return whether there was one."""
        selected = [task for task in self.open_tasks if selects(task)]
        for task in selected:
            task.finish(Rejected(code, f'{reason} while it was in stage {task.stage}'))
        return bool(selected)

    def close(self) -> None:
        """End the threads as soon as their matcher returns."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        # Not joined for long: a matcher that hangs must not block the shutdown.
        self._thread.join(timeout=0.5)

    def _start_thread(self, target: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=target, name='crosspoint-queries', daemon=True)
        thread.start()
        return thread

    def _run(self) -> None:
        count = self._load()
        self._is_loading = False
        for _ in range(1, count):
            self._start_thread(self._work)
        if count:
            self._work()

    def _can_idle(self) -> bool:
        """Whether there is idle work, and none is done yet: each owner expects to be alone."""
        return bool(self._idle_work) and all(task for task, _ in self._running.values())

    def _work(self) -> None:
        thread = threading.current_thread()
        while True:
            with self._condition:
                self._running.pop(thread, None)
                while not (self._queue or self._can_idle() or self._closed):
                    self._condition.wait()
                if self._closed:
                    return
                task = self._queue.popleft() if self._queue else None
                idle_work = None if task is not None else self._idle_work.pop(
                    next(iter(self._idle_work)))
                self._running[thread] = task, time.monotonic()
            if task is not None:
                self._execute(task)
            elif idle_work is not None:
                self._execute_idle(idle_work)

    def _execute_idle(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException:  # a matcher's bug: the next query will meet it, and be rejected
            log.exception('preparing for new images failed')

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
        # A bug, ours or a matcher's: one rejection, and carry on. Panics of Rust libraries
        # (tokenizers, safetensors) are not Exceptions, and would silently end the thread.
        except BaseException as error:
            log.exception('query %s failed in stage %s', task.query_id, task.stage)
            task.finish(explain_failure(task, error))


def explain_failure(task: QueryTask, error: BaseException) -> Rejected:
    """Return the refusal of a query over a bug."""
    return Rejected(Code.MATCHER_FAILED, f'{type(error).__name__} in stage {task.stage}: {error}')
