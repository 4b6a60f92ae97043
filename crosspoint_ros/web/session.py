"""One connected browser: its outgoing events and images, and its open requests."""
from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from aiohttp import web

from crosspoint_ros.ros.client.results import Json
from crosspoint_ros.web.image_streams import CameraImage, ImageStreams, encode_message
from crosspoint_ros.web.link import LinkMonitor
from crosspoint_ros.web.protocol import NextImageRequest, SentImageRequest, encode_event

MAX_QUEUED_EVENTS = 256  # a browser that is this far behind has stopped reading
MAX_QUEUED_IMAGES = 8  # earlier images to send again
MAX_OPEN_REQUESTS = 4  # to the node, at a time
CLOSE_TIMEOUT_S = 0.5
LARGE_EVENT_BYTES = 4000  # as a small image

log = logging.getLogger(__name__)


class BrowserSession:
    """Sends events in order, and images on request only, so that a slow browser costs nothing.

    `write` is the only task that writes to the socket; no other method blocks.
    """

    def __init__(self, socket: web.WebSocketResponse, request: web.Request,
                 streams: ImageStreams, track_mark: Callable[[CameraImage], Json],
                 pool: ThreadPoolExecutor, can_act: bool = True) -> None:
        """`track_mark` locates the result's mark on an image; `pool` encodes JPEGs.

        can_act: a viewer's browser may not.
        """
        self.can_act, self.name = can_act, ''
        self.address = request.remote or 'unknown'
        self._socket, self._request, self._pool = socket, request, pool
        self._streams, self._track_mark = streams, track_mark
        self._queued_images: deque[CameraImage] = deque(maxlen=MAX_QUEUED_IMAGES)
        self._queued_events: deque[str] = deque()
        self.awaited: dict[str, str] = {}  # camera -> stamp of the image that it has
        self._wakeup = asyncio.Event()
        self.link = LinkMonitor()
        self.tasks: set[asyncio.Task[None]] = set()  # open requests to the node

    def send_event(self, event: str) -> None:
        """Queue an event; drop the browser if it has stopped reading."""
        if len(self._queued_events) >= MAX_QUEUED_EVENTS:
            if self._request.transport is not None:
                log.warning('dropped %s: %d events unread', self.address, MAX_QUEUED_EVENTS)
            self.abort()
            return
        self._queued_events.append(event)
        self._wakeup.set()

    def abort(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()

    async def close(self) -> None:
        """Close the connection with a WebSocket close frame, if the browser still reads."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._socket.close(code=1001, message=b'server shutdown'),
                                   CLOSE_TIMEOUT_S)
        self.abort()

    def await_image(self, request: NextImageRequest) -> None:
        """Send the camera's next image as soon as there is one with another stamp."""
        self.awaited[request.camera] = request.after
        self.link.add_request(request.camera, request.width, request.late)
        self._wakeup.set()

    def resend_image(self, request: SentImageRequest) -> None:
        """Send an earlier image again, or the event `no_past` if it is no longer stored."""
        image = self._streams.find(request.camera, request.stamp)
        if image is None:
            self.send_event(encode_event('no_past', {'camera': request.camera}))
            return
        self._queued_images.append(image)
        self._wakeup.set()

    def notify_image(self, camera: str) -> None:
        if camera in self.awaited:
            self._wakeup.set()

    async def write(self) -> None:
        """Send what is queued or awaited, until cancelled or disconnected."""
        while True:
            await self._wakeup.wait()
            self._wakeup.clear()
            await self._write_events()
            for camera, after in list(self.awaited.items()):
                image = self._streams.newest.get(camera)
                if image is None or image.stamp == after:
                    continue
                del self.awaited[camera]
                self._streams.record_sent(image)
                await self._write_image(image)
            while self._queued_images:
                await self._write_image(self._queued_images.popleft(), past=True)

    async def _write_image(self, image: CameraImage, past: bool = False) -> None:
        level = self.link.choose_level(image.camera)
        header, data = await image.encode(self._pool, level)
        await self._write_events()
        more = {'past': True} if past else self._track_mark(image)
        if not past:
            self.link.add_image(image.camera, level, len(data))
        await self._socket.send_bytes(encode_message({**header, **more}, data))

    async def _write_events(self) -> None:
        while self._queued_events:
            event = self._queued_events.popleft()
            if len(event) > LARGE_EVENT_BYTES:
                self.link.add_event(len(event))
            await self._socket.send_str(event)

    def add_task(self, task: asyncio.Task[None]) -> None:
        """Count a request as open until its task is done."""
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
