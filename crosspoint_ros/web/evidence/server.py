"""What an answer rests on, for the page: epipolar lines, depth, and earlier answers."""
from __future__ import annotations

import asyncio
import base64
import logging
import math
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import cv2
import numpy as np

from crosspoint_ros.core.datatypes import Array
from crosspoint_ros.core.geometry import epipolar_segment
from crosspoint_ros.core.tf_tree import stamp_to_ns
from crosspoint_ros.msg import QueryResult
from crosspoint_ros.ros.client.node_info import NodeCamera
from crosspoint_ros.ros.client.results import Json, result_to_json
from crosspoint_ros.web import protocol
from crosspoint_ros.web.evidence.depth import MAX_POINTS, DepthStreams, Lens
from crosspoint_ros.web.evidence.settings import SharedTask, read_limits, run_doctor
from crosspoint_ros.web.image_streams import CameraImage, ImageStreams
from crosspoint_ros.web.overlay import Overlay
from crosspoint_ros.web.ros_bridge import NodeUnavailableError, RosBridge
from crosspoint_ros.web.session import BrowserSession

THUMBNAIL_PX = (96, 72)
THUMBNAIL_SHARE = 0.3  # of the image's width, around the click
MAX_OPEN = 4  # requests of one browser in work, in addition the newest hover
MAX_WAITING = 40  # and others: the thumbnails of a whole history, twice
MAX_CLOUD_S = 0.8  # of the link: the page takes a server that it has not heard for 4 s for dead
POINT_BYTES = 16  # six int16 in base64
DEPTH_SHARE = 0.25  # of the link
FindResult = Callable[[str], QueryResult | None]

log = logging.getLogger(__name__)


class _Asked:
    """What one browser has asked for."""

    def __init__(self) -> None:
        self.waiting: deque[protocol.EvidenceRequest] = deque()
        self.tasks: set[asyncio.Task[None]] = set()
        self.workers = 0  # those of the tasks that serve `waiting`
        self.hover: protocol.HoverRequest | None = None  # the newest, not yet served
        self.is_hovering = False


class EvidenceServer:
    """Answers the requests of one browser that concern no one else. Runs in asyncio's thread."""

    def __init__(self, bridge: RosBridge, streams: ImageStreams, overlay: Overlay,
                 find_result: FindResult, list_cameras: Callable[[], Sequence[NodeCamera]],
                 make_plain: Callable[[str], str]) -> None:
        """`find_result` returns the result of a query_id, `list_cameras` the node's cameras."""
        self._streams, self._overlay = streams, overlay
        self._find_result, self._make_plain = find_result, make_plain
        self._list_cameras = list_cameras
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix='evidence')
        self.limits = SharedTask(partial(read_limits, bridge))
        self._doctor = SharedTask(partial(run_doctor, bridge.name))
        self._depth = DepthStreams(bridge, self._pool)
        self._asked: dict[BrowserSession, _Asked] = {}

    def serve(self, session: BrowserSession, request: protocol.EvidenceRequest) -> None:
        """Send the reply, at once or when it is ready; raise RequestError where too many wait."""
        asked = self._asked.setdefault(session, _Asked())
        if isinstance(request, protocol.HoverRequest):
            asked.hover = request  # instead of an older one that waits
            if not asked.is_hovering:
                asked.is_hovering = True
                self._start(asked, self._serve_hover(session, asked))
        elif isinstance(request, protocol.OpenRequest):
            session.send_event(protocol.encode_event('opened', self._open(request.query_id)))
        elif request in asked.waiting:
            return  # one reply will do
        elif len(asked.waiting) >= MAX_WAITING:
            raise protocol.RequestError(f'{MAX_WAITING} requests of this page wait, the limit')
        else:
            asked.waiting.append(request)
            if asked.workers < MAX_OPEN:
                asked.workers += 1
                self._start(asked, self._serve_waiting(session, asked))

    def forget(self, session: BrowserSession) -> None:
        """End what a browser that has gone has asked for."""
        for task in self._asked.pop(session, _Asked()).tasks:
            task.cancel()

    @staticmethod
    def _start(asked: _Asked, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        asked.tasks.add(task)
        task.add_done_callback(asked.tasks.discard)

    async def _serve_hover(self, session: BrowserSession, asked: _Asked) -> None:
        try:
            while asked.hover is not None:
                request, asked.hover = asked.hover, None
                await self._send_reply(session, request)
        finally:
            asked.is_hovering = False

    async def _serve_waiting(self, session: BrowserSession, asked: _Asked) -> None:
        try:
            while asked.waiting:
                await self._send_reply(session, asked.waiting.popleft())
        finally:
            asked.workers -= 1

    async def _send_reply(self, session: BrowserSession,
                          request: protocol.EvidenceRequest) -> None:
        """Send the reply, or what went wrong in a form that ends the page's wait for it."""
        try:
            kind, content = await self._answer(session, request)
        except NodeUnavailableError:
            return  # of the limits, for which the page asks again
        except Exception as error:  # a bug: the page must not wait for ever
            log.exception('cannot serve %s', request)
            problem = f'the server failed ({type(error).__name__}); its log says more'
            kind, content = _describe_failure(request, problem)
        session.send_event(protocol.encode_event(kind, content))

    async def _answer(self, session: BrowserSession,
                      request: protocol.EvidenceRequest) -> tuple[str, Json]:
        """Return the event, and its content."""
        if isinstance(request, protocol.HoverRequest):
            return 'lines', {'camera': request.camera, 'x': request.x, 'y': request.y,
                             'lines': await self._build_lines(request)}
        if isinstance(request, protocol.ThumbnailRequest):
            return 'thumbnail', {'query_id': request.query_id,
                                 'jpeg': await self._build_thumbnail(request.query_id)}
        if isinstance(request, protocol.LimitsRequest):
            return 'limits', {'limits': await self.limits.run()}
        if isinstance(request, protocol.DoctorRequest):
            return 'doctor', await self._doctor.run() if session.can_act else {
                'problem': 'You may look and not act: a check starts processes on the robot'}
        cameras = [camera for camera in self._list_cameras() if camera.depth_topic]
        if isinstance(request, protocol.DepthRequest):
            return 'depth', await self._build_depth(session, request.camera, cameras)
        max_points = int(min(MAX_CLOUD_S * session.link.bytes_per_s / POINT_BYTES, MAX_POINTS))
        return 'cloud', await self._depth.build_cloud(cameras, self._overlay.find_lens_at,
                                                      max(max_points, len(cameras)))

    async def _build_depth(self, session: BrowserSession, name: str,
                           cameras: Sequence[NodeCamera]) -> Json:
        """Return a camera's depth, and when the link can take it again."""
        camera = next((each for each in cameras if each.name == name), None)
        if camera is None:
            return {'camera': name, 'png': '', 'problem': f'{name} has no depth'}
        overlay = await self._depth.build_overlay(camera)
        transfer_s = len(overlay['png']) / session.link.bytes_per_s
        return {'camera': name, **overlay, 'pause_ms': round(1000 * transfer_s / DEPTH_SHARE)}

    async def _build_lines(self, request: protocol.HoverRequest) -> Json:
        """Return where the other cameras show the ray of a pixel; none without poses."""
        image = self._streams.find(request.camera, request.stamp)
        clicked = image and self._overlay.find_lens(image)
        if not clicked:
            return {}
        lenses = {name: lens for name, newest in self._streams.newest.items()
                  if name != request.camera and (lens := self._overlay.find_lens(newest))}
        return await asyncio.get_running_loop().run_in_executor(
            self._pool, project_rays, (request.x, request.y), clicked, lenses)

    def _open(self, query_id: str) -> Json:
        """Return an earlier answer; `result` is None if it is not known any more."""
        result = self._find_result(query_id)
        if result is None:
            return {'query_id': query_id, 'result': None}
        content = result_to_json(result)
        for each in (content, *content['found']):
            each['message'] = self._make_plain(each['message'])
        return {'query_id': query_id, 'result': content}

    async def _build_thumbnail(self, query_id: str) -> str:
        result = self._find_result(query_id)
        if result is None or not math.isfinite(result.clicked.x):
            return ''
        clicked = result.clicked
        image = self._streams.find(clicked.camera, str(stamp_to_ns(clicked.header.stamp)))
        return '' if image is None else await self._encode_thumbnail(image, (clicked.x, clicked.y))

    async def _encode_thumbnail(self, image: CameraImage, pixel: tuple[float, float]) -> str:
        header, jpeg = await image.encode(self._pool)
        if 'problem' in header:
            return ''
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, crop_thumbnail, jpeg, pixel, header['width'])


def _describe_failure(request: protocol.EvidenceRequest, problem: str) -> tuple[str, Json]:
    if isinstance(request, protocol.DoctorRequest):
        return 'doctor', {'problem': problem}
    if isinstance(request, protocol.DepthRequest):
        return 'depth', {'camera': request.camera, 'png': '', 'problem': problem}
    if isinstance(request, protocol.HoverRequest):
        return 'lines', {'camera': request.camera, 'x': request.x, 'y': request.y, 'lines': {}}
    return 'bad_request', {'message': problem}


def project_rays(pixel: tuple[float, float], clicked: Lens, lenses: Mapping[str, Lens]) -> Json:
    """Return the clicked ray in the views that see it, as lists of pixels by name."""
    lines = {name: project_ray(pixel, clicked, other) for name, other in lenses.items()}
    return {name: np.round(line, 1).tolist() for name, line in lines.items() if len(line) > 1}


def project_ray(pixel: tuple[float, float], clicked: Lens, other: Lens) -> Array:
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
    return np.asarray(line[is_near])


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
