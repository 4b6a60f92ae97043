"""From a request to the views it speaks of, each with its pose at its own stamp."""
from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np

from crosspoint_ros.core.datatypes import Array, Code, Rejected, Transform, Unseen, View
from crosspoint_ros.core.pipeline import LocateResult, ground, locate
from crosspoint_ros.core.verify import Limits
from crosspoint_ros.core.visibility import best_view
from crosspoint_ros.ros.config import Config
from crosspoint_ros.ros.node.image_buffer import FrameMemory
from crosspoint_ros.ros.node.query_queue import Job, Request
from crosspoint_ros.ros.tf import Transforms

if TYPE_CHECKING:
    from crosspoint_ros.ros.node.matcher_runtime import Matchers


@dataclass(frozen=True, eq=False)
class Gathered:
    """What `locate` needs; pixel is None when an instruction has yet to be grounded."""

    clicked: View
    others: tuple[View | Unseen, ...]
    pixel: Array | None


class Remembers(Protocol):
    """A camera whose images are remembered."""

    @property
    def frames(self) -> FrameMemory:
        """What has come."""
        ...


class ViewSource:
    """Waits, in the query's thread, for the images and transforms of a request.

    now_s: the clock by which it waits; the frames and the transforms have clocks of their own.
    """

    def __init__(self, cameras: Mapping[str, Remembers], transforms: Transforms, config: Config,
                 now_s: Callable[[], float] = time.monotonic) -> None:
        self._cameras, self._transforms, self._config = cameras, transforms, config
        self._now_s = now_s

    def gather(self, job: Job) -> Gathered:
        """Return the views of a request. Raises `Rejected` when the clicked one is missing.

        Another view that is missing becomes `Unseen`: the rest can still be answered.
        """
        request = job.request
        self._check(request)
        job.enter('wait_images')
        self._wait_for_images(job)
        if request.point_m is not None:
            return self._gather_around_point(job, request)
        clicked = self._clicked(request)
        others = [self._other(name, clicked.stamp_ns) for name in self._others(request)]
        job.enter('transforms')
        posed = self._posed(clicked, job)
        return Gathered(posed, self._posed_others(others, job), _pixel(request, posed))

    def newest_known(self) -> tuple[View, ...]:
        """Return the newest views that can be used right now, without waiting; posed if TF can."""
        newest = [view for name in self._cameras if isinstance(view := self._newest(name), View)]
        return tuple(self._posed_at_once(view) for view in newest)

    def _posed_at_once(self, view: View) -> View:
        try:
            return replace(view, base_from_cam=self._transforms.lookup(
                self._config.base_frame, view.frame_id, view.stamp_ns, 0.0, lambda: False))
        except Rejected:  # nobody asked yet: what can be prepared without a pose is
            return view

    def _gather_around_point(self, job: Job, request: Request) -> Gathered:
        views = [self._newest(name) for name in self._cameras]
        job.enter('transforms')
        posed = self._posed_others(views, job)
        assert request.point_m is not None
        newest_ns = max((v.stamp_ns for v in posed if isinstance(v, View)), default=0)
        if not newest_ns:
            raise _none_usable([v for v in posed if isinstance(v, Unseen)])
        point_base_m = self._lookup(request.point_frame, newest_ns, job).point(request.point_m)
        clicked, pixel = best_view(posed, point_base_m, self._config.limits.max_depth_gap_m)
        return Gathered(clicked, tuple(v for v in posed if v is not clicked), pixel)

    def _check(self, request: Request) -> None:
        known = ', '.join(self._cameras)
        named = [*request.other_cameras, *([] if request.point_m is not None else [request.camera])]
        for name in named:
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

    def _others(self, request: Request) -> tuple[str, ...]:
        return request.other_cameras or tuple(n for n in self._cameras if n != request.camera)

    # --- images

    def _wait_for_images(self, job: Job) -> None:
        """Wait up to `limits.wait_images_s`, in all, for what is not there yet.

        What stays away is refused by name when it is asked for.
        """
        request, end_s = job.request, self._now_s() + self._config.times.wait_images_s
        names = self._cameras if request.point_m is not None else (
            request.camera, *self._others(request))
        for name in names:
            frames = self._cameras[name].frames
            arrived = partial(frames.ready, request.stamp_ns if name == request.camera else 0)
            frames.wait_for(arrived, end_s - self._now_s(), lambda: job.ended)

    def _clicked(self, request: Request) -> View:
        frames = self._cameras[request.camera].frames
        return frames.at(request.stamp_ns) if request.stamp_ns else frames.newest()

    def _other(self, name: str, clicked_ns: int) -> View | Unseen:
        try:
            return self._cameras[name].frames.nearest(
                clicked_ns, self._config.times.max_view_gap_s)
        except Rejected as rejected:
            return Unseen(name, rejected)

    def _newest(self, name: str) -> View | Unseen:
        try:
            return self._cameras[name].frames.newest()
        except Rejected as rejected:
            return Unseen(name, rejected)

    # --- poses

    def _posed_others(self, views: Sequence[View | Unseen], job: Job) -> tuple[View | Unseen, ...]:
        posed: list[View | Unseen] = []
        for view in views:
            try:
                posed.append(view if isinstance(view, Unseen) else self._posed(view, job))
            except Rejected as rejected:
                posed.append(Unseen(view.camera, rejected))
        return tuple(posed)

    def _posed(self, view: View, job: Job) -> View:
        if not view.frame_id:
            raise Rejected(Code.NO_TF, f'the images of {view.camera} have an empty frame_id')
        return replace(view, base_from_cam=self._lookup(view.frame_id, view.stamp_ns, job))

    def _lookup(self, frame_id: str, stamp_ns: int, job: Job) -> Transform:
        return self._transforms.lookup(self._config.base_frame, frame_id, stamp_ns,
                                       self._config.times.wait_tf_s, lambda: job.ended)


def _none_usable(unseen: Sequence[Unseen]) -> Rejected:
    each = '; '.join(f'{one.camera}: {one.rejected.message}' for one in unseen)
    return Rejected(unseen[0].rejected.code, each)


def _pixel(request: Request, clicked: View) -> Array | None:
    if request.pixel is None:
        return None
    if not request.clamp:
        return request.pixel
    lens = clicked.intrinsics
    inside = np.clip(request.pixel, 0.0, (lens.width_px - 1, lens.height_px - 1))
    # Further out it is a click on another picture than this one: refused, not moved.
    return inside if np.abs(inside - request.pixel).max() <= 1 else request.pixel


def answer(job: Job, views: ViewSource, matchers: Matchers, limits: Limits) -> LocateResult:
    """Gather the views, find the pixel of an instruction, and locate it; raises `Rejected`."""
    gathered = views.gather(job)
    pixel, meant = gathered.pixel, 1.0
    if pixel is None:
        named = ground(gathered.clicked, job.request.instruction, matchers.matcher)
        pixel, meant = named.pixel, named.confidence
    return locate(gathered.clicked, gathered.others, pixel, matchers.matcher, limits, job.enter,
                  matchers.refiner, meant)
