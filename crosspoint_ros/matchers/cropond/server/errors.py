"""What went wrong with a chat server, in words that tell what to do."""
from __future__ import annotations

import html
import json
import re
import ssl
from dataclasses import dataclass

from crosspoint_ros.core.datatypes import Code, Rejected

QUOTED_CHARACTERS = 300
BUSY, TOO_LARGE, NOT_FOUND = 429, 413, 404
OVERLOADED = (BUSY, 503)
NOT_ALLOWED = (401, 403)
ABOUT_A_REQUEST = (400, TOO_LARGE, 422)
NOT_UNDERSTOOD = (400, 422, 500, 501)  # what servers answer to a field that they cannot take


class ServerTrouble(Rejected):
    """A refusal because of the server.

    passing: it may end by itself (the server restarts, the network comes back); otherwise somebody
    has to change something. status: of the HTTP reply; 0 when none came.
    """

    def __init__(self, code: Code, message: str, passing: bool, status: int = 0) -> None:
        super().__init__(code, message)
        self.passing = passing
        self.status = status


@dataclass(frozen=True)
class Answered:
    """An HTTP reply as it came."""

    status: int
    content_type: str
    location: str
    retry_after: str
    body: bytes

    @property
    def is_page(self) -> bool:
        """Tell whether it is a page for people."""
        return 'html' in self.content_type.lower() or self.body.lstrip()[:1] == b'<'


@dataclass(frozen=True, repr=False)
class Wording:
    """Words a refusal so that the key is never in it, even where the server repeats it."""

    url: str
    key_env: str
    key: str

    def clean(self, text: str) -> str:
        """Shorten a text of the server, in one line and without the key."""
        told = text.replace(self.key, '***') if self.key else text
        told = ' '.join(told.split())
        return told if len(told) <= QUOTED_CHARACTERS else told[:QUOTED_CHARACTERS] + ' ...'

    def late(self, allowed_s: float) -> ServerTrouble:
        """The deadline is over."""
        return ServerTrouble(Code.TIMEOUT, f'{self.url} did not answer within {allowed_s:.1f} s '
                             '(option deadline_s): is it overloaded, or the network slow?', True)

    def unreachable(self, error: BaseException) -> ServerTrouble:
        """No reply came, because of what the network or TLS said."""
        cause = _of_type(error, ssl.SSLError)
        if isinstance(cause, ssl.SSLCertVerificationError):
            return self._fault(f'its certificate is not trusted ({cause.verify_message}): name the '
                               'authority that signed it in ca_file, or use the host name that the '
                               'certificate is for')
        if cause is not None:
            return self._fault(f'TLS failed ({self.clean(str(cause))}): does the server speak '
                               'https at this port? If not, the url begins with http://')
        said = self.clean(str(_innermost(error))) or type(error).__name__
        return self._fault(f'not reachable ({said}): is the server running, and are host and port '
                           'right?', passing=True)

    def cut_off(self, error: BaseException) -> ServerTrouble:
        """The server went away before its reply was complete."""
        said = self.clean(str(error)) or type(error).__name__
        return self._fault(f'the server ended the connection before its reply ({said}): has it '
                           'been stopped, or run out of memory?', passing=True)

    def refused(self, answer: Answered, offered: tuple[str, ...], model: str) -> ServerTrouble:
        """Word a reply whose status is not 200."""
        status, said = answer.status, self.clean(_message(answer))
        if status in NOT_ALLOWED:
            return self._fault(f'the key was refused ({status}): {self._key_hint()}', status=status)
        if 300 <= status < 400:
            return self._fault(f'it points to {self.clean(answer.location)} ({status}): give that '
                               'address as url, if you trust it', status=status)
        if answer.is_page:
            return self.page(answer)
        if status == NOT_FOUND:
            return self._fault(self._not_found(said, offered, model), status=status)
        if status == TOO_LARGE:
            return self._fault(f'the images are too large for it or for a proxy ({status}): raise '
                               'the limit there (nginx: client_max_body_size), or lower '
                               'max_pixels', status=status)
        busy = 'overloaded ' if status in OVERLOADED else ''
        wait = self.clean(answer.retry_after)
        later = f'; it asks for a pause (Retry-After: {wait})' if wait else ''
        return self._fault(f'{busy}({status}): {said}{later}', status=status,
                           passing=status >= 500 or status in OVERLOADED)

    def page(self, answer: Answered) -> ServerTrouble:
        """A page for people came, where a machine's reply was expected."""
        title = self.clean(_message(answer))
        return self._fault(f'an HTML page came ({answer.status}, "{title}"), not a reply: a proxy '
                           'or a login page stands between, or the url is of something else',
                           passing=answer.status >= 500, status=answer.status)

    def nonsense(self, what: str) -> ServerTrouble:
        """What came is not what the protocol has there."""
        return self._fault(f'{self.clean(what)}: it is no OpenAI-compatible server, or one that '
                           'is broken')

    def _fault(self, what: str, passing: bool = False, status: int = 0) -> ServerTrouble:
        return ServerTrouble(Code.MATCHER_FAILED, f'{self.url}: {what}', passing, status)

    def _key_hint(self) -> str:
        state = 'does not hold the right one' if self.key else 'is not set'
        return (f'the environment variable {self.key_env} (option key_env) {state}, where this '
                'node runs')

    def _not_found(self, said: str, offered: tuple[str, ...], model: str) -> str:
        if offered and model not in offered:
            return f'it has no model {model!r}; option model can be: {", ".join(offered)}'
        return (f'not found ({NOT_FOUND}: {said}): check the option model ({model!r}), and that '
                'the url ends with what stands before /chat/completions')


def _of_type(error: BaseException | None, kind: type[BaseException]) -> BaseException | None:
    """The error itself, or the one behind it, that is of a kind."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


def _innermost(error: BaseException) -> BaseException:
    """The first of all that went wrong: what the operating system said."""
    behind = error.__cause__ or error.__context__
    group = getattr(behind, 'exceptions', ())
    behind = group[0] if group else behind
    return error if behind is None or not isinstance(behind, Exception) else _innermost(behind)


def _message(answer: Answered) -> str:
    """The sentence for people in a reply: its JSON error message, its title, or all of it."""
    text = answer.body.decode('utf-8', 'replace')
    title = re.search('<title[^>]*>(.*?)</title>', text, re.DOTALL | re.IGNORECASE)
    if title:
        return html.unescape(title[1])
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return text
    for name in ('error', 'message', 'detail'):
        told = told.get(name, told) if isinstance(told, dict) else told
    return str(told)
