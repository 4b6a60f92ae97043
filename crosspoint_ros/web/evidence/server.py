"""What an answer rests on, for the page: epipolar lines, depth, and earlier answers."""
from __future__ import annotations

import asyncio
import base64
import contextlib
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from crosspoint_ros.core.datatypes import Array, Intrinsics, Transform
from crosspoint_ros.core.geometry import epipolar_segment
from crosspoint_ros.core.tf_tree import stamp_to_ns
from crosspoint_ros.msg import QueryResult
from crosspoint_ros.ros.client.node_info import NodeCamera
from crosspoint_ros.ros.client.results import Json, result_to_json
from crosspoint_ros.web import protocol
from crosspoint_ros.web.evidence.depth import DepthStreams
from crosspoint_ros.web.evidence.settings import Doctor, read_limits
from crosspoint_ros.web.image_streams import CameraImage, ImageStreams
from crosspoint_ros.web.overlay import Overlay
from crosspoint_ros.web.ros_bridge import NodeUnavailableError, RosBridge
from crosspoint_ros.web.session import BrowserSession

THUMBNAIL_PX = (96, 72)
THUMBNAIL_SHARE = 0.3  # of the image's width, around the click
FindResult = Callable[[str], QueryResult | None]


class EvidenceServer:
    """Answers the requests of one browser that concern no one else. Runs in asyncio's thread."""

    def __init__(self, bridge: RosBridge, streams: ImageStreams, overlay: Overlay,
                 find_result: FindResult, list_cameras: Callable[[], Sequence[NodeCamera]],
                 make_plain: Callable[[str], str]) -> None:
        """`find_result` returns the result of a query_id, `list_cameras` the node's cameras."""
        self._streams, self._overlay = streams, overlay
        self._find_result, self._make_plain = find_result, make_plain
        self._list_cameras = list_cameras
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix='evidence')
        self._bridge, self._doctor = bridge, Doctor(bridge.name)
        self._depth = DepthStreams(bridge, self._pool)
        self._tasks: set[asyncio.Task[None]] = set()

    def serve(self, session: BrowserSession, request: protocol.EvidenceRequest) -> None:
        """Send the reply, at once or when it is ready."""
        if isinstance(request, protocol.HoverRequest):
            session.send_event(protocol.encode_event('lines', {
                'camera': request.camera, 'x': request.x, 'y': request.y,
                'lines': self._build_lines(request)}))
        elif isinstance(request, protocol.OpenRequest):
            session.send_event(protocol.encode_event('opened', self._open(request.query_id)))
        else:
            task = asyncio.ensure_future(self._serve_later(session, request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve_later(self, session: BrowserSession,
                           request: protocol.EvidenceRequest) -> None:
        if isinstance(request, protocol.ThumbnailRequest):
            await self._send_thumbnail(session, request.query_id)
            return
        if isinstance(request, protocol.LimitsRequest):
            with contextlib.suppress(NodeUnavailableError):  # the page asks again
                session.send_event(protocol.encode_event('limits', {
                    'limits': await read_limits(self._bridge)}))
            return
        if isinstance(request, protocol.DoctorRequest):
            session.send_event(protocol.encode_event('doctor', await self._doctor.examine()))
            return
        cameras = [camera for camera in self._list_cameras() if camera.depth_topic]
        if isinstance(request, protocol.CloudRequest):
            session.send_event(protocol.encode_event('cloud', {
                **await self._depth.build_cloud(cameras, self._overlay.find_lens_at),
                'cameras': [camera.name for camera in cameras]}))
        elif isinstance(request, protocol.DepthRequest):
            camera = next((each for each in cameras if each.name == request.camera), None)
            overlay = {'png': '', 'problem': f'{request.camera} has no depth'} if camera is None \
                else await self._depth.build_overlay(camera)
            session.send_event(protocol.encode_event('depth', {
                'camera': request.camera, **overlay}))

    def _build_lines(self, request: protocol.HoverRequest) -> Json:
        """Return where the other cameras show the ray of a pixel; none without poses."""
        image = self._streams.find_sent(request.camera, request.stamp)
        clicked = image and self._overlay.find_lens(image)
        if not clicked:
            return {}
        lines = {}
        for name, newest in self._streams.newest.items():
            other = self._overlay.find_lens(newest) if name != request.camera else None
            if other is not None:
                line = project_ray((request.x, request.y), clicked, other)
                if len(line) > 1:
                    lines[name] = np.round(line, 1).tolist()
        return lines

    def _open(self, query_id: str) -> Json:
        """Return an earlier answer; `result` is None if it is not known any more."""
        result = self._find_result(query_id)
        if result is None:
            return {'query_id': query_id, 'result': None}
        content = result_to_json(result)
        for each in (content, *content['found']):
            each['message'] = self._make_plain(each['message'])
        return {'query_id': query_id, 'result': content}

    async def _send_thumbnail(self, session: BrowserSession, query_id: str) -> None:
        result, data = self._find_result(query_id), ''
        if result is not None and math.isfinite(result.clicked.x):
            clicked = result.clicked
            image = self._streams.find_sent(clicked.camera, str(stamp_to_ns(clicked.header.stamp)))
            if image is not None:
                data = await self._encode_thumbnail(image, (clicked.x, clicked.y))
        session.send_event(protocol.encode_event('thumbnail', {
            'query_id': query_id, 'jpeg': data}))

    async def _encode_thumbnail(self, image: CameraImage, pixel: tuple[float, float]) -> str:
        header, jpeg = await image.encode(self._pool)
        if 'problem' in header:
            return ''
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, crop_thumbnail, jpeg, pixel, header['width'])


def project_ray(pixel: tuple[float, float], clicked: tuple[Intrinsics, Transform],
                other: tuple[Intrinsics, Transform]) -> Array:
    """Project the clicked ray to pixels (n, 2) of the other view, near its image.

    clicked, other: intrinsics and base_from_cam. (0, 2) where the lens cannot unproject the pixel,
    or the other camera does not see the ray.
    """
    (lens, base_from_clicked), (other_lens, base_from_other) = clicked, other
    if not np.isfinite(lens.unproject(np.asarray(pixel))).all():
        return np.empty((0, 2))
    line = epipolar_segment(lens, other_lens, base_from_other.inverse @ base_from_clicked, pixel)
    size = np.array([other_lens.width_px, other_lens.height_px])
    is_near = ((line > -size) & (line < 2 * size)).all(axis=1)
    near: Array = line[is_near]
    return near


def crop_thumbnail(jpeg: bytes, pixel: tuple[float, float], width_px: int) -> str:
    """Return the surroundings of a pixel as a small JPEG in base64, with its cross.

    width_px: of the camera's image; the JPEG may be smaller.
    """
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    bgr = cv2.imdecode(np.frombuffer(jpeg, np.uint8), flags)
    if bgr is None:
        return ''
    ratio = bgr.shape[1] / width_px
    scale = THUMBNAIL_PX[0] / (THUMBNAIL_SHARE * bgr.shape[1])
    x, y = (ratio * (v + 0.5) - 0.5 for v in pixel)
    middle = ((THUMBNAIL_PX[0] - 1) / 2, (THUMBNAIL_PX[1] - 1) / 2)
    matrix = np.array([[scale, 0, middle[0] - scale * x], [0, scale, middle[1] - scale * y]])
    small = cv2.warpAffine(bgr, matrix, THUMBNAIL_PX, flags=cv2.INTER_AREA)
    encoded = cv2.imencode('.jpg', small, (cv2.IMWRITE_JPEG_QUALITY, 70))[1]
    return base64.b64encode(encoded.tobytes()).decode()
