"""The client of an OpenAI-compatible chat server: an answer, or a refusal, within a deadline."""
from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
import threading
import time
import weakref
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from crosspoint_ros.matchers.cropond.server.errors import (
    NOT_FOUND,
    HttpResponse,
    ServerError,
    ErrorFormatter,
)
from crosspoint_ros.matchers.cropond.server.responses import (
    Completion,
    ModelInfo,
    parse_completion,
    parse_models,
)

try:  # httpx is no longer kept up; its continuation asks for Python 3.11
    import httpx2 as httpx
except ModuleNotFoundError:
    try:
        import httpx  # type: ignore[no-redef]
    except ModuleNotFoundError as missing:
        raise ImportError('to ask a server httpx2 is needed: pip install httpx2 (with Python 3.10: '
                          'pip install httpx)') from missing

MAX_REPLY_BYTES = 4 << 20
# A key stands in messages of the server as it was sent: nothing in it may need to be escaped.
FORBIDDEN_IN_KEY = ' "\'\\'
KEEP_ALIVE_S = 60.0
RETRY_PAUSE_S = 0.1
MAX_ATTEMPTS = 2
T = TypeVar('T')


@dataclass(frozen=True)
class Deadline:
    """A moment by which an answer must be there. allowed_s: how long that was at first."""

    allowed_s: float
    end_s: float

    @classmethod
    def after(cls, allowed_s: float) -> Deadline:
        """Return the moment so many seconds from now."""
        return cls(allowed_s, time.monotonic() + allowed_s)

    @property
    def left_s(self) -> float:
        """What is left of it, s; 0 when it is over."""
        return max(self.end_s - time.monotonic(), 0.0)


class ChatClient:
    """Talks to one server, over connections that stay open; from any thread, one at a time.

    The key is read from the environment variable `key_env`; none is sent where that is not set.
    Proxies and passwords that the environment names (HTTP_PROXY, .netrc) are not used: a robot's
    server is on its own network, and what was set for installing packages must not get images
    and key. Redirects are not followed, for the same reason.
    """

    def __init__(self, url: str, model: str = '', key_env: str = '', ca_file: str = '',
                 proxy: str = '') -> None:
        """Raises ValueError for a url, key, ca_file or proxy that can never work. Sends nothing."""
        self.url, self.model = normalize_url(url), model
        key = read_key(key_env)
        self._errors = ErrorFormatter(self.url, key_env, key)
        self._client = httpx.AsyncClient(
            # A reply is small. A compressed one could grow to gigabytes from a few bytes.
            headers={'Accept-Encoding': 'identity',
                     **({'Authorization': f'Bearer {key}'} if key else {})},
            verify=create_tls_context(ca_file), trust_env=False, timeout=None,
            proxy=check_proxy(proxy) or None,
            limits=httpx.Limits(keepalive_expiry=KEEP_ALIVE_S))
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self.close = weakref.finalize(self, _close, self._client, self._loop)

    def list_models(self, deadline: Deadline) -> tuple[ModelInfo, ...]:
        """Return the models that the server offers."""
        return self._run(self._request_models(), deadline)

    def complete(self, bodies: Sequence[Mapping[str, Any]],
                 deadline: Deadline) -> list[Completion]:
        """Send requests at once, so that the server can batch them, and return their replies.

        The model's name is added to each. Raises `ServerTrouble`, TIMEOUT or MATCHER_FAILED, for
        the first that fails.
        """
        return self._run(_gather([self._request_completion(body) for body in bodies]), deadline)

    def _run(self, coroutine: Coroutine[Any, Any, T], deadline: Deadline) -> T:
        """Run in this thread. The deadline holds for all of it: name, TLS, reply, retry."""
        # An event loop is the one way to stop a server that trickles its header byte by byte.
        if not self._lock.acquire(timeout=deadline.left_s):
            coroutine.close()
            raise self._errors.timeout_error(deadline.allowed_s)
        try:
            return self._loop.run_until_complete(asyncio.wait_for(coroutine, deadline.left_s))
        except asyncio.TimeoutError:
            raise self._errors.timeout_error(deadline.allowed_s) from None
        finally:
            self._lock.release()

    def sanitize(self, text: str) -> str:
        """Shorten what the server said, in one line and without the key."""
        return self._errors.sanitize(text)

    async def _request_models(self) -> tuple[ModelInfo, ...]:
        response = await self._send('GET', '/models', None)
        if response.status != 200:
            raise self._errors.http_error(response, (), self.model)
        return self._parse(parse_models, response)

    async def _request_completion(self, body: Mapping[str, Any]) -> Completion:
        content = json.dumps({'model': self.model, **body}).encode()
        response = await self._send('POST', '/chat/completions', content)
        if response.status != 200:
            names = await self._list_model_names() if response.status == NOT_FOUND else ()
            raise self._errors.http_error(response, names, self.model)
        return self._parse(parse_completion, response)

    async def _list_model_names(self) -> tuple[str, ...]:
        """The models there are, to be named in a refusal; none if the server does not tell."""
        with contextlib.suppress(ServerError):
            return tuple(offer.name for offer in await self._request_models())
        return ()

    def _parse(self, parse: Any, response: HttpResponse) -> Any:
        if response.is_html:
            raise self._errors.html_error(response)
        try:
            return parse(response.body)
        except ValueError as error:
            raise self._errors.protocol_error(str(error)) from None  # it may quote the key

    async def _send(self, method: str, path: str, content: bytes | None) -> HttpResponse:
        """Send a request, twice if the connection broke before an answer began.

        That is safe: these requests change nothing on the server. It happens when the server
        closes an idle connection at the very moment it is used again, or restarts.
        """
        for attempts_left in reversed(range(MAX_ATTEMPTS)):
            request = self._client.build_request(
                method, self.url + path, content=content,
                headers={'Content-Type': 'application/json'} if content else {})
            try:
                response = await self._client.send(request, stream=True)
            except httpx.TransportError as error:
                if not attempts_left or _is_permanent(error):
                    raise self._errors.connection_error(error) from None
                await asyncio.sleep(RETRY_PAUSE_S)
            else:
                return await self._read_response(response)
        raise AssertionError('unreachable')

    async def _read_response(self, response: Any) -> HttpResponse:
        """Read a reply to its end."""
        headers, body = response.headers, bytearray()
        try:
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_REPLY_BYTES:
                    raise self._errors.protocol_error(f'the reply is longer than {MAX_REPLY_BYTES} bytes')
        except httpx.TransportError as error:
            raise self._errors.disconnect_error(error) from None
        finally:
            await response.aclose()
        encoding = headers.get('content-encoding', 'identity')
        if encoding != 'identity':
            raise self._errors.protocol_error(f'the reply came compressed ({encoding}), which was not '
                                       'asked for: turn that off there, or in a proxy before it')
        return HttpResponse(response.status_code, headers.get('content-type', ''),
                        headers.get('location', ''), headers.get('retry-after', ''), bytes(body))


def normalize_url(url: str) -> str:
    """Return a server's address without its last slash; /v1 where no path was given.

    Raises ValueError for what is none, and for one with a password in it.
    """
    try:
        parts, _ = urlsplit(url), httpx.URL(url)
    except (ValueError, httpx.InvalidURL) as error:
        raise ValueError(f'url is none: {error}') from None  # it may hold a password
    if '@' in parts.netloc:
        raise ValueError('url holds a user name or password, which would end up in logs: put the '
                         'key into an environment variable, and name that in key_env')
    if parts.scheme not in ('http', 'https') or not parts.hostname or len(url.split()) != 1:
        raise ValueError(f'url must be like http://host:8000/v1, got {url!r}')
    try:
        _ = parts.port
    except ValueError as error:
        raise ValueError(f'url {url!r}: {error}') from error
    if parts.query or parts.fragment:
        raise ValueError(f'url {url!r}: ? and # have no place in a server\'s address')
    path = parts.path.rstrip('/').removesuffix('/chat/completions')
    return f'{parts.scheme}://{parts.netloc}{path or "/v1"}'


def read_key(key_env: str) -> str:
    """Return the key in an environment variable, '' where it is not set; never show it."""
    key = os.environ.get(key_env, '').strip() if key_env else ''
    if not (key.isascii() and key.isprintable()) or set(key) & set(FORBIDDEN_IN_KEY):
        raise ValueError(f'the environment variable {key_env} (option key_env) holds characters '
                         'that no key has: blanks, line ends, quotes, backslashes, or none of '
                         'ASCII')
    return key


def check_proxy(proxy: str) -> str:
    """Return a proxy's address, '' for none. Raises ValueError for what is none."""
    try:
        parts, _ = urlsplit(proxy), httpx.URL(proxy)
    except (ValueError, httpx.InvalidURL) as error:
        raise ValueError(f'proxy is no address: {error}') from None  # it may hold a password
    if '@' in parts.netloc:
        raise ValueError('proxy holds a user name or password, which would end up in logs')
    if proxy and (parts.scheme not in ('http', 'https') or not parts.hostname):
        raise ValueError(f'proxy must be like http://host:3128, got {proxy!r}')
    return proxy


def create_tls_context(ca_file: str) -> ssl.SSLContext:
    """Return what decides which certificates are trusted: the machine's own, or a file's."""
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f'ca_file {ca_file!r} cannot be read as certificates (PEM): '
                         f'{error}') from error


def _is_permanent(error: BaseException) -> bool:
    """Tell whether another try could not help: TLS will fail again."""
    cause = error.__cause__ or error.__context__
    return isinstance(error, ssl.SSLError) or (cause is not None and _is_permanent(cause))


async def _gather(coroutines: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Do all at once; when one fails or time is over, end the others too."""
    tasks = [asyncio.ensure_future(work) for work in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _close(client: Any, loop: asyncio.AbstractEventLoop) -> None:
    """Close the connections."""
    coroutine = client.aclose()
    try:
        loop.run_until_complete(coroutine)
    except RuntimeError:  # collected amid another event loop: the sockets close by themselves
        coroutine.close()
    loop.close()
