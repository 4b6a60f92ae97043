"""Access control of the web server: Host, Origin, and a token where one is required."""
from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

MIN_TOKEN_LENGTH = 16  # characters
LOG_INTERVAL_S = 60.0  # at most one line per client and reason in this time
MAX_LOGGED = 1000

log = logging.getLogger(__name__)


def is_loopback(host: str) -> bool:
    """Whether that address or name is reachable from this machine only."""
    if host == 'localhost':
        return True
    try:
        return ipaddress.ip_address(host.strip('[]')).is_loopback
    except ValueError:
        return False


def resolve_token(host: str, token: str, is_required: bool = False) -> str:
    """Return the token to require: the given one, a random one, or '' (none) on loopback.

    is_required: on loopback too. Raises ValueError if the given one is too short or not printable
    ASCII.
    """
    if token:
        return check_token(token)
    return '' if is_loopback(host) and not is_required else secrets.token_urlsafe(24)


def check_token(token: str) -> str:
    """Return a token that is long enough and printable ASCII; raise ValueError for others."""
    if len(token) < MIN_TOKEN_LENGTH or not token.isascii() or not token.isprintable():
        raise ValueError(f'invalid token of {len(token)} characters: {MIN_TOKEN_LENGTH} or more of '
                         'printable ASCII are required (give none for a random one)')
    return token


def read_token(given: str, path: Path | None, variable: str) -> str:
    """Return the given token, else that in the file, else the environment variable's, else ''.

    Raises OSError, and ValueError for an empty file: none would mean that no token is required.
    """
    if given or path is None:
        return given or os.environ.get(variable, '')
    token = path.read_text().strip()
    if not token:
        raise ValueError(f'{path} is empty; it should have a token')
    return token


class AccessControl:
    """Checks requests, and logs each refused client.

    The `check_*` methods return the reason for a refusal, '' if the request is allowed.
    """

    def __init__(self, token: str, port: int, monotonic_s: Callable[[], float] = time.monotonic,
                 viewer_token: str = '') -> None:
        """token: '' for none; viewer_token: of those who see and cannot act, '' for none."""
        self._token, self._viewer_token, self._monotonic_s = token, viewer_token, monotonic_s
        # Browsers send cookies to every port of a host, hence the name; the value is an HMAC
        # because cookies are stored on disk.
        self.cookie_name = f'crosspoint_{port}'
        self.cookie = _derive_cookie(token)
        self._viewer_cookie = _derive_cookie(viewer_token) if viewer_token else ''
        self._logged_s: dict[tuple[str, str], float] = {}

    @property
    def needs_token(self) -> bool:
        return bool(self._token)

    def check_host(self, host: str | None) -> str:
        """Without a token, allow loopback names only: this defeats DNS rebinding."""
        if self._token or (host and is_loopback(_parse_hostname(host))):
            return ''
        return f'Host is {_quote(host)}; without a token only localhost is served'

    def check_origin(self, origin: str | None, host: str | None) -> str:
        """Allow requests of our own page only."""
        scheme, _, address = (origin or '').partition('://')
        if scheme in ('http', 'https') and host and address.lower() == host.lower():
            return ''
        return f'Origin is {_quote(origin)}, not this page'

    def check_cookie(self, cookie: str | None) -> str:
        """Allow requests with a right cookie, and all if no token is required."""
        if not self._token or self.can_act(cookie) or _is_same(cookie, self._viewer_cookie):
            return ''
        return 'wrong cookie' if cookie else 'no token given'

    def can_act(self, cookie: str | None) -> bool:
        """Whether a browser may act; with a viewer's cookie it may only look."""
        return not self._token or _is_same(cookie, self.cookie)

    def find_cookie(self, token: str) -> str:
        """Return the cookie for a token, '' for a wrong one; compare in constant time."""
        if _is_same(token, self._token):
            return self.cookie
        return self._viewer_cookie if _is_same(token, self._viewer_token) else ''

    def log_refusal(self, client: str, reason: str) -> None:
        """Log a refusal, once a minute per client and reason."""
        now_s, key = self._monotonic_s(), (client, reason)
        if now_s - self._logged_s.get(key, -LOG_INTERVAL_S) < LOG_INTERVAL_S:
            return
        if len(self._logged_s) >= MAX_LOGGED:
            self._logged_s.clear()
        self._logged_s[key] = now_s
        log.warning('refused %s: %s', client, reason)


def _derive_cookie(token: str) -> str:
    return hmac.new(token.encode(), b'crosspoint web', hashlib.sha256).hexdigest()


def _is_same(given: str | None, secret: str) -> bool:
    """Whether a secret was given; an empty one never is."""
    return bool(secret) and hmac.compare_digest(_encode(given or ''), secret.encode())


def _parse_hostname(host: str) -> str:
    try:
        return urlsplit(f'//{host}').hostname or ''
    except ValueError:
        return ''


def _encode(text: str) -> bytes:
    # A lone surrogate, which a client can send as JSON, has no UTF-8 encoding.
    return text.encode(errors='surrogatepass')


def _quote(text: str | None) -> str:
    return 'missing' if text is None else repr(text[:100])
