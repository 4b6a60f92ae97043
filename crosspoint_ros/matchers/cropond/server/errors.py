"""Errors of a chat server, with their cause and what to do, and without the API key."""
from __future__ import annotations

import html
import json
import math
import re
import ssl
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from crosspoint_ros.core.datatypes import Code, Rejected

QUOTED_CHARS = 300
TOO_MANY_REQUESTS, TOO_LARGE, NOT_FOUND = 429, 413, 404
SERVER_STATUS = 500  # and above: the fault is the server's
OVERLOADED = (TOO_MANY_REQUESTS, 503)
UNAUTHORIZED = (401, 403)
REQUEST_STATUSES = (400, TOO_LARGE, 422)  # may be caused by the content of a request
UNSUPPORTED_STATUSES = (400, 422, 500, 501)  # replies to a field that a server does not support


class ServerError(Rejected):
    """A refusal caused by the server.

    retryable: it may pass (a restart, a network failure); otherwise the configuration must change.
    status: of the HTTP response; 0 without one. retry_after_s: the pause that it requests, or 0.
    """

    def __init__(self, code: Code, message: str, retryable: bool, status: int = 0,
                 retry_after_s: float = 0.0) -> None:
        super().__init__(code, message)
        self.retryable, self.status, self.retry_after_s = retryable, status, retry_after_s


@dataclass(frozen=True)
class HttpResponse:
    """An HTTP response as received."""

    status: int
    content_type: str
    location: str
    retry_after: str
    body: bytes

    @property
    def is_html(self) -> bool:
        return 'html' in self.content_type.lower() or self.body.lstrip()[:1] == b'<'


@dataclass(frozen=True, repr=False)
class ErrorFormatter:
    """Builds an error for each way to fail, never with the key, even if the server repeats it."""

    url: str
    key_env: str
    key: str

    def sanitize(self, text: str) -> str:
        """Return a text of the server in one line, shortened and without the key."""
        quote = ' '.join((text.replace(self.key, '***') if self.key else text).split())
        return quote if len(quote) <= QUOTED_CHARS else quote[:QUOTED_CHARS] + ' ...'

    def timeout_error(self, allowed_s: float) -> ServerError:
        return ServerError(Code.TIMEOUT, f'{self.url} did not answer within {allowed_s:.1f} s '
                           '(option deadline_s): is it overloaded, or the network slow?', True)

    def connection_error(self, error: BaseException) -> ServerError:
        cause = _find_cause(error, ssl.SSLError)
        if isinstance(cause, ssl.SSLCertVerificationError):
            return self.error(f'its certificate is not trusted ({cause.verify_message}): set '
                              'ca_file to the authority that signed it, or use the host name of '
                              'the certificate')
        if cause is not None:
            return self.error(f'TLS failed ({self.sanitize(str(cause))}): does the server use '
                              'https at this port? If not, the url begins with http://')
        reason = self.sanitize(str(_root_cause(error))) or type(error).__name__
        return self.error(f'not reachable ({reason}): is the server running, and are host and '
                          'port right?', retryable=True)

    def disconnect_error(self, error: BaseException) -> ServerError:
        reason = self.sanitize(str(error)) or type(error).__name__
        return self.error(f'the server ended the connection before its reply ({reason}): was it '
                          'stopped, or out of memory?', retryable=True)

    def http_error(self, response: HttpResponse, model_names: tuple[str, ...], model: str
                   ) -> ServerError:
        status, message = response.status, self.sanitize(_extract_message(response))
        if status in UNAUTHORIZED:
            state = 'does not hold the right one' if self.key else 'is not set'
            return self.error(f'the key was refused ({status}): the environment variable '
                              f'{self.key_env} (option key_env) {state}, where this node runs',
                              status=status)
        if 300 <= status < 400:
            return self.error(f'it redirects to {self.sanitize(response.location)} ({status}): '
                              'set that address as url, if you trust it', status=status)
        if response.is_html and status not in (TOO_LARGE, *OVERLOADED):  # of a proxy: nginx
            return self.html_error(response)
        if status == NOT_FOUND:
            if model_names and model not in model_names:
                return self.unknown_model_error(model, ', '.join(model_names), status)
            return self.error(f'not found ({NOT_FOUND}: {message}): check the option model '
                              f'({model!r}), and that the url ends with the path before '
                              '/chat/completions', status=status)
        if status == TOO_LARGE:
            return self.error(f'the images are too large for it or for a proxy ({status}): raise '
                              'the limit there (nginx: client_max_body_size), or lower '
                              'max_pixels', status=status)
        busy = 'overloaded ' if status in OVERLOADED else ''
        wait = self.sanitize(response.retry_after)
        later = f'; it requests a pause (Retry-After: {wait})' if wait else ''
        return ServerError(Code.MATCHER_FAILED, f'{self.url}: {busy}({status}): {message}{later}',
                           status >= SERVER_STATUS or status in OVERLOADED, status,
                           parse_retry_after(response.retry_after))

    def unknown_model_error(self, model: str, names: str, status: int = 0) -> ServerError:
        return self.error(f'it has no model {model!r}; option model can be: {names}',
                          status=status)

    def html_error(self, response: HttpResponse) -> ServerError:
        title = self.sanitize(_extract_message(response))
        return self.error(f'an HTML page came ({response.status}, "{title}"), not a reply: a '
                          'proxy or a login page answers, or the url is of something else',
                          retryable=response.status >= SERVER_STATUS, status=response.status)

    def protocol_error(self, what: str) -> ServerError:
        return self.error(f'{self.sanitize(what)}: the server is broken or not OpenAI-compatible')

    def error(self, what: str, retryable: bool = False, status: int = 0) -> ServerError:
        return ServerError(Code.MATCHER_FAILED, f'{self.url}: {what}', retryable, status)


def parse_retry_after(text: str) -> float:
    """Return the pause of a Retry-After header, s: a number or a date; 0 for anything else."""
    try:
        pause_s = float(text)
    except ValueError:
        try:
            pause_s = parsedate_to_datetime(text).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return 0.0
    return max(pause_s, 0.0) if math.isfinite(pause_s) else 0.0


def _find_cause(error: BaseException | None, kind: type[BaseException]) -> BaseException | None:
    """Return the first error of a type in the chain of causes."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


def _root_cause(error: BaseException) -> BaseException:
    """Return the last error in the chain of causes, usually the operating system's."""
    cause = error.__cause__ or error.__context__
    group = getattr(cause, 'exceptions', ())
    cause = group[0] if group else cause
    return error if cause is None or not isinstance(cause, Exception) else _root_cause(cause)


def _extract_message(response: HttpResponse) -> str:
    """Return the error message of a JSON body, the title of a page, or the whole body."""
    text = response.body.decode('utf-8', 'replace')
    title = re.search('<title[^>]*>(.*?)</title>', text, re.DOTALL | re.IGNORECASE)
    if title:
        return html.unescape(title[1])
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return text
    for name in ('error', 'message', 'detail'):
        data = data.get(name, data) if isinstance(data, dict) else data
    return str(data)
