"""One connected browser: what it waits for, and what waits for it."""
from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from aiohttp import web

from crosspoint_ros.web.image_streams import CameraImage, ImageStreams, encode_message
from crosspoint_ros.web.protocol import Json, NextImageRequest, SentImageRequest, encode_event

MAX_QUEUED_EVENTS = 256  # events; a browser that has not read so many is gone, or stopped reading
CLOSE_TIMEOUT_S = 0.5
MAX_QUEUED_IMAGES = 8  # pictures of the past that one browser waits for
MAX_OPEN_REQUESTS = 4  # questions of one browser to the node at a time

log = logging.getLogger('crosspoint_web')


class BrowserSession:
    """Events go out in order; pictures only when asked for, so that one that is slow costs nothing.

    One task writes. Nobody else ever waits for this browser.
    """

    def __init__(self, socket: web.WebSocketResponse, request: web.Request,
                 streams: ImageStreams, track_mark: Callable[[CameraImage], Json],
                 pool: ThreadPoolExecutor) -> None:
        """`now` tells where on a picture the answer's mark belongs."""
        self.address = request.remote or 'unknown'
        self._socket, self._request, self._pool = socket, request, pool
        self._streams, self._track_mark = streams, track_mark
        self._queued_images: deque[CameraImage] = deque(maxlen=MAX_QUEUED_IMAGES)
        self._queued_events: deque[str] = deque()
        self.awaited: dict[str, str] = {}  # camera -> the stamp that it has already
        self._wakeup = asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()

    def send_event(self, event: str) -> None:
        """Queue an event; a browser that does not read is dropped with one line in the log."""
        if len(self._queued_events) >= MAX_QUEUED_EVENTS:
            if self._request.transport is not None:
                log.warning('dropped %s: it has not read %d events', self.address, MAX_QUEUED_EVENTS)
            self.abort()
            return
        self._queued_events.append(event)
        self._wakeup.set()

    def abort(self) -> None:
        """End the connection at once, read or not."""
        if self._request.transport is not None:
            self._request.transport.abort()

    async def close(self) -> None:
        """End the connection in order, if it still reads."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._socket.close(code=1001, message=b'the server ends'),
                                   CLOSE_TIMEOUT_S)
        self.abort()

    def await_image(self, request: NextImageRequest) -> None:
        """Note that it wants a picture with another stamp than the one it has."""
        self.awaited[request.camera] = request.after
        self._wakeup.set()

    def resend_image(self, request: SentImageRequest) -> None:
        """Send a picture that was sent before; say so if it is not kept any more."""
        picture = self._streams.find_sent(request.camera, request.stamp)
        if picture is None:
            self.send_event(encode_event('no_past', {'camera': request.camera}))
            return
        self._queued_images.append(picture)
        self._wakeup.set()

    def notify_image(self, camera: str) -> None:
        """Wake up if it waits for that."""
        if camera in self.awaited:
            self._wakeup.set()

    async def write(self) -> None:
        """Send what is there, until cancelled or the connection is lost."""
        while True:
            await self._wakeup.wait()
            self._wakeup.clear()
            await self._write_events()
            for camera, after in list(self.awaited.items()):
                picture = self._streams.newest.get(camera)
                if picture is None or picture.stamp == after:
                    continue
                del self.awaited[camera]
                self._streams.record_sent(picture)
                await self._write_image(picture, {})
            while self._queued_images:
                await self._write_image(self._queued_images.popleft(), {'past': True})

    async def _write_image(self, image: CameraImage, more: Json) -> None:
        header, data = await image.encode(self._pool)
        await self._write_events()
        now = {} if more else self._track_mark(image)
        await self._socket.send_bytes(encode_message({**header, **now, **more}, data))

    async def _write_events(self) -> None:
        while self._queued_events:
            await self._socket.send_str(self._queued_events.popleft())

    def add_task(self, task: asyncio.Task[None]) -> None:
        """Count a question that is being answered."""
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
