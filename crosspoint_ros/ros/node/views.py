"""From a request to the views it speaks of, each with its pose at its own stamp."""
from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np

from crosspoint_ros.core.datatypes import Array, Code, MissingView, Rejected, Transform, View
from crosspoint_ros.core.pipeline import LocateResult, ground, locate
from crosspoint_ros.core.verify import Limits
from crosspoint_ros.core.depth import (select_best_view)
from crosspoint_ros.ros.config import Config
from crosspoint_ros.ros.node.image_buffer import ImageBuffer
from crosspoint_ros.ros.node.query_queue import QueryRequest, QueryTask
from crosspoint_ros.ros.tf import TransformLookup

if TYPE_CHECKING:
    from crosspoint_ros.ros.node.matcher_runtime import Matchers


@dataclass(frozen=True, eq=False)
class QueryViews:
    """What `locate` needs; pixel is None when an instruction has yet to be grounded."""

    clicked: View
    others: tuple[View | MissingView, ...]
    pixel: Array | None


class HasBuffer(Protocol):
    """A camera whose images are remembered."""

    @property
    def buffer(self) -> ImageBuffer:
        """What has come."""
        ...


class ViewCollector:
    """Waits, in the query's thread, for the images and transforms of a request.

    now_s: the clock by which it waits; the frames and the transforms have clocks of their own.
    """

    def __init__(self, cameras: Mapping[str, HasBuffer], transforms: TransformLookup, config: Config,
                 now_s: Callable[[], float] = time.monotonic) -> None:
        self._cameras, self._transforms, self._config = cameras, transforms, config
        self._now_s = now_s

    def collect(self, task: QueryTask) -> QueryViews:
        """Return the views of a request. Raises `Rejected` when the clicked one is missing.

        Another view that is missing becomes `MissingView`: the rest can still be answered.
        """
        request = task.request
        self._validate(request)
        task.enter_stage('wait_images')
        self._wait_for_images(task)
        if request.point_m is not None:
            return self._collect_for_point(task, request)
        clicked = self._clicked_view(request)
        others = [self._other_view(name, clicked.stamp_ns) for name in self._other_cameras(request)]
        task.enter_stage('transforms')
        posed = self._add_pose(clicked, task)
        return QueryViews(posed, self._add_poses(others, task), _resolve_pixel(request, posed))

    def newest_views(self) -> tuple[View, ...]:
        """Return the newest views that can be used right now, without waiting; posed if TF can."""
        newest = [view for name in self._cameras if isinstance(view := self._newest_view(name), View)]
        return tuple(self._add_pose_if_known(view) for view in newest)

    def _add_pose_if_known(self, view: View) -> View:
        try:
            return replace(view, base_from_cam=self._transforms.lookup(
                self._config.base_frame, view.frame_id, view.stamp_ns, 0.0, lambda: False))
        except Rejected:  # nobody asked yet: what can be prepared without a pose is
            return view

    def _collect_for_point(self, task: QueryTask, request: QueryRequest) -> QueryViews:
        views = [self._newest_view(name) for name in self._cameras]
        task.enter_stage('transforms')
        posed = self._add_poses(views, task)
        assert request.point_m is not None
        newest_ns = max((v.stamp_ns for v in posed if isinstance(v, View)), default=0)
        if not newest_ns:
            raise _no_usable_view([v for v in posed if isinstance(v, MissingView)])
        point_base_m = self._lookup_transform(request.point_frame, newest_ns, task).transform_points(request.point_m)
        clicked, pixel = select_best_view(posed, point_base_m, self._config.limits.max_depth_gap_m)
        return QueryViews(clicked, tuple(v for v in posed if v is not clicked), pixel)

    def _validate(self, request: QueryRequest) -> None:
        known = ', '.join(self._cameras)
        grounded = [*request.other_cameras, *([] if request.point_m is not None else [request.camera])]
        for name in grounded:
            if name not in self._cameras:
                raise Rejected(Code.BAD_REQUEST, f'there is no camera {name!r}; known: {known}')
        if request.camera in request.other_cameras:
            raise Rejected(Code.BAD_REQUEST, f'{request.camera} is both clicked and searched')
        pixel = request.pixel
        if pixel is not None and not np.isfinite(pixel).all():
            raise Rejected(Code.BAD_REQUEST, f'the pixel ({pixel[0]}, {pixel[1]}) is not finite, '
                           'and there is no instruction')
        if request.point_m is not None and not np.isfinite(request.point_m).all():
            raise Rejected(Code.BAD_REQUEST, f'the 3D point {request.point_m} is not finite')

    def _other_cameras(self, request: QueryRequest) -> tuple[str, ...]:
        return request.other_cameras or tuple(n for n in self._cameras if n != request.camera)

    # --- images

    def _wait_for_images(self, task: QueryTask) -> None:
        """Wait up to `limits.wait_images_s`, in all, for what is not there yet.

        What stays away is refused by name when it is asked for.
        """
        request, end_s = task.request, self._now_s() + self._config.times.wait_images_s
        names = self._cameras if request.point_m is not None else (
            request.camera, *self._other_cameras(request))
        for name in names:
            frames = self._cameras[name].buffer
            arrived = partial(frames.is_ready, request.stamp_ns if name == request.camera else 0)
            frames.wait_for(arrived, end_s - self._now_s(), lambda: task.is_done)

    def _clicked_view(self, request: QueryRequest) -> View:
        frames = self._cameras[request.camera].buffer
        return frames.view_at(request.stamp_ns) if request.stamp_ns else frames.newest_view()

    def _other_view(self, name: str, clicked_ns: int) -> View | MissingView:
        try:
            return self._cameras[name].buffer.nearest_view(
                clicked_ns, self._config.times.max_view_gap_s)
        except Rejected as rejected:
            return MissingView(name, rejected)

    def _newest_view(self, name: str) -> View | MissingView:
        try:
            return self._cameras[name].buffer.newest_view()
        except Rejected as rejected:
            return MissingView(name, rejected)

    # --- poses

    def _add_poses(self, views: Sequence[View | MissingView], task: QueryTask) -> tuple[View | MissingView, ...]:
        posed: list[View | MissingView] = []
        for view in views:
            try:
                posed.append(view if isinstance(view, MissingView) else self._add_pose(view, task))
            except Rejected as rejected:
                posed.append(MissingView(view.camera, rejected))
        return tuple(posed)

    def _add_pose(self, view: View, task: QueryTask) -> View:
        if not view.frame_id:
            raise Rejected(Code.NO_TF, f'the images of {view.camera} have an empty frame_id')
        return replace(view, base_from_cam=self._lookup_transform(view.frame_id, view.stamp_ns, task))

    def _lookup_transform(self, frame_id: str, stamp_ns: int, task: QueryTask) -> Transform:
        return self._transforms.lookup(self._config.base_frame, frame_id, stamp_ns,
                                       self._config.times.wait_tf_s, lambda: task.is_done)


def _no_usable_view(unseen: Sequence[MissingView]) -> Rejected:
    each = '; '.join(f'{one.camera}: {one.rejected.message}' for one in unseen)
    return Rejected(unseen[0].rejected.code, each)


def _resolve_pixel(request: QueryRequest, clicked: View) -> Array | None:
    if request.pixel is None:
        return None
    if not request.clamp:
        return request.pixel
    lens = clicked.intrinsics
    inside = np.clip(request.pixel, 0.0, (lens.width_px - 1, lens.height_px - 1))
    # Further out it is a click on another picture than this one: refused, not moved.
    return inside if np.abs(inside - request.pixel).max() <= 1 else request.pixel


def locate_query(task: QueryTask, views: ViewCollector, matchers: Matchers, limits: Limits) -> LocateResult:
    """Gather the views, find the pixel of an instruction, and locate it; raises `Rejected`."""
    gathered = views.collect(task)
    pixel, pixel_confidence = gathered.pixel, 1.0
    if pixel is None:
        grounded = ground(gathered.clicked, task.request.instruction, matchers.matcher)
        pixel, pixel_confidence = grounded.pixel, grounded.confidence
    return locate(gathered.clicked, gathered.others, pixel, matchers.matcher, limits, task.enter_stage,
                  matchers.refiner, pixel_confidence)
