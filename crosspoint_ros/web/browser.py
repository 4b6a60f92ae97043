"""One connected browser: what it waits for, and what waits for it."""
from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from concurrent.futures import ThreadPoolExecutor

from aiohttp import web

from crosspoint_ros.web.looking import Looking
from crosspoint_ros.web.requests import Next

MAX_WAITING = 256  # events; a browser that has not read so many is gone, or stopped reading
GOODBYE_S = 0.5
MAX_OPEN = 16  # questions of one browser to the node at a time

log = logging.getLogger('crosspoint_web')


class Browser:
    """Events go out in order; pictures only when asked for, so that one that is slow costs nothing.

    One task writes. Nobody else ever waits for this browser.
    """

    def __init__(self, socket: web.WebSocketResponse, request: web.Request,
                 looking: Looking, pool: ThreadPoolExecutor) -> None:
        self.address = request.remote or 'unknown'
        self._socket, self._request, self._looking, self._pool = socket, request, looking, pool
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
                data = await picture.encoded(self._pool)
                await self._write_events()
                await self._socket.send_bytes(data)

    async def _write_events(self) -> None:
        while self._events:
            await self._socket.send_str(self._events.popleft())

    def begin(self, task: asyncio.Task[None]) -> None:
        """Count a question that is being answered."""
        self.open.add(task)
        task.add_done_callback(self.open.discard)
