"""Who may come in: the Host and the Origin of a request, and the token where one is needed."""
from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import secrets
import time
from collections.abc import Callable
from urllib.parse import urlsplit

MIN_TOKEN_LENGTH = 16  # characters
LOG_INTERVAL_S = 60.0  # the same refusal of the same client is not told again for so long
MAX_LOGGED = 1000

log = logging.getLogger('crosspoint_web')


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches that address or name."""
    if host == 'localhost':
        return True
    try:
        return ipaddress.ip_address(host.strip('[]')).is_loopback
    except ValueError:
        return False


def resolve_token(host: str, token: str) -> str:
    """Return the token that the address needs: the given one, a new one, or none on loopback.

    Raises ValueError for one that is too short to be a secret.
    """
    if token:
        if len(token) < MIN_TOKEN_LENGTH or not token.isascii() or not token.isprintable():
            raise ValueError(f'the token has {len(token)} characters: {MIN_TOKEN_LENGTH} or more of ASCII '
                             'are needed (leave it out, and one is made)')
        return token
    return '' if is_loopback(host) else secrets.token_urlsafe(24)


class AccessControl:
    """Decides on each request, and tells each refused client in one line of the log."""

    def __init__(self, token: str, port: int,
                 monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._token, self._monotonic_s = token, monotonic_s
        # Not the token itself: a cookie is stored. Its name: cookies do not tell ports apart.
        self.cookie_name = f'crosspoint_{port}'
        self.cookie = hmac.new(token.encode(), b'crosspoint web', hashlib.sha256).hexdigest()
        self._logged_s: dict[tuple[str, str], float] = {}

    @property
    def needs_token(self) -> bool:
        """Whether a token is asked for."""
        return bool(self._token)

    def check_host(self, host: str | None) -> str:
        """Say why a request for that Host is refused, '' if it is not.

        Without a token anyone's page could reach us by a name that it makes resolve to 127.0.0.1.
        """
        if self._token or (host and is_loopback(_parse_hostname(host))):
            return ''
        return f'it asks for the host {_quote(host)}; without a token only localhost is answered'

    def check_origin(self, origin: str | None, host: str | None) -> str:
        """Say why a request from a page of that origin is refused, '' if it is our own page."""
        scheme, _, place = (origin or '').partition('://')
        if scheme in ('http', 'https') and host and place.lower() == host.lower():
            return ''
        return f'it comes from the origin {_quote(origin)}, not from this page'

    def check_cookie(self, cookie: str | None) -> str:
        """Say why a cookie does not let its owner in, '' if it does, or none is needed."""
        if not self._token or hmac.compare_digest(_encode(cookie or ''), self.cookie.encode()):
            return ''
        return 'its cookie is wrong' if cookie else 'it has not given the token'

    def is_token(self, token: str) -> bool:
        """Tell whether this is the token, in a time that does not depend on how much is right."""
        return hmac.compare_digest(_encode(token), self._token.encode())

    def log_refusal(self, client: str, reason: str) -> None:
        """Log a refusal, once a minute for each client and reason."""
        now_s, key = self._monotonic_s(), (client, reason)
        if now_s - self._logged_s.get(key, -LOG_INTERVAL_S) < LOG_INTERVAL_S:
            return
        if len(self._logged_s) >= MAX_LOGGED:
            self._logged_s.clear()
        self._logged_s[key] = now_s
        log.warning('refused %s: %s', client, reason)


def _parse_hostname(host: str) -> str:
    try:
        return urlsplit(f'//{host}').hostname or ''
    except ValueError:
        return ''


def _encode(text: str) -> bytes:
    # Half a surrogate pair, which strangers can send, has no UTF-8.
    return text.encode(errors='surrogatepass')


def _quote(text: str | None) -> str:
    """What a stranger sent, fit for one line of a log."""
    return 'unknown' if text is None else repr(text[:100])
