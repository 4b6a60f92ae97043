"""Clients that load the page's server like browsers, and a Chromium that measures the page."""
from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import aiohttp

CAMERAS = ('front', 'side', 'wrist')
TIMEOUT_S = 120.0


class BrowserClients:
    """Runs `count` clients in a thread until the block ends."""

    def __init__(self, port: int, count: int, reading: bool = True,
                 cameras: Sequence[str] = CAMERAS) -> None:
        """reading: take every image; False: request images and read none. cameras: the node's."""
        self._port, self._count, self._reading, self._cameras = port, count, reading, cameras
        self.images_received: Counter[int] = Counter()  # by client
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> BrowserClients:
        self._thread.start()
        self._tasks = [asyncio.run_coroutine_threadsafe(self._browse(number), self._loop)
                       for number in range(self._count)]
        return self

    def __exit__(self, *error: object) -> None:
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
            for camera in self._cameras:
                await self._request(socket, camera, '0')
            if not self._reading:
                await asyncio.Event().wait()
            async for message in socket:
                if message.type == aiohttp.WSMsgType.BINARY:
                    length = int.from_bytes(message.data[:4], 'big')
                    header = json.loads(message.data[4:4 + length])
                    self.images_received[number] += 1
                    await self._request(socket, header['camera'], header['stamp'])

    async def _wait_for_cameras(self, socket: Any) -> None:
        async for message in socket:
            event = json.loads(message.data) if message.type == aiohttp.WSMsgType.TEXT else {}
            if event.get('type') == 'state' and len(event['cameras']) == len(self._cameras):
                return

    async def _request(self, socket: Any, camera: str, after: str) -> None:
        await socket.send_str(json.dumps({'type': 'next', 'camera': camera, 'after': after}))


def main() -> int:
    """Be one client, of the port and cameras in the arguments; print the images, until killed."""
    arguments = sys.argv[1:sys.argv.index('--ros-args')]
    with BrowserClients(int(arguments[0]), 1, cameras=arguments[1:]) as clients:
        while True:
            time.sleep(0.2)
            print(f'images {clients.images_received.total()}', flush=True)


def measure_click_overheads_ms(port: int, clicks: int) -> list[float]:
    """Return, for each click through the page's server, the time to its result less matching."""
    async def click_all() -> list[float]:
        origin = f'http://127.0.0.1:{port}'
        async with aiohttp.ClientSession() as session, session.ws_connect(
                f'{origin}/events', headers={'Origin': origin}) as socket:
            return [await _measure_overhead_ms(socket, number) for number in range(clicks)]

    return asyncio.run(asyncio.wait_for(click_all(), TIMEOUT_S))


def measure_line_ms(port: int, rounds: int) -> list[float]:
    """Return the times from a pixel under the cursor to its epipolar lines."""
    async def hover_all() -> list[float]:
        origin = f'http://127.0.0.1:{port}'
        async with aiohttp.ClientSession() as session, session.ws_connect(
                f'{origin}/events', headers={'Origin': origin}, max_msg_size=0) as socket:
            stamp = await _receive_stamp(socket)
            return [await _measure_line_ms(socket, stamp, number) for number in range(rounds)]

    return asyncio.run(asyncio.wait_for(hover_all(), TIMEOUT_S))


async def _receive_stamp(socket: Any) -> str:
    """Take an image of every camera, so that all are subscribed to; return the first's stamp."""
    stamps: dict[str, str] = {}
    for camera in CAMERAS:
        await socket.send_str(json.dumps({'type': 'next', 'camera': camera, 'after': '0'}))
    async for message in socket:
        if message.type == aiohttp.WSMsgType.BINARY:
            length = int.from_bytes(message.data[:4], 'big')
            header = json.loads(message.data[4:4 + length])
            stamps[header['camera']] = header['stamp']
        if len(stamps) == len(CAMERAS):
            return stamps[CAMERAS[0]]
    raise ConnectionError('the server has ended the connection')


async def _measure_line_ms(socket: Any, stamp: str, number: int) -> float:
    await asyncio.sleep(0.02)
    begun_s = time.perf_counter()
    await socket.send_str(json.dumps({'type': 'hover', 'camera': CAMERAS[0], 'stamp': stamp,
                                      'x': 300.0 + number, 'y': 240.0}))
    async for message in socket:
        if message.type == aiohttp.WSMsgType.TEXT and json.loads(message.data)['type'] == 'lines':
            return 1000 * (time.perf_counter() - begun_s)
    raise ConnectionError('the server has ended the connection')


async def _measure_overhead_ms(socket: Any, number: int) -> float:
    await asyncio.sleep(0.05)
    x, begun_s = 300.0 + number / 8, time.perf_counter()
    await socket.send_str(json.dumps({'type': 'click', 'id': number, 'camera': CAMERAS[0],
                                      'stamp': '0', 'x': x, 'y': 240.0}))
    async for message in socket:
        result = json.loads(message.data).get('result')
        if result and result['clicked']['x'] == round(x, 2) and result['match_ms'] is not None:
            return 1000 * (time.perf_counter() - begun_s) - float(result['match_ms'])
    raise ConnectionError('the server has ended the connection')


FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-sync',
         '--disable-background-networking', '--disable-component-update']
PAGE_TIMEOUT_S, MARK_TIMEOUT_S, MAX_TRIES = 20.0, 5.0, 5
USABLE = """() => document.querySelectorAll('.view').length === 3
  && !document.querySelector('.view:not([data-stamp])') && document.querySelector('.status.ready')
  ? performance.now() : 0"""
# From pointer down to the first frame with the mark; and the matcher's share of it.
WATCH = """() => {
  window.pressed_ms = window.marked_ms = 0;
  document.addEventListener('pointerdown', e => {
    window.pressed_ms = e.timeStamp; window.marked_ms = 0; }, true);
  new MutationObserver(() => {
    if (!window.marked_ms && document.querySelector('[data-camera=side]:not(.previous) .grip')) {
      requestAnimationFrame(() => { window.marked_ms = performance.now(); });
    }
  }).observe(document.querySelector('[data-camera=side] svg'), { childList: true });
}"""
CLICK_TO_MARK = '() => window.marked_ms && window.marked_ms - window.pressed_ms'
MATCHER_MS = "() => Number(document.querySelector('#result').dataset.matchMs)"


def load_timeout_error() -> type[Exception]:
    """Return what playwright raises for an element that does not come; no kind of TimeoutError."""
    error: type[Exception] = importlib.import_module('playwright.sync_api').TimeoutError
    return error


def find_missing_tool() -> str:
    """Return what is missing to drive Chromium; '' if nothing is."""
    if shutil.which('chromium') is None:
        return 'no chromium on the PATH'
    if importlib.util.find_spec('playwright') is None:
        return 'playwright is not installed'
    return ''


@contextmanager
def launch_chromium() -> Iterator[Any]:
    """Run Chromium with playwright's driver until the block ends."""
    api = importlib.import_module('playwright.sync_api')
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which('chromium'), args=FLAGS)
        yield browser
        browser.close()


def measure_page_ms(address: str, rounds: int) -> tuple[list[float], list[float]]:
    """Return the times to a usable page, and those from click to mark less matching."""
    with launch_chromium() as browser:
        usable = []
        for _ in range(rounds):
            with browser.new_context() as context:
                page = context.new_page()
                page.goto(address)
                usable.append(_wait_nonzero(page, USABLE))
        with browser.new_context(viewport={'width': 1280, 'height': 800}) as context:
            page = context.new_page()
            page.goto(address)
            _wait_nonzero(page, USABLE)
            marks = _measure_marks_ms(page, rounds)
    return usable, marks


def _measure_marks_ms(page: Any, rounds: int) -> list[float]:
    page.evaluate(WATCH)
    box = page.locator('[data-camera=front] svg').bounding_box()
    marks = list[float]()
    for index in range(MAX_TRIES * rounds):  # a busy computer is late, and its clicks are refused
        page.mouse.click(box['x'] + box['width'] * (0.4 + 0.2 * index / rounds / MAX_TRIES),
                         box['y'] + box['height'] * 0.5)
        with suppress(TimeoutError):
            marks.append(_wait_nonzero(page, CLICK_TO_MARK, MARK_TIMEOUT_S)
                         - float(page.evaluate(MATCHER_MS)))
        if len(marks) == rounds:
            break
    return marks


def _wait_nonzero(page: Any, expression: str, timeout_s: float = PAGE_TIMEOUT_S) -> float:
    """Wait until an expression is not zero; return its value."""
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        if value := page.evaluate(expression):
            return float(value)
        page.wait_for_timeout(10)
    raise TimeoutError(f'the page is not usable after {timeout_s:g} s: {expression}')
