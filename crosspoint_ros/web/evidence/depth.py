"""Depth for the page: coloured over a picture, and as a cloud of points in the base frame."""
from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import CompressedImage, Image

from crosspoint_ros.core.datatypes import Array, Intrinsics, Rejected, Transform
from crosspoint_ros.core.encodings import depth_m_from_msg
from crosspoint_ros.core.tf_tree import stamp_to_ns
from crosspoint_ros.ros.client.node_info import NodeCamera
from crosspoint_ros.ros.client.results import Json
from crosspoint_ros.web.image_streams import NEWEST_QOS
from crosspoint_ros.web.ros_bridge import RosBridge

MAX_OVERLAY_PX = 320  # its larger side: depth is smooth, and the link may be slow
RANGE_PERCENT = (2, 98)  # of the depths that the colours span
MAX_POINTS = 24_000  # of all cameras together
UNUSED_TIMEOUT_S = 5.0
FIRST_TIMEOUT_S = 3.0
MAX_AGE_S = 2.0  # since it came: what moved meanwhile would be shown where it was
Lens = tuple[Intrinsics, Transform]


class DepthMissingError(Exception):
    """There is no depth of now; the message is for the user."""


class DepthStreams:
    """Subscribes to the depth that browsers ask for, until they stop. For asyncio's thread."""

    def __init__(self, bridge: RosBridge, pool: ThreadPoolExecutor) -> None:
        self._bridge, self._pool = bridge, pool
        self._newest: dict[str, tuple[Image | CompressedImage, float]] = {}  # and when it came, s
        self._ends: dict[str, asyncio.TimerHandle] = {}
        self._arrivals: dict[str, asyncio.Event] = {}

    async def build_overlay(self, camera: NodeCamera) -> Json:
        """Return the newest depth as a PNG in colours, or the problem."""
        try:
            message = await self._get_newest(camera)
        except DepthMissingError as error:
            return {'png': '', 'problem': str(error)}
        return {'stamp': str(stamp_to_ns(message.header.stamp)),
                **await self._run(encode_overlay, message)}

    async def build_cloud(self, cameras: list[NodeCamera],
                          find_lens: Callable[[str, str, int], Lens | None],
                          max_points: int = MAX_POINTS) -> Json:
        """Return the points of all cameras with depth; find_lens(camera, frame_id, stamp_ns).

        cameras: those whose pictures the points have. missing: why others have none, by name.
        """
        views, missing = dict[str, tuple[Image | CompressedImage, Lens]](), dict[str, str]()
        for camera, message in zip(cameras, await asyncio.gather(
                *map(self._get_newest, cameras), return_exceptions=True), strict=True):
            if isinstance(message, DepthMissingError):
                missing[camera.name] = str(message)
                continue
            if isinstance(message, BaseException):
                raise message
            lens = find_lens(camera.name, message.header.frame_id,
                             stamp_to_ns(message.header.stamp))
            if lens:
                views[camera.name] = message, lens
            else:
                missing[camera.name] = f'{camera.name} has no pose or lens at the time of its depth'
        cloud = await self._run(encode_cloud, views, max_points)
        return {**cloud, 'missing': {**missing, **cloud['missing']}}

    async def _run(self, work: Callable[..., Json], *content: Any) -> Json:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *content)

    async def _get_newest(self, camera: NodeCamera) -> Image | CompressedImage:
        """Return the newest message; subscribe, and wait for the first.

        Raises DepthMissingError for none, and for one that is no longer true.
        """
        name, loop = camera.name, asyncio.get_running_loop()
        if name in self._ends:
            self._ends[name].cancel()
        else:
            self._arrivals[name] = asyncio.Event()
            self._bridge.subscribe(('depth', name),
                                   CompressedImage if camera.is_depth_compressed else Image,
                                   camera.depth_topic, partial(self._on_message, name), NEWEST_QOS)
        self._ends[name] = loop.call_later(UNUSED_TIMEOUT_S, self._drop, name)
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._arrivals[name].wait(), FIRST_TIMEOUT_S)
        if name not in self._newest:
            raise DepthMissingError(f'no depth on {camera.depth_topic}')
        message, arrived_s = self._newest[name]
        age_s = time.monotonic() - arrived_s
        if age_s > MAX_AGE_S:
            raise DepthMissingError(f'no depth on {camera.depth_topic} for {age_s:.0f} s')
        return message

    def _on_message(self, name: str, message: Image | CompressedImage) -> None:
        if name in self._ends:
            self._newest[name] = message, time.monotonic()
            self._arrivals[name].set()

    def _drop(self, name: str) -> None:
        del self._ends[name]
        self._newest.pop(name, None)
        self._arrivals.pop(name).set()
        self._bridge.unsubscribe(('depth', name))


def encode_overlay(message: Image | CompressedImage) -> Json:
    """Return depth as a PNG, near in red and far in blue, clear where there is none; blocks."""
    try:
        depth_m = depth_m_from_msg(message)
    except Rejected as rejected:
        return {'png': '', 'problem': rejected.message}
    step = max(1, -(-max(depth_m.shape) // MAX_OVERLAY_PX))
    small = depth_m[::step, ::step]
    is_known = np.isfinite(small) & (small > 0)
    if not is_known.any():
        return {'png': '', 'problem': 'the depth image has no depth'}
    near_m, far_m = (float(v) for v in np.percentile(small[is_known], RANGE_PERCENT))
    share = np.clip((far_m - small) / max(far_m - near_m, 1e-6), 0, 1)
    levels = np.where(is_known, np.round(255 * share), 0).astype(np.uint8)
    bgr = cv2.applyColorMap(levels, cv2.COLORMAP_JET)
    bgra = np.dstack([bgr, np.where(is_known, 255, 0).astype(np.uint8)])
    png = cv2.imencode('.png', bgra)[1].tobytes()
    return {'png': base64.b64encode(png).decode(), 'near_m': round(near_m, 3),
            'far_m': round(far_m, 3), 'problem': ''}


def encode_cloud(views: dict[str, tuple[Image | CompressedImage, Lens]],
                 max_points: int = MAX_POINTS) -> Json:
    """Return points of the base frame, as whole steps from an origin; blocks.

    points: base64 of little-endian int16 (n, 6): x, y, z in steps of `step_m`, the index in
    `cameras`, and the pixel x, y. missing: why cameras have none, by name.
    """
    clouds, missing = [], dict[str, str]()
    for index, (name, (message, lens)) in enumerate(views.items()):
        try:
            points_m, pixels = unproject_depth(depth_m_from_msg(message), lens,
                                               max(max_points // len(views), 1))
        except Rejected as rejected:
            missing[name] = rejected.message
            continue
        if not len(points_m):
            missing[name] = f'the depth of {name} is empty or of another size than its image'
            continue
        clouds.append(np.column_stack([points_m, np.full(len(points_m), index), pixels]))
    cloud = np.concatenate(clouds) if clouds else np.empty((0, 6))
    names = {'cameras': list(views), 'missing': missing}
    if not len(cloud):
        return {'points': '', 'count': 0, 'origin_m': [0, 0, 0], 'step_m': 1.0, **names}
    low, high = np.percentile(cloud[:, :3], (0.5, 99.5), axis=0)  # a far wall is of no use
    cloud = cloud[((cloud[:, :3] >= low) & (cloud[:, :3] <= high)).all(axis=1)]
    origin_m = (low + high) / 2
    step_m = max(float((high - low).max()) / 60_000, 1e-6)
    steps = np.column_stack([np.round((cloud[:, :3] - origin_m) / step_m), cloud[:, 3:]])
    return {'points': base64.b64encode(steps.astype('<i2').tobytes()).decode(),
            'count': len(cloud), 'origin_m': np.round(origin_m, 4).tolist(), 'step_m': step_m,
            **names}


def unproject_depth(depth_m: npt.NDArray[np.float32], lens: Lens, max_points: int
                    ) -> tuple[Array, Array]:
    """Return pixels of a depth image, evenly apart, as points of the base frame (n, 3), m.

    With their pixels (n, 2). Empty where the depth has another size than the lens.
    """
    intrinsics, base_from_cam = lens
    height, width = depth_m.shape
    if (width, height) != (intrinsics.width_px, intrinsics.height_px):
        return np.empty((0, 3)), np.empty((0, 2))
    step = max(1, int(np.ceil(np.sqrt(width * height / max_points))))
    y, x = np.mgrid[step // 2:height:step, step // 2:width:step]
    z_m = depth_m[y, x].ravel().astype(np.float64)
    pixels = np.column_stack([x.ravel(), y.ravel()]).astype(np.float64)
    rays_cam = intrinsics.unproject(pixels)
    points_cam_m = rays_cam / rays_cam[:, 2:] * z_m[:, None]
    is_known = np.isfinite(points_cam_m).all(axis=1) & (z_m > 0)
    return base_from_cam.transform_points(points_cam_m[is_known]), pixels[is_known]
