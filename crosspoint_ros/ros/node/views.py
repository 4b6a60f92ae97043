"""Collects the views of a query, each with its pose at its own stamp, and runs `locate`."""
from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np

from crosspoint_ros.core.datatypes import Array, Code, MissingView, Rejected, Transform, View
from crosspoint_ros.core.depth import select_best_view
from crosspoint_ros.core.geometry import require_pose
from crosspoint_ros.core.pipeline import LocateResult, ground, locate
from crosspoint_ros.core.track.parallax import (
    MIN_BASELINE_M,
    lift_by_motion,
    list_bare_views,
    may_gain,
    select_frames,
)
from crosspoint_ros.core.track.still import MAX_FRAMES, has_moved
from crosspoint_ros.core.verify import Limits
from crosspoint_ros.ros.camera_checks import check_frame_id, check_stamp
from crosspoint_ros.ros.config import Config
from crosspoint_ros.ros.node.image_buffer import ImageBuffer
from crosspoint_ros.ros.node.query_queue import QueryRequest, QueryTask
from crosspoint_ros.ros.tf import TransformLookup

if TYPE_CHECKING:
    from crosspoint_ros.ros.node.matcher_runtime import Matchers


MOVING_S = 1.5  # a camera that has moved since so long ago moves
IMAGES_ONLY = ('use_tf is false: images alone, without 3D; for a target set use_tf: true and send '
               'the transform from base_frame to the frame of each camera')


@dataclass(frozen=True, eq=False)
class QueryViews:
    """The input of `locate`; pixel is None when an instruction has yet to be grounded."""

    clicked: View
    others: tuple[View | MissingView, ...]
    pixel: Array | None


class HasBuffer(Protocol):
    """A camera with an image buffer."""

    @property
    def buffer(self) -> ImageBuffer:
        """Its recent images."""
        ...


class ViewCollector:
    """Waits, in the query's thread, for the images and transforms of a request.

    now_s: the clock by which it waits; the buffers and the transforms have their own.
    """

    def __init__(self, cameras: Mapping[str, HasBuffer], transforms: TransformLookup,
                 config: Config, now_s: Callable[[], float] = time.monotonic) -> None:
        self._cameras, self._transforms, self._config = cameras, transforms, config
        self._now_s = now_s

    @property
    def config(self) -> Config:
        """The parameters of the node."""
        return self._config

    def collect(self, task: QueryTask) -> QueryViews:
        """Return the views of a request. Raises `Rejected` if the clicked one is missing.

        Another view that is missing becomes a `MissingView`: the rest can still be answered.
        """
        request = task.request
        self._validate(request)
        task.enter_stage('wait_images')
        self._wait_for_images(task)
        if request.point_m is not None:
            return self._collect_for_point(task, request, request.point_m)
        clicked = self._get_clicked_view(request)
        others = [self._get_other_view(name, clicked.stamp_ns)
                  for name in self._list_other_cameras(request)]
        task.enter_stage('transforms')
        clicked = self._add_pose(clicked, task)
        return QueryViews(clicked, self._add_poses(others, task), _resolve_pixel(request, clicked))

    def collect_newest(self) -> tuple[View, ...]:
        """Return the newest usable views without waiting, with their poses if TF has them."""
        newest = [view for name in self._cameras
                  if isinstance(view := self._get_newest_view(name), View)]
        return tuple(self._add_pose_if_known(view) for view in newest)

    @property
    def cameras(self) -> tuple[str, ...]:
        """The names of the cameras."""
        return tuple(self._cameras)

    @property
    def max_image_age_s(self) -> float:
        """How old an image may be to be used, s."""
        return self._config.times.max_image_age_s

    def get_period_s(self, camera: str) -> float | None:
        """Return the time between the usable images of a camera, s; None if it is unknown."""
        return self._cameras[camera].buffer.get_period_s()

    def collect_for_following(self, should_stop: Callable[[], bool]
                              ) -> tuple[View | MissingView, ...]:
        """Return the newest view of each camera with its pose, or why it is missing.

        Waits for TF as a query does: it may come after its image.
        """
        def add_pose(view: View) -> View:
            return replace(view, base_from_cam=self._transforms.lookup(
                self._config.base_frame, view.frame_id, view.stamp_ns,
                self._config.times.wait_tf_s, should_stop))

        newest = [self._get_newest_view(name) for name in self._cameras]
        return tuple(view if isinstance(view, MissingView) else
                     _get_view(view.camera, partial(add_pose, view)) for view in newest)

    def collect_further(self, view: View, task: QueryTask, after_ns: int, *,
                        at_rest: bool = False) -> list[View]:
        """Return some further images of a view's camera, newer than a stamp, with their poses.

        Those from other places than the view's: the others are not even decoded. at_rest: those
        from the view's place, the oldest and the newest among them, instead.
        """
        buffer = self._cameras[view.camera].buffer
        stamps_ns = [at for at in buffer.list_stamps_ns() if at > after_ns and at != view.stamp_ns]
        spread = np.linspace(0, len(stamps_ns) - 1, min(len(stamps_ns), MAX_FRAMES))
        further = []
        for at_ns in (stamps_ns[round(index)] for index in spread):
            try:
                pose = self._lookup_transform(view.frame_id, at_ns, task)
                away_m = np.linalg.norm(pose.t_m - require_pose(view).t_m)
                if (away_m <= MIN_BASELINE_M) == at_rest:
                    further.append(replace(buffer.get_view_at(at_ns), base_from_cam=pose))
            except Rejected:
                continue
        return further

    def wait_for_further(self, view: View, task: QueryTask, after_ns: int, timeout_s: float
                         ) -> int:
        """Wait for an image of a view's camera that is newer than a stamp; return its stamp, or 0.
        """
        buffer = self._cameras[view.camera].buffer
        has_come = buffer.wait_for(lambda: (buffer.get_newest_stamp_ns() or 0) > after_ns,
                                   timeout_s, lambda: task.is_done)
        return (buffer.get_newest_stamp_ns() or 0) if has_come else 0

    def _add_pose_if_known(self, view: View) -> View:
        try:
            return view if not self._config.use_tf else replace(
                view, base_from_cam=self._transforms.lookup(
                    self._config.base_frame, view.frame_id, view.stamp_ns))
        except Rejected:  # no query yet: a matcher prepares what it can without a pose
            return view

    def _collect_for_point(self, task: QueryTask, request: QueryRequest, point_m: Array
                           ) -> QueryViews:
        newest = [self._get_newest_view(name) for name in self._cameras]
        task.enter_stage('transforms')
        views = self._add_poses(newest, task)
        newest_ns = max((v.stamp_ns for v in views if isinstance(v, View)), default=0)
        if not newest_ns:
            raise _join_rejections([v for v in views if isinstance(v, MissingView)])
        base_from_point = self._lookup_transform(request.point_frame, newest_ns, task)
        clicked, pixel = select_best_view(views, base_from_point.transform_points(point_m),
                                          self._config.limits.max_depth_gap_m)
        return QueryViews(clicked, tuple(v for v in views if v is not clicked), pixel)

    def _validate(self, request: QueryRequest) -> None:
        named = [*request.other_cameras, *([] if request.point_m is not None else [request.camera])]
        for name in named:
            if name not in self._cameras:
                raise Rejected(Code.BAD_REQUEST, f'there is no camera {name!r}; known: '
                               f'{", ".join(self._cameras)}')
        if request.camera in request.other_cameras:
            raise Rejected(Code.BAD_REQUEST, f'{request.camera} is both clicked and searched')
        pixel = request.pixel
        if pixel is not None and not np.isfinite(pixel).all():
            raise Rejected(Code.BAD_REQUEST, f'the pixel ({pixel[0]}, {pixel[1]}) is not finite, '
                           'and there is no instruction')
        if request.point_m is not None and not np.isfinite(request.point_m).all():
            raise Rejected(Code.BAD_REQUEST, f'the 3D point {request.point_m} is not finite')
        if request.point_m is not None and not self._config.use_tf:
            raise Rejected(Code.NO_TF, f'a 3D point is in no image: {IMAGES_ONLY}')

    def _list_other_cameras(self, request: QueryRequest) -> tuple[str, ...]:
        return request.other_cameras or tuple(n for n in self._cameras if n != request.camera)

    # --- images

    def _wait_for_images(self, task: QueryTask) -> None:
        """Wait up to `limits.wait_images_s`, in all, for images that have not come yet.

        One that stays away is rejected by name when it is needed.
        """
        request, end_s = task.request, self._now_s() + self._config.times.wait_images_s

        def wait(name: str, at_ns: int = 0, max_gap_s: float = 0.0) -> None:
            buffer = self._cameras[name].buffer
            buffer.wait_for(lambda: buffer.is_ready(at_ns, max_gap_s), end_s - self._now_s(),
                            lambda: task.is_done)

        if request.point_m is not None:
            for name in self._cameras:
                wait(name)
            return
        wait(request.camera, request.stamp_ns)
        clicked_ns = (request.stamp_ns
                      or self._cameras[request.camera].buffer.get_newest_stamp_ns() or 0)
        for name in self._list_other_cameras(request):
            wait(name, clicked_ns, self._config.times.max_view_gap_s)

    def _get_clicked_view(self, request: QueryRequest) -> View:
        buffer = self._cameras[request.camera].buffer
        return (buffer.get_view_at(request.stamp_ns) if request.stamp_ns
                else buffer.get_newest_view())

    def _get_other_view(self, name: str, clicked_ns: int) -> View | MissingView:
        return _get_view(name, lambda: self._cameras[name].buffer.get_nearest_view(
            clicked_ns, self._config.times.max_view_gap_s))

    def _get_newest_view(self, name: str) -> View | MissingView:
        return _get_view(name, self._cameras[name].buffer.get_newest_view)

    # --- poses

    def _add_poses(self, views: Sequence[View | MissingView], task: QueryTask
                   ) -> tuple[View | MissingView, ...]:
        return tuple(view if isinstance(view, MissingView) else
                     _get_view(view.camera, partial(self._add_pose, view, task)) for view in views)

    def _add_pose(self, view: View, task: QueryTask) -> View:
        if not self._config.use_tf:
            return view
        topics = self._cameras[view.camera].buffer.topics
        for fault in (*check_frame_id(topics, view.frame_id), *check_stamp(topics, view.stamp_ns)):
            raise fault
        return replace(view, base_from_cam=self._lookup_transform(view.frame_id, view.stamp_ns,
                                                                  task))

    def _lookup_transform(self, frame_id: str, stamp_ns: int, task: QueryTask) -> Transform:
        return self._transforms.lookup(self._config.base_frame, frame_id, stamp_ns,
                                       self._config.times.wait_tf_s, lambda: task.is_done)


def _get_view(camera: str, get: Callable[[], View]) -> View | MissingView:
    try:
        return get()
    except Rejected as rejected:
        return MissingView(camera, rejected)


def _join_rejections(missing: Sequence[MissingView]) -> Rejected:
    each = '; '.join(f'{view.camera}: {view.rejected.message}' for view in missing)
    return Rejected(missing[0].rejected.code, each)


def _resolve_pixel(request: QueryRequest, clicked: View) -> Array | None:
    if request.pixel is None or not request.clamp:
        return request.pixel
    height, width = clicked.image.shape[:2]
    clamped = np.clip(request.pixel, 0.0, (width - 1, height - 1))
    # Further out it is a click on another image: to be rejected, not moved.
    return clamped if np.abs(clamped - request.pixel).max() <= 1 else request.pixel


def locate_query(task: QueryTask, views: ViewCollector, matchers: Matchers, limits: Limits
                 ) -> LocateResult:
    """Collect the views, ground the instruction, if any, and locate. Raises `Rejected`."""
    collected = views.collect(task)
    pixel, pixel_confidence = collected.pixel, 1.0
    if pixel is None:
        grounded = ground(collected.clicked, task.request.instruction, matchers.matcher)
        pixel, pixel_confidence = grounded.pixel, grounded.confidence
    result = locate(collected.clicked, collected.others, pixel, matchers.matcher, limits,
                    refiner=matchers.refiner, pixel_confidence=pixel_confidence,
                    allow_unconfirmed=views.config.allow_unconfirmed,
                    approach=task.request.approach.fill(views.config.default_approach),
                    on_stage=task.enter_stage)
    if not views.config.use_tf:
        return explain_images_only(result)
    return place_by_motion(task, views, result, limits, pixel_confidence)


def place_by_motion(task: QueryTask, views: ViewCollector, result: LocateResult, limits: Limits,
                    pixel_confidence: float) -> LocateResult:
    """Place a click without depth by further images of cameras that move, where there are any.

    Those of the last `history_s`; then, as long as such a camera moves and the clicked point does
    not, up to `limits.wait_images_s` for more.
    """
    end_s = time.monotonic() + views.config.times.wait_images_s
    bare = list_bare_views(result)
    known = {view.camera: [view] for view in bare}
    seen_ns, newest_ns = dict.fromkeys([result.clicked.camera, *known], 0), 0
    rests: list[View] = []

    def collect(view: View, *, at_rest: bool = False) -> list[View]:
        frames = views.collect_further(view, task, seen_ns[view.camera], at_rest=at_rest)
        seen_ns[view.camera] = max(seen_ns[view.camera], view.stamp_ns,
                                   *(frame.stamp_ns for frame in frames))
        return frames

    while may_gain(result) and not task.is_done:
        for view in bare:
            known[view.camera] += collect(view)
        further = [frame for frames in known.values() for frame in frames[1:]]
        if further:  # the clicked camera last: it says up to when the point rests
            rests += collect(result.clicked, at_rest=True)
            result = lift_by_motion(result, [*further, *rests], limits, pixel_confidence)
        moving = [view for view in bare if is_camera_moving(known[view.camera])]
        left_s = end_s - time.monotonic()
        if not moving or left_s <= 0 or has_moved(result, rests):
            break
        newest_ns = views.wait_for_further(moving[0], task, max(
            newest_ns, seen_ns[moving[0].camera]), left_s)
        if not newest_ns:
            break
    return result


def is_camera_moving(views: Sequence[View]) -> bool:
    """Return whether a camera's newest image is of another place than one shortly before."""
    newest = max(views, key=lambda one: one.stamp_ns)
    return bool(select_frames(newest, [
        one for one in views if newest.stamp_ns - one.stamp_ns < MOVING_S * 1e9]))


def explain_images_only(result: LocateResult) -> LocateResult:
    """Return the result of views without poses; that it has no target is by `use_tf`."""
    return replace(result, no_target=Rejected(Code.NO_DEPTH, IMAGES_ONLY))
