"""Web pages of other origins that may call the service from a browser: the CORS protocol of the Fetch standard.

Off by default: a browser then keeps every other page from reading a response. A page needs a key in any case, since the
wires take keys in headers; cookies are never allowed, so `*` with credentials is not possible.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from tunerun.errors import ConfigError
from tunerun.service.screening import header
from tunerun.service.wires import Scope

Headers = list[tuple[bytes, bytes]]

MAX_AGE_S = 600
"""How long a browser may cache a preflight; Chromium's own limit is 7200 s, Safari's 600 s."""

_ORIGIN = re.compile(
    r"https?://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?|(?:[a-z][a-z0-9+.-]*-extension|app)://[a-z0-9-]+"
)
_METHODS = b"GET, POST, PATCH, DELETE"
_EXPOSED = b"x-request-id, retry-after, x-should-retry, x-tunerun-ignored, x-tunerun-warning, warning"
_HEADER_NAMES = re.compile(rb"[a-z0-9!#$%&'*+.^_`|~-]+(?:[ \t]*,[ \t]*[a-z0-9!#$%&'*+.^_`|~-]+)*", re.IGNORECASE)


class Origins:
    """The origins whose pages may call the service.

    Args:
        origins: as a browser sends them, such as `https://app.example.org` or `http://localhost:5173`.

    Raises:
        ConfigError: some are not origins; names all of them.
    """

    def __init__(self, origins: Iterable[str] = ()) -> None:
        given = list(origins)
        wrong = [text for text in given if not _ORIGIN.fullmatch(text)]
        if wrong:
            raise ConfigError(
                [
                    f"--allow-origin {text}: give an origin as a browser sends it, scheme, host in lower case and port "
                    "without a path, such as https://app.example.org; `*` is not taken, name each"
                    for text in wrong
                ]
            )
        self._allowed = {text.encode() for text in given}

    def headers(self, scope: Scope) -> Headers:
        """The headers that let a browser pass a response to the calling page."""
        if not self._allowed:
            return []
        return [(b"vary", b"origin"), *self._allowing(scope)]

    def _allowing(self, scope: Scope) -> Headers:
        origin = header(scope, b"origin")
        if origin not in self._allowed:
            return []
        return [(b"access-control-allow-origin", origin), (b"access-control-expose-headers", _EXPOSED)]

    def preflight(self, scope: Scope) -> Headers | None:
        """The headers of the response to a preflight; None: the request is not one, or the origin is not allowed."""
        if scope["method"] != "OPTIONS" or header(scope, b"access-control-request-method") is None:
            return None
        if header(scope, b"origin") not in self._allowed:
            return None
        allowed = [(b"access-control-allow-methods", _METHODS), (b"access-control-max-age", str(MAX_AGE_S).encode())]
        wanted = header(scope, b"access-control-request-headers") or b""
        if _HEADER_NAMES.fullmatch(wanted):  # the clients send x-stainless-* and x-goog-*, each version more of them
            allowed.append((b"access-control-allow-headers", wanted))
        if header(scope, b"access-control-request-private-network") == b"true":
            allowed.append((b"access-control-allow-private-network", b"true"))
        return allowed
