"""The web server: the files of the page, the way in, and one WebSocket a browser."""
from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aiohttp import WSMsgType, web

from crosspoint_ros.web.auth import Entry
from crosspoint_ros.web.hub import Hub
from crosspoint_ros.web.protocol import MAX_BYTES
from crosspoint_ros.web.session import Browser

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
PAGE = Path(__file__).absolute().parent / 'page'
KINDS = {'.html': 'text/html', '.css': 'text/css', '.js': 'text/javascript',
         '.svg': 'image/svg+xml'}
HEADERS = {
    'Content-Security-Policy': "default-src 'self'; img-src 'self' blob: data:; "
                               "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    'Referrer-Policy': 'no-referrer', 'X-Content-Type-Options': 'nosniff',
    'Cross-Origin-Opener-Policy': 'same-origin', 'Cross-Origin-Resource-Policy': 'same-origin',
    'Cache-Control': 'no-cache', 'Server': 'crosspoint'}
HEARTBEAT_S = 20.0  # a browser that has vanished is noticed after this


class PageServer:
    """Serves a fixed set of files, read once: no path of a request ever meets the disk."""

    def __init__(self, hub: Hub, entry: Entry) -> None:
        self._hub, self._entry = hub, entry
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix='jpeg')
        self.app = web.Application(middlewares=[self._only_our_host], client_max_size=MAX_BYTES)
        self.app.on_response_prepare.append(_add_headers)
        for path in sorted(PAGE.iterdir()):
            if path.suffix in KINDS:
                self.app.router.add_get('/' if path.name == 'index.html' else f'/{path.name}',
                                        _file(path))
        self.app.router.add_post('/enter', self._enter)
        self.app.router.add_get('/events', self._events)
        self.app.on_shutdown.append(self._let_go)

    async def _let_go(self, app: web.Application) -> None:
        await asyncio.gather(*(browser.leave() for browser in list(self._hub.browsers)))
        self._pool.shutdown(wait=False)

    @web.middleware
    async def _only_our_host(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._refuse(request, self._entry.refuse_host(request.headers.get('Host')))
        return await handler(request)

    def _refuse(self, request: web.Request, why: str) -> None:
        if why:
            self._entry.tell(request.remote or 'unknown', why)
            raise web.HTTPForbidden(text=f'refused: {why}\n')

    def _refuse_strangers(self, request: web.Request) -> None:
        self._refuse(request, self._entry.refuse_origin(
            request.headers.get('Origin'), request.headers.get('Host')))

    async def _enter(self, request: web.Request) -> web.Response:
        """Exchange the token for a cookie; without content tell whether the cookie is good."""
        self._refuse_strangers(request)
        given = await _given_token(request)
        if given and self._entry.needs_token:
            if not self._entry.is_token(given):
                self._refuse(request, 'its token is wrong')
            entered = web.Response(status=204)
            entered.set_cookie(self._entry.cookie_name, self._entry.cookie, httponly=True,
                               samesite='Strict', path='/')
            return entered
        self._refuse(request, self._entry.refuse_cookie(
            request.cookies.get(self._entry.cookie_name)))
        return web.Response(status=204)

    async def _events(self, request: web.Request) -> web.WebSocketResponse:
        self._refuse_strangers(request)
        self._refuse(request, self._entry.refuse_cookie(
            request.cookies.get(self._entry.cookie_name)))
        socket = web.WebSocketResponse(max_msg_size=MAX_BYTES, heartbeat=HEARTBEAT_S,
                                       compress=False)
        await socket.prepare(request)
        browser = Browser(socket, request, self._hub.looking, self._hub.now, self._pool)
        self._hub.welcome(browser)
        writing = asyncio.ensure_future(browser.write())
        writing.add_done_callback(lambda task: browser.drop())
        try:
            await self._read(socket, browser)
        finally:
            self._hub.farewell(browser)  # first: whatever ended the writing, it has gone
            writing.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError, RuntimeError):
                await writing
        return socket

    async def _read(self, socket: web.WebSocketResponse, browser: Browser) -> None:
        async for message in socket:
            if message.type == WSMsgType.TEXT:
                self._hub.take(browser, message.data)
            elif message.type == WSMsgType.BINARY:
                self._entry.tell(browser.address, 'it sent a binary message')
                await socket.close(code=1003, message=b'only text is taken')
            elif message.type == WSMsgType.ERROR:
                self._entry.tell(browser.address, f'its message is too long or no WebSocket '
                                 f'message: {socket.exception()}')


async def _given_token(request: web.Request) -> str:
    try:
        content = json.loads(await request.text() or '{}')
    except (ValueError, LookupError, RecursionError):  # its text, charset or depth
        raise web.HTTPBadRequest(text='the content is no JSON\n') from None
    token = content.get('token', '') if isinstance(content, dict) else ''
    return token if isinstance(token, str) else ''


def _file(path: Path) -> Handler:
    data = path.read_bytes()
    etag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'

    async def serve(request: web.Request) -> web.Response:
        if request.headers.get('If-None-Match') == etag:
            return web.Response(status=304, headers={'ETag': etag})
        return web.Response(body=data, content_type=KINDS[path.suffix], charset='utf-8',
                            headers={'ETag': etag})
    return serve


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)
