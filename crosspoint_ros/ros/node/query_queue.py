"""The query queue: one thread runs the matcher, so that no executor's thread ever waits for it."""
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

    def __init__(self, request: QueryRequest, on_stage: Callable[[str], None],
                 on_done: Callable[[QueryTask], None]) -> None:
        self.request = request
        self.query_id = str(uuid.uuid4())
        self.started_s = time.monotonic()
        self.stages: list[tuple[str, float]] = []  # name, start (monotonic s)
        self.locate_result: LocateResult | None = None
        self.rejected: Rejected | None = None
        self.finished_s = 0.0
        self._on_stage, self._on_done = on_stage, on_done
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
            if stage == self.stage:
                return
            self.stages.append((stage, time.monotonic()))
        self._on_stage(stage)

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
    """Answers queries one after the other: a matcher is never called twice at a time.

    busy: what a new query does to the running one: 'preempt' ends it as CANCELLED, 'queue' waits
    for it, 'reject' is rejected as BUSY.
    """

    def __init__(self, run_query: Callable[[QueryTask], LocateResult],
                 on_answered: Callable[[QueryTask], None], busy: str, max_query_s: float,
                 load: Callable[[], bool] = lambda: True) -> None:
        """Start the thread. It calls `load` first, and takes no query if that returns False.

        on_answered: runs in the thread, after the query is finished.
        """
        self._run_query, self._on_answered = run_query, on_answered
        self._load, self._is_loading = load, True
        self._busy = busy
        self.max_query_s = max_query_s
        self._current: QueryTask | None = None
        self._busy_since_s: float | None = None
        self._queue: deque[QueryTask] = deque()
        self._idle_work: dict[object, Callable[[], None]] = {}  # by owner, the oldest first
        self._condition = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name='crosspoint-queries', daemon=True)
        self._thread.start()

    @property
    def open_tasks(self) -> list[QueryTask]:
        """The queries without an answer, the running one first."""
        with self._condition:
            current = [] if self._current is None else [self._current]
            return [task for task in (*current, *self._queue) if not task.is_done]

    def submit(self, task: QueryTask) -> None:
        """Take a query; it may end at once (BUSY), or end another (CANCELLED)."""
        earlier = self.open_tasks
        if earlier and self._busy == 'reject':
            task.finish(Rejected(Code.BUSY, f'busy with query {earlier[0].query_id} in stage '
                                 f'{earlier[0].stage} for {earlier[0].age_s:.2f} s (busy: reject)'))
        elif self._busy == 'queue' and len(earlier) >= MAX_QUEUED:
            task.finish(Rejected(Code.BUSY, f'{len(earlier)} queries are waiting (limit '
                                 f'{MAX_QUEUED})'))
        else:
            for other in earlier if self._busy == 'preempt' else ():
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
        current = self._current
        if current is None and self.busy_for_s:
            return (f'; the matcher has prepared for new images for {self.busy_for_s:.1f} s: lower '
                    'warm_share, or reload it with cleanup and configure')
        if current is None or current is task:
            return ''
        return (f'; the matcher still works on query {current.query_id}, submitted '
                f'{current.age_s:.1f} s ago: reload it with cleanup and configure')

    @property
    def busy_for_s(self) -> float:
        """Seconds that the thread has been in the matcher, for a query (finished since or not) or
        idle work; 0 when it is free."""
        since_s = self._busy_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def cancel_all(self, reason: str, code: Code = Code.CANCELLED,
                   selects: Callable[[QueryTask], bool] = lambda task: True) -> None:
        """End every open query that `selects` selects."""
        for task in filter(selects, self.open_tasks):
            task.finish(Rejected(code, f'{reason} while it was in stage {task.stage}'))

    def close(self) -> None:
        """End the thread as soon as its matcher returns."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        # Not joined for long: a matcher that hangs must not block the shutdown.
        self._thread.join(timeout=0.5)

    def _run(self) -> None:
        is_loaded = self._load()
        self._is_loading = False
        while is_loaded:
            with self._condition:
                self._current = self._busy_since_s = None
                while not (self._queue or self._idle_work or self._closed):
                    self._condition.wait()
                if self._closed:
                    return
                task, idle_work = None, None
                self._busy_since_s = time.monotonic()
                if self._queue:
                    self._current = task = self._queue.popleft()
                else:
                    idle_work = self._idle_work.pop(next(iter(self._idle_work)))
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
