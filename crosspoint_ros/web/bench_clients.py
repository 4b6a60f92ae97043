"""Browsers as far as the server can tell: they pull pictures as they come, or stop reading."""
from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from types import TracebackType
from typing import Any

import aiohttp

CAMERAS = ('front', 'side', 'wrist')


class Clients:
    """So many of them, in a thread of their own, until the block ends."""

    def __init__(self, port: int, count: int, read: bool = True) -> None:
        """`read`: take every picture; without, ask for pictures and never read one."""
        self._port, self._count, self._read = port, count, read
        self.taken: Counter[int] = Counter()  # pictures, by client
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Clients:
        self._thread.start()
        self._tasks = [asyncio.run_coroutine_threadsafe(self._browse(number), self._loop)
                       for number in range(self._count)]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        for task in self._tasks:
            task.cancel()
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0.2), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    async def _browse(self, number: int) -> None:
        origin = f'http://127.0.0.1:{self._port}'
        async with aiohttp.ClientSession() as session, session.ws_connect(
                f'{origin}/events', headers={'Origin': origin}, max_msg_size=0) as socket:
            await self._wait_for_cameras(socket)
            for camera in CAMERAS:
                await self._ask(socket, camera, '0')
            if not self._read:
                await asyncio.Event().wait()
            async for message in socket:
                if message.type == aiohttp.WSMsgType.BINARY:
                    length = int.from_bytes(message.data[:4], 'big')
                    header = json.loads(message.data[4:4 + length])
                    self.taken[number] += 1
                    await self._ask(socket, header['camera'], header['stamp'])

    async def _wait_for_cameras(self, socket: Any) -> None:
        async for message in socket:
            told = json.loads(message.data) if message.type == aiohttp.WSMsgType.TEXT else {}
            if told.get('type') == 'state' and len(told['cameras']) == len(CAMERAS):
                return

    async def _ask(self, socket: Any, camera: str, after: str) -> None:
        await socket.send_str(json.dumps({'type': 'next', 'camera': camera, 'after': after}))
