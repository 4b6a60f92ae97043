"""Random and mutated frames and HTTP requests for the page's server."""
from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import aiohttp

FRAMES_PER_CHECK = 500
TIMEOUT_S = 20.0
METHODS = ('GET', 'POST', 'PUT', 'HEAD', 'OPTIONS', 'X' * 40, '')
PATHS = ('/', '/events', '/index.html', '/../../etc/passwd', '/%2e%2e/%2e%2e/etc/passwd', '/\x00',
         '/' + 'a' * 9000, '*', 'http://example.org/', '/events?token=x')
HEADERS = ('Host: 127.0.0.1', 'Host: example.org', 'Origin: null', 'Upgrade: websocket',
           'Connection: Upgrade', 'Sec-WebSocket-Version: 13', 'Sec-WebSocket-Key: x',
           'Content-Length: 99999999999', 'Content-Length: -1', 'Transfer-Encoding: chunked',
           'X: ' + 'y' * 9000, ': ', 'Cookie: \xff')
VALUES: tuple[Any, ...] = (0, -1, 1, 2**53, 1e300, float('nan'), '', 'front', 'side', '0',
                           'x' * 600,
                           None, True, [], {}, '\N{SNOWMAN}', '9' * 30, 'undo', 'clear')
REQUESTS: tuple[dict[str, Any], ...] = (
    {'type': 'next', 'camera': 'front', 'after': '0'},
    {'type': 'past', 'camera': 'front', 'stamp': '1'},
    {'type': 'click', 'id': 1, 'camera': 'front', 'stamp': '0', 'x': 80, 'y': 60},
    {'type': 'instruct', 'id': 2, 'camera': 'front', 'instruction': 'the mug'},
    {'type': 'cancel', 'id': 3}, {'type': 'accept', 'id': 4, 'query_id': 'x'},
    {'type': 'correct', 'id': 5, 'query_id': 'x', 'camera': 'side', 'x': 1, 'y': 2},
    {'type': 'step', 'id': 6, 'step': 'undo'})


async def fuzz_page(port: int, count: int, seed: int, check_process: Callable[[], None]
                    ) -> dict[str, Any]:
    """Send that many frames and requests; return the counts. The page must load throughout."""
    rng, counts = random.Random(seed), Counter[str]()
    origin, socket = f'http://127.0.0.1:{port}', None
    async with aiohttp.ClientSession() as session:
        for number in range(count):
            if number % FRAMES_PER_CHECK == 0:
                check_process()
                await _load_page(session, origin, counts)
            if rng.random() < 0.2:
                await _send_http(port, rng)
                counts['HTTP requests'] += 1
                continue
            if socket is None or socket.closed:
                socket = await session.ws_connect(f'{origin}/events', headers={'Origin': origin},
                                                  max_msg_size=0)
                counts['connections'] += 1
            await _send_frame(socket, rng)
            counts['frames'] += 1
        await _load_page(session, origin, counts)
        if socket is not None:
            await socket.close()
    return dict(counts)


async def _load_page(session: aiohttp.ClientSession, origin: str, counts: Counter[str]) -> None:
    """Load the page and its first event, as a browser does."""
    counts['page loads'] += 1
    async def load() -> None:
        async with session.get(f'{origin}/') as reply:
            reply.raise_for_status()
        async with session.ws_connect(f'{origin}/events', headers={'Origin': origin}) as probe:
            await probe.receive()

    try:
        await asyncio.wait_for(load(), TIMEOUT_S)
    except (TimeoutError, asyncio.TimeoutError, aiohttp.ClientError) as error:
        counts['page loads without an answer'] += 1
        print(f'  the page does not load: {error!r}', flush=True)


async def _send_frame(socket: Any, rng: random.Random) -> None:
    request = dict(rng.choice(REQUESTS))
    for _ in range(rng.choice((0, 1, 1, 2))):
        request[rng.choice((*request, 'other'))] = rng.choice(VALUES)
    text = json.dumps(request)
    kind = rng.random()
    try:
        if kind < 0.1:
            await socket.send_bytes(rng.randbytes(rng.randrange(6000)))
        elif kind < 0.4:
            place = rng.randrange(len(text))
            await socket.send_str(text[:place] + chr(rng.randrange(1, 0xd800)) + text[place + 1:])
        else:
            await socket.send_str(text)
        while True:  # take what has come, so that the server does not drop a slow reader
            await asyncio.wait_for(socket.receive(), 0.0005)
            if socket.closed:
                return
    except (TimeoutError, asyncio.TimeoutError):
        return
    except (ConnectionError, aiohttp.ClientError):
        await socket.close()


async def _send_http(port: int, rng: random.Random) -> None:
    version = rng.choice(('1.1', '1.0', '9', ''))
    lines = [f'{rng.choice(METHODS)} {rng.choice(PATHS)} HTTP/{version}',
             *rng.choices(HEADERS, k=rng.randrange(8))]
    data = '\r\n'.join([*lines, '', '']).encode('latin-1', 'replace')
    if rng.random() < 0.3:
        data = data[:rng.randrange(len(data) + 1)] + rng.randbytes(rng.randrange(200))
    reader, writer = await asyncio.open_connection('127.0.0.1', port)
    try:
        writer.write(data)
        writer.write_eof()
        await asyncio.wait_for(reader.read(), 1.0)
    except (TimeoutError, asyncio.TimeoutError, ConnectionError):
        pass
    finally:
        writer.close()
