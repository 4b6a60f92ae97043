"""Client of an OpenAI-compatible chat server: a reply, or a refusal, within a deadline."""
from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

from crosspoint_ros.matchers.cropond.server import errors, protocol
from crosspoint_ros.matchers.cropond.server.errors import HttpResponse, ServerError
from crosspoint_ros.matchers.cropond.server.protocol import Completion, ModelInfo

try:  # httpx is unmaintained; its successor needs Python 3.11
    import httpx2 as httpx
except ModuleNotFoundError:
    try:
        import httpx  # type: ignore[no-redef]
    except ModuleNotFoundError as missing:
        raise ImportError('cropond_remote needs httpx2: pip install httpx2 (with Python 3.10: '
                          'pip install httpx)') from missing

MAX_REPLY_BYTES = 4 << 20
# A server may quote the key: without these it is never escaped, and can be removed.
FORBIDDEN_IN_KEY = ' "\'\\'
RETRY_PAUSE_S = 0.1
MAX_ATTEMPTS = 2
# A redirect, or a name of a host. (httpx leaves the errors of idna as they are.)
UNUSABLE_URL = (httpx.InvalidURL, UnicodeError)
T = TypeVar('T')


@dataclass(frozen=True)
class Deadline:
    """A point in time. allowed_s: duration from its creation."""

    allowed_s: float
    end_s: float

    @classmethod
    def after(cls, allowed_s: float) -> Deadline:
        return cls(allowed_s, time.monotonic() + allowed_s)

    @property
    def left_s(self) -> float:
        """Remaining time, s; 0 after the deadline."""
        return max(self.end_s - time.monotonic(), 0.0)


class ChatClient:
    """Requests to one server, each over its own connection, from any number of threads.

    The key is read from the environment variable `key_env`; without it none is sent. Proxies and
    passwords of the environment (HTTP_PROXY, .netrc) are not used and redirects not followed: a
    robot's server is on its own network, and no other machine may receive images and key.
    """

    def __init__(self, url: str, model: str = '', key_env: str = '', ca_file: str = '',
                 proxy: str = '') -> None:
        """Raise ValueError for an invalid url, key, ca_file or proxy. Sends nothing."""
        self.url, self.model = normalize_url(url), model
        self.is_ollama = self._has_new_limit = False  # is_ollama: use Ollama's own protocol
        key = read_key(key_env)
        self.errors = errors.ErrorFormatter(self.url, key_env, key)
        tls, proxy = create_tls_context(ca_file), check_proxy(proxy)
        # No compression: a few bytes could expand to gigabytes. On a kept connection a second
        # reply would be read as the answer to the next click.
        headers = {'Accept-Encoding': 'identity', 'Connection': 'close',
                   **({'Authorization': f'Bearer {key}'} if key else {})}
        # A client a call, so that calls of several threads have nothing in common.
        self._open_client = lambda: httpx.AsyncClient(
            headers=headers, verify=tls, trust_env=False, timeout=None, proxy=proxy or None)

    def list_models(self, deadline: Deadline) -> tuple[ModelInfo, ...]:
        return self._run(self._request_models, deadline)

    def complete(self, bodies: Sequence[Mapping[str, Any]],
                 deadline: Deadline) -> list[Completion]:
        """Send requests concurrently, so that the server can batch them; return their replies.

        The model's name is added to each. Raises the first `ServerError` (TIMEOUT or
        MATCHER_FAILED).
        """
        return self._run(lambda client: _gather(
            [self._request_completion(client, body) for body in bodies]), deadline)

    def sanitize(self, text: str) -> str:
        return self.errors.sanitize(text)

    def _run(self, request: Callable[[Any], Coroutine[Any, Any, T]], deadline: Deadline) -> T:
        """Run in this thread. The deadline includes name resolution, TLS, reply and retry."""
        async def run() -> T:
            async with self._open_client() as client:
                return await request(client)

        if not deadline.left_s:
            raise self.errors.timeout_error(deadline.allowed_s)
        # Only an event loop can stop a server that sends its header byte by byte.
        loop = _EventLoop()
        try:
            return loop.run_until_complete(asyncio.wait_for(run(), deadline.left_s))
        except asyncio.TimeoutError:
            raise self.errors.timeout_error(deadline.allowed_s) from None
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    async def _request_models(self, client: Any) -> tuple[ModelInfo, ...]:
        response = await self._send(client, 'GET', self.url + '/models', None)
        if response.status != 200:
            raise self.errors.http_error(response, (), self.model)
        return self._parse(protocol.parse_models, response)

    async def _request_completion(self, client: Any, body: Mapping[str, Any]) -> Completion:
        request = {'model': self.model, **body}
        if self._has_new_limit and 'max_tokens' in request:
            request['max_completion_tokens'] = request.pop('max_tokens')
        url = self.url + '/chat/completions'
        if self.is_ollama:
            url = self.url.removesuffix('/v1') + '/api/chat'
            request = protocol.build_ollama_request(request)
        response = await self._send(client, 'POST', url, json.dumps(request).encode())
        if response.status == 400 and b'max_completion_tokens' in response.body \
                and 'max_tokens' in request:  # OpenAI's newer models
            self._has_new_limit = True
            return await self._request_completion(client, body)
        if response.status != 200:
            names: tuple[str, ...] = ()
            if response.status == errors.NOT_FOUND:  # list the models in the error
                with contextlib.suppress(ServerError):
                    names = tuple(model.name for model in await self._request_models(client))
            raise self.errors.http_error(response, names, self.model)
        return self._parse(protocol.parse_ollama if self.is_ollama else protocol.parse_completion,
                           response)

    def _parse(self, parse: Callable[[bytes], T], response: HttpResponse) -> T:
        if response.is_html:
            raise self.errors.html_error(response)
        try:
            return parse(response.body)
        except ValueError as error:
            raise self.errors.protocol_error(str(error)) from None  # it may quote the key

    async def _send(self, client: Any, method: str, url: str, content: bytes | None
                    ) -> HttpResponse:
        """Send a request; repeat it once if the connection broke before a response.

        That is safe: requests do not change the server. It happens if the server restarts.
        """
        for attempts_left in reversed(range(MAX_ATTEMPTS)):
            try:
                request = client.build_request(
                    method, url, content=content,
                    headers={'Content-Type': 'application/json'} if content else {})
                response = await client.send(request, stream=True)
            except (httpx.TransportError, *UNUSABLE_URL) as error:
                if not attempts_left or _is_permanent(error):
                    raise self.errors.connection_error(error) from None
                await asyncio.sleep(RETRY_PAUSE_S)
            else:
                return await self._read_response(response)
        raise AssertionError('unreachable')

    async def _read_response(self, response: Any) -> HttpResponse:
        headers, body = response.headers, bytearray()
        try:
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_REPLY_BYTES:
                    raise self.errors.protocol_error(
                        f'the reply is longer than {MAX_REPLY_BYTES} bytes')
        except httpx.TransportError as error:
            raise self.errors.disconnect_error(error) from None
        finally:
            await response.aclose()
        encoding = headers.get('content-encoding', 'identity')
        if encoding != 'identity':
            raise self.errors.protocol_error(f'the reply is compressed ({encoding}), which was not '
                                             'requested: disable that in the server or proxy')
        return HttpResponse(response.status_code, headers.get('content-type', ''),
                            headers.get('location', ''), headers.get('retry-after', ''),
                            bytes(body))


def normalize_url(url: str) -> str:
    """Return a server's url without a trailing slash; with /v1 if it has no path.

    Raises ValueError for an invalid one, and for one that contains a password.
    """
    parts = _split_url('url', url)
    if parts.scheme not in ('http', 'https') or not parts.hostname or len(url.split()) != 1:
        raise ValueError(f'url must be like http://host:8000/v1, got {url!r}')
    if parts.query or parts.fragment:
        raise ValueError(f"url {url!r}: a server's url has no ? or #")
    path = parts.path.rstrip('/').removesuffix('/chat/completions')
    return f'{parts.scheme}://{parts.netloc}{path or "/v1"}'


def check_proxy(proxy: str) -> str:
    """Return a proxy's url, '' for none. Raises ValueError for an invalid one."""
    parts = _split_url('proxy', proxy)
    if proxy and (parts.scheme not in ('http', 'https') or not parts.hostname):
        raise ValueError(f'proxy must be like http://host:3128, got {proxy!r}')
    return proxy


def _split_url(option: str, url: str) -> SplitResult:
    """Split a url. Raises ValueError, without quoting one that may contain a password."""
    if '@' in url:
        raise ValueError(f'{option} contains a user name or password, which would appear in logs: '
                         'use the environment variable of the option key_env')
    try:
        httpx.URL(url)
        parts = urlsplit(url)
        _ = parts.port  # raises if it is out of range
        return parts
    except (ValueError, httpx.InvalidURL) as error:
        raise ValueError(f'invalid {option}: {error}') from None


def read_key(key_env: str) -> str:
    """Return the key in an environment variable, '' if it is not set."""
    key = os.environ.get(key_env, '').strip() if key_env else ''
    if not (key.isascii() and key.isprintable()) or set(key) & set(FORBIDDEN_IN_KEY):
        raise ValueError(f'the environment variable {key_env} (option key_env) contains characters '
                         'that a key cannot have: blanks, line ends, quotes, backslashes, or '
                         'non-ASCII ones')
    return key


def create_tls_context(ca_file: str) -> ssl.SSLContext:
    """Return a context that trusts the machine's certificate authorities, or those of a file."""
    if not ca_file:
        return _trust_machine()
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f'ca_file {ca_file!r} cannot be read as certificates (PEM): '
                         f'{error}') from error


@lru_cache(maxsize=1)
def _trust_machine() -> ssl.SSLContext:
    """Return the context of all clients, made once: it reads every authority, some 40 ms."""
    return ssl.create_default_context()


def _is_permanent(error: BaseException) -> bool:
    """Return whether a retry would fail too, as for TLS."""
    cause = error.__cause__ or error.__context__
    return isinstance(error, (ssl.SSLError, *UNUSABLE_URL)) or (
        cause is not None and _is_permanent(cause))


async def _gather(coroutines: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Run all concurrently; if one fails or is cancelled, cancel the others."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _EventLoop(asyncio.SelectorEventLoop):
    """Resolves names in daemon threads: a name server that hangs must not hold the exit."""

    def run_in_executor(self, executor: Any, func: Callable[..., Any],  # type: ignore[override]
                        *args: Any) -> asyncio.Future[Any]:
        future: Future[Any] = Future()

        def run() -> None:
            future.set_running_or_notify_cancel()
            try:
                future.set_result(func(*args))
            except BaseException as error:  # re-raised by the future
                future.set_exception(error)

        threading.Thread(target=run, name='resolve', daemon=True).start()
        return asyncio.wrap_future(future, loop=self)
