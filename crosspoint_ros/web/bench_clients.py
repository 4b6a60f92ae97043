"""Browsers as far as the server can tell: they pull pictures as they come, or stop reading."""
from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from types import TracebackType
from typing import Any

import aiohttp

CAMERAS = ('front', 'side', 'wrist')
PATIENCE_S = 120.0


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


def click_overheads_ms(port: int, clicks: int) -> list[float]:
    """Return, for each click through the page's server, the time to its answer, less matching."""
    async def click_all() -> list[float]:
        origin = f'http://127.0.0.1:{port}'
        async with aiohttp.ClientSession() as session, session.ws_connect(
                f'{origin}/events', headers={'Origin': origin}) as socket:
            return [await _overhead_ms(socket, number) for number in range(clicks)]

    return asyncio.run(asyncio.wait_for(click_all(), PATIENCE_S))


async def _overhead_ms(socket: Any, number: int) -> float:
    await asyncio.sleep(0.05)
    x, begun_s = 300.0 + number / 8, time.perf_counter()
    await socket.send_str(json.dumps({'type': 'click', 'id': number, 'camera': CAMERAS[0],
                                      'stamp': '0', 'x': x, 'y': 240.0}))
    async for message in socket:
        result = json.loads(message.data).get('result')
        if result and result['clicked']['x'] == round(x, 2) and result['match_ms'] is not None:
            return 1000 * (time.perf_counter() - begun_s) - float(result['match_ms'])
    raise ConnectionError('the server has ended the connection')
