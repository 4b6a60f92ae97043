"""Following in the node: `~/hold`, `~/resume`, and what becomes of the active targets."""
from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
from rclpy.lifecycle import LifecycleNode
from std_srvs.srv import Trigger

from crosspoint_ros.core.datatypes import Matcher, Rejected
from crosspoint_ros.core.pipeline import LocateResult
from crosspoint_ros.core.track.state import Track, TrackingState
from crosspoint_ros.core.verify import Limits
from crosspoint_ros.msg import GraspTarget, Status, TargetSighting, TargetState
from crosspoint_ros.ros.config import Config, FollowConfig
from crosspoint_ros.ros.conversions import transform_from_pose
from crosspoint_ros.ros.follow.follower import Follower, FollowJob, FollowReport
from crosspoint_ros.ros.node.query_messages import make_header, place_target
from crosspoint_ros.ros.node.query_queue import QueryThread
from crosspoint_ros.ros.node.views import ViewCollector
from crosspoint_ros.ros.target.targets import ActiveTarget, FollowedTarget, Targets

STATES = {TrackingState.TRACKING: TargetState.TRACKING, TrackingState.MOVED: TargetState.MOVED,
          TrackingState.COASTING: TargetState.COASTING, TrackingState.LOST: TargetState.LOST}
MAX_JOBS = 8  # answers, each with its images, that undo can follow again
NO_HISTORY = 'not followed: with history_s 0 the node has images only while it answers a query'


class TargetFollow:
    """Gives a follow thread the active target of a name, and the target what that finds.

    All but the thread's own work runs in the executor.
    """

    def __init__(self, target: ActiveTarget, can_follow: bool,
                 find_located: Callable[[str], LocateResult | None], jobs: deque[FollowJob],
                 make_follower: Callable[[Callable[[FollowReport], None]], Follower],
                 call_in_executor: Callable[[Callable[[], None]], None]) -> None:
        """See `FollowServer`. jobs: the last of all names, with their images.

        make_follower: its argument takes a report, in the executor.
        """
        self.target, self._find_located, self._can_follow = target, find_located, can_follow
        self._put: GraspTarget | None = None  # the active target, as it was answered or moved
        self._job: FollowJob | None = None
        self._query_id = ''  # of the job
        self._jobs, self._call_in_executor = jobs, call_in_executor
        self.last_report: FollowReport | None = None
        self._follower = make_follower(self._take)
        self._follower.set_hold(target.is_paused)
        self.close = self._follower.close

    @property
    def cycle_s(self) -> float:
        """How long the last look at the images took, s."""
        return self._follower.cycle_s

    def set_config(self, config: FollowConfig) -> None:
        """Take other parameters; with `off` the target is where it was clicked."""
        self._follower.set_config(config)
        if config.mode == 'off':
            self.target.set_followed(None)

    def set_limits(self, limits: Limits) -> None:
        """Take other limits."""
        self._follower.limits = limits

    def set_paused(self, is_paused: bool, message: str) -> None:
        """Pause, or go on."""
        self._follower.set_hold(is_paused)
        self.target.is_paused = is_paused
        self.target.announce(message)

    def update(self) -> None:
        """Follow the target that is active now."""
        step = self.target.step
        put = None if step is None or step.result is None else step.result.target
        if put is self._put:
            return
        self._put = put
        previous, self._job = self._job, None
        known = next((job for job in self._jobs if job.key is put), None)
        if put is None or step is None or not self._can_follow:
            pass
        elif known is not None:  # undone, or redone
            self._job = known
        else:
            located = self._find_located(step.query_id)
            is_same = previous is not None and self._query_id == step.query_id
            if is_same and previous is not None:  # it was moved by hand
                located = previous.located
            if located is not None and located.target is not None:
                placed, report = transform_from_pose(put.pose.pose), self.last_report
                if is_same and report is not None and report.track is not None:
                    # It had moved itself before.
                    moved = report.track.base_from_target @ located.target.base_from_target.inverse
                    placed = moved.inverse @ placed
                self._job = FollowJob(put, located, placed)
                self._jobs.append(self._job)
            self._query_id = step.query_id
        self.last_report = None
        # Once the answer is out: the thread's first look takes CPU.
        self._call_in_executor(lambda: self._follower.follow(self._job))

    def _take(self, report: FollowReport) -> None:
        """Apply what the thread found, if it is of the target that is still the active one."""
        is_lost = report.track is not None and report.track.state is TrackingState.LOST
        is_off = self._follower.config.mode == 'off'
        if self._job is None or report.key is not self._put or is_off or (
                self.target.is_paused and not is_lost):
            return
        self.last_report = report
        followed = self.target.followed
        if report.track is None:
            if followed is not None and not followed.is_withdrawn:
                self.target.set_followed(None)
            return
        self.target.set_followed(self._build(report, report.track))

    def _build(self, report: FollowReport, track: Track) -> FollowedTarget | None:
        assert self._put is not None
        is_watched = self._follower.config.mode == 'watch'
        state = STATES[track.state]
        if is_watched and track.state is TrackingState.TRACKING:
            state = TargetState.STANDING
        previous = self.target.followed
        is_unseen = track.state is TrackingState.COASTING
        is_withdrawn = (
            track.state is TrackingState.LOST or (is_watched and track.is_moved)
            or (is_unseen and previous is not None and previous.is_withdrawn))
        stays = is_watched and track.state in (TrackingState.TRACKING, TrackingState.COASTING)
        target = None if stays else self._move_target(report, track)
        return FollowedTarget(target, int(state), track.message, is_withdrawn,
                              tuple(self._build_sightings(track)), track.stamp_ns)

    def _move_target(self, report: FollowReport, track: Track) -> GraspTarget:
        assert self._put is not None
        target = place_target(self._put, report.base_from_target, np.asarray(track.covariance))
        target.header = make_header(track.stamp_ns, self._put.header.frame_id)
        return target

    def _build_sightings(self, track: Track) -> list[TargetSighting]:
        sightings = []
        for camera, seen in track.evidence.items():
            if isinstance(seen, Rejected):
                status, confidence = Status(code=int(seen.code), message=seen.message), 0.0
            else:
                status = Status(code=Status.OK if seen.is_verified else Status.NOT_VISIBLE,
                                message=str(seen))
                confidence = float(seen.agreeing / seen.expected) if seen.is_verified else 0.0
            sightings.append(TargetSighting(header=make_header(track.stamp_ns, ''), camera=camera,
                                            status=status, confidence=confidence))
        return sightings

    def explain(self) -> str:
        """Say what is followed, or why nothing is, for diagnostics."""
        if self._follower.config.mode == 'off':
            return 'off'
        if not self._can_follow:
            return NO_HISTORY
        if self._put is None:
            return 'no target'
        if self.target.is_paused:
            return 'held'
        if self._job is None:
            return 'not followed: the images of its answer are no longer kept'
        report = self.last_report
        if report is None:
            return 'not looked at yet'
        if report.track is None:
            return f'not followed: {report.reason}'
        return f'{report.track.state.value}: {report.track.message}'


class FollowServer:
    """Follows the targets, each in a thread, and offers `~/hold` and `~/resume`."""

    def __init__(self, node: LifecycleNode, config: Config, targets: Targets,
                 views: ViewCollector, queries: QueryThread,
                 get_matcher: Callable[[], Matcher | None],
                 find_located: Callable[[str], LocateResult | None],
                 call_in_executor: Callable[[Callable[[], None]], None]) -> None:
        """find_located: an answer with its images, by query; None if they are no longer kept."""
        self._node, self._targets, self._limits = node, targets, config.limits
        self._find_located = find_located
        self._can_follow = config.history_s > 0 and config.use_tf
        self.config, self.is_paused = config.follow, False

        def make_follower(take: Callable[[FollowReport], None]) -> Follower:
            follower = Follower(self.config, views, queries, get_matcher, targets.now_ns,
                                lambda report: call_in_executor(lambda: take(report)))
            follower.limits = self._limits
            return follower
        self._make_follower, self._call_in_executor = make_follower, call_in_executor
        self._jobs: deque[FollowJob] = deque(maxlen=MAX_JOBS)
        self._follows = {'': self._build(targets[''])}  # by name
        targets.listeners.append(self._on_target)
        self._services = [node.create_service(Trigger, '~/hold', self._on_hold),
                          node.create_service(Trigger, '~/resume', self._on_resume)]

    def close(self) -> None:
        """End the threads, and take the services off the graph."""
        for follow in self._follows.values():
            follow.close()
        for service in self._services:
            self._node.destroy_service(service)

    def set_config(self, config: FollowConfig) -> None:
        """Take other parameters; with `off` the targets are where they were clicked."""
        self.config = config
        for follow in tuple(self._follows.values()):
            follow.set_config(config)

    def set_limits(self, limits: Limits) -> None:
        """Take other limits."""
        self._limits = limits
        for follow in self._follows.values():
            follow.set_limits(limits)

    def list_follows(self) -> list[TargetFollow]:
        """Return what follows each target, that without a name first."""
        return [self._follows[name] for name in sorted(self._follows)]

    def _build(self, target: ActiveTarget) -> TargetFollow:
        target.is_paused = self.is_paused
        return TargetFollow(target, self._can_follow, self._find_located, self._jobs,
                            self._make_follower, self._call_in_executor)

    def _on_target(self, target: ActiveTarget) -> None:
        if target.name not in self._follows and target.step is not None:
            self._follows[target.name] = self._build(target)
        follow = self._follows.get(target.name)
        if follow is not None:
            follow.update()
        if target.name and target.step is None and follow is not None:  # it has ended
            self._follows.pop(target.name).close()

    def _on_hold(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._set_paused(True, 'held: the target is not followed until ~/resume')
        response.success, response.message = True, 'held'
        return response

    def _on_resume(self, request: Trigger.Request, response: Trigger.Response
                   ) -> Trigger.Response:
        response.success = self.is_paused
        response.message = 'resumed' if self.is_paused else 'it was not held'
        if self.is_paused:
            self._set_paused(False, 'resumed')
        return response

    def _set_paused(self, is_paused: bool, message: str) -> None:
        self.is_paused = is_paused
        for follow in tuple(self._follows.values()):
            follow.set_paused(is_paused, message)
