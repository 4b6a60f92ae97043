"""What went wrong with a chat server, in words that tell what to do."""
from __future__ import annotations

import html
import json
import re
import ssl
from dataclasses import dataclass

from crosspoint_ros.core.datatypes import Code, Rejected

QUOTED_CHARS = 300
TOO_MANY_REQUESTS, TOO_LARGE, NOT_FOUND = 429, 413, 404
OVERLOADED = (TOO_MANY_REQUESTS, 503)
UNAUTHORIZED = (401, 403)
REQUEST_STATUSES = (400, TOO_LARGE, 422)
UNSUPPORTED_STATUSES = (400, 422, 500, 501)  # what servers answer to a field that they cannot take


class ServerError(Rejected):
    """A refusal because of the server.

    passing: it may end by itself (the server restarts, the network comes back); otherwise somebody
    has to change something. status: of the HTTP reply; 0 when none came.
    """

    def __init__(self, code: Code, message: str, retryable: bool, status: int = 0) -> None:
        super().__init__(code, message)
        self.retryable = retryable
        self.status = status


@dataclass(frozen=True)
class HttpResponse:
    """An HTTP reply as it came."""

    status: int
    content_type: str
    location: str
    retry_after: str
    body: bytes

    @property
    def is_html(self) -> bool:
        """Tell whether it is a page for people."""
        return 'html' in self.content_type.lower() or self.body.lstrip()[:1] == b'<'


@dataclass(frozen=True, repr=False)
class ErrorFormatter:
    """Words a refusal so that the key is never in it, even where the server repeats it."""

    url: str
    key_env: str
    key: str

    def sanitize(self, text: str) -> str:
        """Shorten a text of the server, in one line and without the key."""
        quote = text.replace(self.key, '***') if self.key else text
        quote = ' '.join(quote.split())
        return quote if len(quote) <= QUOTED_CHARS else quote[:QUOTED_CHARS] + ' ...'

    def timeout_error(self, allowed_s: float) -> ServerError:
        """The deadline is over."""
        return ServerError(Code.TIMEOUT, f'{self.url} did not answer within {allowed_s:.1f} s '
                             '(option deadline_s): is it overloaded, or the network slow?', True)

    def connection_error(self, error: BaseException) -> ServerError:
        """No reply came, because of what the network or TLS said."""
        cause = _find_cause(error, ssl.SSLError)
        if isinstance(cause, ssl.SSLCertVerificationError):
            return self._make_error(f'its certificate is not trusted ({cause.verify_message}): name the '
                               'authority that signed it in ca_file, or use the host name that the '
                               'certificate is for')
        if cause is not None:
            return self._make_error(f'TLS failed ({self.sanitize(str(cause))}): does the server speak '
                               'https at this port? If not, the url begins with http://')
        reason = self.sanitize(str(_root_cause(error))) or type(error).__name__
        return self._make_error(f'not reachable ({reason}): is the server running, and are host and port '
                           'right?', retryable=True)

    def disconnect_error(self, error: BaseException) -> ServerError:
        """The server went away before its reply was complete."""
        said = self.sanitize(str(error)) or type(error).__name__
        return self._make_error(f'the server ended the connection before its reply ({said}): has it '
                           'been stopped, or run out of memory?', retryable=True)

    def http_error(self, response: HttpResponse, model_names: tuple[str, ...], model: str) -> ServerError:
        """Word a reply whose status is not 200."""
        status, message = response.status, self.sanitize(_extract_message(response))
        if status in UNAUTHORIZED:
            return self._make_error(f'the key was refused ({status}): {self._key_hint()}', status=status)
        if 300 <= status < 400:
            return self._make_error(f'it points to {self.sanitize(response.location)} ({status}): give that '
                               'address as url, if you trust it', status=status)
        if response.is_html:
            return self.html_error(response)
        if status == NOT_FOUND:
            return self._make_error(self._not_found(message, model_names, model), status=status)
        if status == TOO_LARGE:
            return self._make_error(f'the images are too large for it or for a proxy ({status}): raise '
                               'the limit there (nginx: client_max_body_size), or lower '
                               'max_pixels', status=status)
        busy = 'overloaded ' if status in OVERLOADED else ''
        wait = self.sanitize(response.retry_after)
        later = f'; it asks for a pause (Retry-After: {wait})' if wait else ''
        return self._make_error(f'{busy}({status}): {message}{later}', status=status,
                           retryable=status >= 500 or status in OVERLOADED)

    def html_error(self, response: HttpResponse) -> ServerError:
        """A page for people came, where a machine's reply was expected."""
        title = self.sanitize(_extract_message(response))
        return self._make_error(f'an HTML page came ({response.status}, "{title}"), not a reply: a proxy '
                           'or a login page stands between, or the url is of something else',
                           retryable=response.status >= 500, status=response.status)

    def protocol_error(self, what: str) -> ServerError:
        """What came is not what the protocol has there."""
        return self._make_error(f'{self.sanitize(what)}: it is no OpenAI-compatible server, or one that '
                           'is broken')

    def _make_error(self, what: str, retryable: bool = False, status: int = 0) -> ServerError:
        return ServerError(Code.MATCHER_FAILED, f'{self.url}: {what}', retryable, status)

    def _key_hint(self) -> str:
        state = 'does not hold the right one' if self.key else 'is not set'
        return (f'the environment variable {self.key_env} (option key_env) {state}, where this '
                'node runs')

    def _not_found(self, message: str, model_names: tuple[str, ...], model: str) -> str:
        if model_names and model not in model_names:
            return f'it has no model {model!r}; option model can be: {", ".join(model_names)}'
        return (f'not found ({NOT_FOUND}: {message}): check the option model ({model!r}), and that '
                'the url ends with what stands before /chat/completions')


def _find_cause(error: BaseException | None, kind: type[BaseException]) -> BaseException | None:
    """The error itself, or the one behind it, that is of a kind."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


def _root_cause(error: BaseException) -> BaseException:
    """The first of all that went wrong: what the operating system said."""
    cause = error.__cause__ or error.__context__
    group = getattr(cause, 'exceptions', ())
    cause = group[0] if group else cause
    return error if cause is None or not isinstance(cause, Exception) else _root_cause(cause)


def _extract_message(response: HttpResponse) -> str:
    """The sentence for people in a reply: its JSON error message, its title, or all of it."""
    text = response.body.decode('utf-8', 'replace')
    title = re.decode('<title[^>]*>(.*?)</title>', text, re.DOTALL | re.IGNORECASE)
    if title:
        return html.unescape(title[1])
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return text
    for name in ('error', 'message', 'detail'):
        data = data.get(name, data) if isinstance(data, dict) else data
    return str(data)
