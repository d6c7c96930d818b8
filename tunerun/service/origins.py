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
# Without this list a page cannot read them (Fetch standard); the SDKs need the first three to report and to retry.
_EXPOSED = b"x-request-id, retry-after, x-should-retry, x-tunerun-ignored, x-tunerun-warning, warning"
_HEADER_NAMES = re.compile(rb"[a-z0-9!#$%&'*+.^_`|~-]+(?:[ \t]*,[ \t]*[a-z0-9!#$%&'*+.^_`|~-]+)*", re.IGNORECASE)


class Origins:
    """The origins whose pages may call the service.

    Args:
        origins: as a browser sends them, such as `https://app.example.org` or `http://localhost:5173`.

    Raises:
        ConfigError: some are not origins; has all problems.
    """

    def __init__(self, origins: Iterable[str] = ()) -> None:
        allowed = list(origins)
        problems = [
            f"--allow-origin {text}: give an origin as a browser sends it, scheme, host in lower case and port without "
            "a path, such as https://app.example.org; `*` is not accepted: name each"
            for text in allowed
            if not _ORIGIN.fullmatch(text)
        ]
        if problems:
            raise ConfigError(problems)
        self._allowed = {text.encode() for text in allowed}

    def headers(self, scope: Scope) -> Headers:
        """Return the headers with which a browser passes a response to the page that called."""
        if not self._allowed:
            return []
        origin = header(scope, b"origin")
        allowed = [(b"access-control-allow-origin", origin), (b"access-control-expose-headers", _EXPOSED)]
        # `vary` also where the origin is not allowed: a cache must not give that response to an allowed one.
        return [(b"vary", b"origin"), *(allowed if origin in self._allowed else ())]

    def preflight(self, scope: Scope) -> Headers | None:
        """Return the headers of the response to a preflight; None: it is not one, or its origin is not allowed."""
        if scope["method"] != "OPTIONS" or header(scope, b"access-control-request-method") is None:
            return None
        if header(scope, b"origin") not in self._allowed:
            return None
        allowed = [(b"access-control-allow-methods", _METHODS), (b"access-control-max-age", str(MAX_AGE_S).encode())]
        wanted = header(scope, b"access-control-request-headers") or b""
        # Any well-formed names: clients send x-stainless-* and x-goog-* headers, and each version sends more of them.
        if _HEADER_NAMES.fullmatch(wanted):
            allowed.append((b"access-control-allow-headers", wanted))
        # Private Network Access: a browser that has it asks before a page of the internet calls an address of this
        # network.
        if header(scope, b"access-control-request-private-network") == b"true":
            allowed.append((b"access-control-allow-private-network", b"true"))
        return allowed
