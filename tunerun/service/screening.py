"""Requests that are refused by their first line and their headers, before anything else is read.

A browser that was made to resolve an attacker's name to this machine (DNS rebinding) sends that name as Host, so a name
is accepted only where it is known; an address as Host needs no name server and is always accepted. Starlette's
TrustedHostMiddleware is not used: it cannot accept all addresses, and it answers outside the envelope of a wire.

Anything that two parsers (a proxy's and this one) may read differently is refused: headers and parameters that are sent
twice, and Content-Length beside Transfer-Encoding (RFC 9112, 6.3, allows to; h11 would ignore the length).
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tunerun.errors import ConfigError
from tunerun.service.core.problems import Code, ServiceError

LOCALHOST = "localhost"

# Headers that decide who calls, what the body is and where it ends. Of two different ones, a proxy may check one and
# this service use the other.
_SINGLE = frozenset(
    {b"authorization", b"content-length", b"content-type", b"cookie", b"host", b"origin", b"transfer-encoding"}
    | {b"api-key", b"x-goog-api-key"}
)
# 253 characters: the 255 octets of RFC 1035, 2.3.4, written as text.
_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,251}[a-z0-9])?")
_HOST = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[a-z0-9._-]+))(?::[0-9]{1,5})?")


class Hosts:
    """Host names that requests may have, besides addresses and localhost.

    Args:
        names: as `library.example.org`, without a port.

    Raises:
        ConfigError: some are not host names; names all of them.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        allowed = list(names)
        wrong = [name for name in allowed if not (_is_address(name) or _NAME.fullmatch(name.lower()))]
        if wrong:
            raise ConfigError(
                [f"--allowed-host {name}: give a host's name without a scheme and a port" for name in wrong]
            )
        self._names = {LOCALHOST, *(name.lower() for name in allowed)}

    def check(self, header: bytes | None) -> None:
        """Refuse a Host header with another name; HTTP/1.0, which browsers do not speak, may omit it.

        Raises:
            ServiceError: the name is another one, or malformed.
        """
        if header is None:
            return
        match = _HOST.fullmatch(header.decode("latin-1").lower())
        if match is None:
            raise ServiceError(Code.INVALID_ARGUMENT, "Host: is malformed; send the name or the address of the service")
        name = match["v6"] or match["name"].removesuffix(".")  # a fully qualified name may end in a dot
        if name not in self._names and not _is_address(name):
            raise ServiceError(
                Code.INVALID_ARGUMENT,
                f"Host: {name[:100]} is not a name of this service; ask it by its address, or start it with "
                f"--allowed-host {name[:100]}",
            )


def header(scope: Mapping[str, Any], name: bytes) -> bytes | None:
    """The value of a request's header; None: the request does not have it."""
    return next((value for each, value in scope["headers"] if each == name), None)


def check_headers(headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Refuse headers that parsers may read differently.

    Raises:
        ServiceError: a header that may be sent once is sent twice, or a length beside Transfer-Encoding.
    """
    counts = Counter(name for name, _ in headers)
    twice = sorted(name.decode() for name in _SINGLE if counts[name] > 1)
    if twice:
        raise ServiceError(Code.INVALID_ARGUMENT, f"the request has more than one header {', '.join(twice)}; send one")
    if counts[b"content-length"] and counts[b"transfer-encoding"]:
        raise ServiceError(
            Code.INVALID_ARGUMENT, "the request has Content-Length and Transfer-Encoding; send one of the two"
        )


def check_parameters(parameters: Iterable[tuple[str, str]]) -> None:
    """Refuse a query with a repeated parameter.

    Raises:
        ServiceError: a parameter is repeated.
    """
    counts = Counter(name for name, _ in parameters)
    twice = [name[:60] for name, count in counts.items() if count > 1]  # a caller's own text: cut, and ten at most
    if twice:
        raise ServiceError(
            Code.INVALID_ARGUMENT, f"the query gives {', '.join(map(repr, twice[:10]))} more than once; send it once"
        )


def check_proxies(addresses: Sequence[str]) -> None:
    """Check the values of --proxy.

    Raises:
        ConfigError: some are neither an address nor a network; names all of them.
    """
    problems = []
    for text in addresses:
        try:
            ipaddress.ip_network(text)  # an address is a network of one
        except ValueError:
            problems.append(f"--proxy {text}: give its address or its network, as 10.0.0.0/8")
    if problems:
        raise ConfigError(problems)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
