"""One connected browser: what it waits for, and what waits for it."""
from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from aiohttp import web

from crosspoint_ros.web.image_streams import Looking, Picture, packed
from crosspoint_ros.web.protocol import Json, Next, Past, event

MAX_WAITING = 256  # events; a browser that has not read so many is gone, or stopped reading
GOODBYE_S = 0.5
MAX_PAST = 8  # pictures of the past that one browser waits for
MAX_OPEN = 4  # questions of one browser to the node at a time

log = logging.getLogger('crosspoint_web')


class Browser:
    """Events go out in order; pictures only when asked for, so that one that is slow costs nothing.

    One task writes. Nobody else ever waits for this browser.
    """

    def __init__(self, socket: web.WebSocketResponse, request: web.Request,
                 looking: Looking, now: Callable[[Picture], Json],
                 pool: ThreadPoolExecutor) -> None:
        """`now` tells where on a picture the answer's mark belongs."""
        self.address = request.remote or 'unknown'
        self._socket, self._request, self._pool = socket, request, pool
        self._looking, self._now = looking, now
        self._past: deque[Picture] = deque(maxlen=MAX_PAST)
        self._events: deque[str] = deque()
        self.waits_for: dict[str, str] = {}  # camera -> the stamp that it has already
        self._news = asyncio.Event()
        self.open: set[asyncio.Task[None]] = set()

    def tell(self, event: str) -> None:
        """Queue an event; a browser that does not read is dropped with one line in the log."""
        if len(self._events) >= MAX_WAITING:
            if self._request.transport is not None:
                log.warning('dropped %s: it has not read %d events', self.address, MAX_WAITING)
            self.drop()
            return
        self._events.append(event)
        self._news.set()

    def drop(self) -> None:
        """End the connection at once, read or not."""
        if self._request.transport is not None:
            self._request.transport.abort()

    async def leave(self) -> None:
        """End the connection in order, if it still reads."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._socket.close(code=1001, message=b'the server ends'),
                                   GOODBYE_S)
        self.drop()

    def wait_for(self, request: Next) -> None:
        """Note that it wants a picture with another stamp than the one it has."""
        self.waits_for[request.camera] = request.after
        self._news.set()

    def show_again(self, request: Past) -> None:
        """Send a picture that was sent before; say so if it is not kept any more."""
        picture = self._looking.past(request.camera, request.stamp)
        if picture is None:
            self.tell(event('no_past', {'camera': request.camera}))
            return
        self._past.append(picture)
        self._news.set()

    def picture_came(self, camera: str) -> None:
        """Wake up if it waits for that."""
        if camera in self.waits_for:
            self._news.set()

    async def write(self) -> None:
        """Send what is there, until cancelled or the connection is lost."""
        while True:
            await self._news.wait()
            self._news.clear()
            await self._write_events()
            for camera, after in list(self.waits_for.items()):
                picture = self._looking.newest.get(camera)
                if picture is None or picture.stamp == after:
                    continue
                del self.waits_for[camera]
                self._looking.remember(picture)
                await self._write_picture(picture, {})
            while self._past:
                await self._write_picture(self._past.popleft(), {'past': True})

    async def _write_picture(self, picture: Picture, more: Json) -> None:
        header, data = await picture.encoded(self._pool)
        await self._write_events()
        now = {} if more else self._now(picture)
        await self._socket.send_bytes(packed({**header, **now, **more}, data))

    async def _write_events(self) -> None:
        while self._events:
            await self._socket.send_str(self._events.popleft())

    def begin(self, task: asyncio.Task[None]) -> None:
        """Count a question that is being answered."""
        self.open.add(task)
        task.add_done_callback(self.open.discard)
