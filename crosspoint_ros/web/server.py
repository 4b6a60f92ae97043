"""HTTP server: the page's files, token exchange, and one WebSocket per browser."""
from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aiohttp import WSMsgType, web

from crosspoint_ros.web.auth import AccessControl
from crosspoint_ros.web.hub import Hub
from crosspoint_ros.web.protocol import MAX_MESSAGE_BYTES
from crosspoint_ros.web.session import BrowserSession

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
PAGE = Path(__file__).absolute().parent / 'page'
CONTENT_TYPES = {'.html': 'text/html', '.css': 'text/css', '.js': 'text/javascript',
                 '.svg': 'image/svg+xml'}
HEADERS = {
    'Content-Security-Policy': "default-src 'self'; img-src 'self' blob: data:; "
                               "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    'Referrer-Policy': 'no-referrer', 'X-Content-Type-Options': 'nosniff',
    'Cross-Origin-Opener-Policy': 'same-origin', 'Cross-Origin-Resource-Policy': 'same-origin',
    'Cache-Control': 'no-cache', 'Server': 'crosspoint'}
PRELOAD = b'<link rel="modulepreload" href="%s">'
HEARTBEAT_S = 20.0  # detects browsers that vanished without closing


class PageServer:
    """Serves a fixed set of files from memory: no request path reaches the file system."""

    def __init__(self, hub: Hub, access: AccessControl) -> None:
        self._hub, self._access = hub, access
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix='jpeg')
        self.app = web.Application(middlewares=[self._check_host],
                                   client_max_size=MAX_MESSAGE_BYTES)
        self.app.on_response_prepare.append(_add_headers)
        for path in sorted(PAGE.iterdir()):
            if path.suffix in CONTENT_TYPES:
                is_index = path.name == 'index.html'
                self.app.router.add_get('/' if is_index else f'/{path.name}', _make_file_handler(
                    path.suffix, _preload_modules() if is_index else path.read_bytes()))
        self.app.router.add_post('/enter', self._handle_enter)
        self.app.router.add_get('/events', self._handle_websocket)
        self.app.router.add_get('/healthz', self._handle_health)
        self.app.router.add_get('/session.zip', self._handle_export)
        self.app.on_shutdown.append(self._close_sessions)

    async def _close_sessions(self, app: web.Application) -> None:
        await asyncio.gather(*(session.close() for session in list(self._hub.sessions)))
        self._pool.shutdown(wait=False)

    @web.middleware
    async def _check_host(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._refuse_if(request, self._access.check_host(request.headers.get('Host')))
        return await handler(request)

    def _check_origin(self, request: web.Request) -> None:
        self._refuse_if(request, self._access.check_origin(
            request.headers.get('Origin'), request.headers.get('Host')))

    def _check_cookie(self, request: web.Request) -> None:
        self._refuse_if(request, self._access.check_cookie(self._get_cookie(request)))

    def _get_cookie(self, request: web.Request) -> str | None:
        """Return the cookie, where a proxy has several pages on one host: the one that is ours."""
        name, cookies = self._access.cookie_name, list[str]()
        for pair in request.headers.get('Cookie', '').split(';'):  # the longest path comes first
            key, _, value = pair.strip().partition('=')
            if key == name:
                cookies.append(value.strip('"'))
        return next((each for each in cookies if not self._access.check_cookie(each)),
                    cookies[0] if cookies else None)

    def _refuse_if(self, request: web.Request, reason: str) -> None:
        if reason:
            self._access.log_refusal(request.remote or 'unknown', reason)
            raise web.HTTPForbidden(text=f'refused: {reason}\n')

    async def _handle_enter(self, request: web.Request) -> web.Response:
        """Exchange the token for a cookie; with no token, check the cookie."""
        self._check_origin(request)
        token, response = await _read_token(request), web.Response(status=204)
        if not (token and self._access.needs_token):
            self._check_cookie(request)
            self._hub.prepare_images()
            return response
        cookie = self._access.find_cookie(token)
        if not cookie:
            self._refuse_if(request, 'wrong token')
        # Without a path, it holds for that under which a proxy serves the page.
        response.set_cookie(self._access.cookie_name, cookie, httponly=True, samesite='Strict',
                            path=None)  # type: ignore[arg-type]
        self._hub.prepare_images()
        return response

    async def _handle_health(self, request: web.Request) -> web.Response:
        """Reply to a probe: 200 while the server works, with the node's state; no token needed."""
        return web.json_response(self._hub.describe_health())

    async def _handle_export(self, request: web.Request) -> web.Response:
        """Reply with the history and its images."""
        self._check_cookie(request)
        name = time.strftime('crosspoint_%Y-%m-%d_%H%M%S.zip')
        return web.Response(body=await self._hub.export(self._pool), content_type='application/zip',
                            headers={'Content-Disposition': f'attachment; filename="{name}"'})

    async def _handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        self._check_origin(request)
        self._check_cookie(request)
        socket = web.WebSocketResponse(max_msg_size=MAX_MESSAGE_BYTES, heartbeat=HEARTBEAT_S,
                                       compress=False)
        await socket.prepare(request)
        session = BrowserSession(socket, request, self._hub.streams,
                                 self._hub.track_marks, self._pool, self._access.can_act(
                                     self._get_cookie(request)))
        self._hub.add_session(session)
        writer = asyncio.ensure_future(session.write())
        writer.add_done_callback(lambda task: session.abort())
        try:
            await self._read(socket, session)
        finally:
            self._hub.remove_session(session)  # first, whatever error the writer ended with
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError, RuntimeError):
                await writer
        return socket

    async def _read(self, socket: web.WebSocketResponse, session: BrowserSession) -> None:
        async for message in socket:
            if message.type == WSMsgType.TEXT:
                self._hub.handle_message(session, message.data)
            elif message.type == WSMsgType.BINARY:
                self._access.log_refusal(session.address, 'binary message')
                await socket.close(code=1003, message=b'text messages only')
            elif message.type == WSMsgType.ERROR:
                self._access.log_refusal(session.address,
                                         f'invalid WebSocket message: {socket.exception()}')


async def _read_token(request: web.Request) -> str:
    try:
        content = json.loads(await request.text() or '{}')
    except (ValueError, LookupError, RecursionError):  # syntax, charset, nesting
        raise web.HTTPBadRequest(text='the content is not valid JSON\n') from None
    token = content.get('token', '') if isinstance(content, dict) else ''
    return token if isinstance(token, str) else ''


def _preload_modules() -> bytes:
    """Return the page with all of its modules named: a browser finds each in the one before."""
    names = [path.name.encode() for path in sorted(PAGE.glob('*.js'))]
    return (PAGE / 'index.html').read_bytes().replace(PRELOAD % b'main.js', b'\n'.join(
        PRELOAD % name for name in names))


def _make_file_handler(suffix: str, data: bytes) -> Handler:
    etag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'

    async def handle(request: web.Request) -> web.Response:
        if request.headers.get('If-None-Match') == etag:
            return web.Response(status=304, headers={'ETag': etag})
        return web.Response(body=data, content_type=CONTENT_TYPES[suffix], charset='utf-8',
                            headers={'ETag': etag})
    return handle


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)
