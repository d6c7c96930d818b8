"""Requests that are refused by their headers, bodies that are not read, and random headers."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.rigs.running_service import RunningService
from tests.service.client import Client
from tests.service.visitor import Visitor, visiting
from tunerun.errors import ConfigError
from tunerun.service.app import Settings
from tunerun.service.middleware import MAX_FORM_BYTES, MAX_SIGN_IN_BYTES
from tunerun.service.screening import Hosts, check_proxies

LOCAL = b"Host: localhost"


def answered(running: RunningService, *lines: bytes, body: bytes = b"") -> bytes:
    """Send a request unchanged, and return all bytes of the response."""
    port = int(running.address.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
        raw.sendall(b"\r\n".join([*lines, b"Connection: close", b"", body]))
        received = b""
        while chunk := raw.recv(65_536):
            received += chunk
    return received


def status(answer: bytes) -> int:
    match = re.match(rb"HTTP/1.1 (\d+) ", answer)
    assert match is not None, answer
    return int(match[1])


def error(answer: bytes) -> Any:
    return json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost:8000",
        "localhost.",
        "127.0.0.1",
        "127.0.0.1:99999",
        "[::1]:80",
        "192.168.1.7",
        "lib.Example.org",
    ],
)
def test_addresses_and_configured_names_are_hosts(host: str) -> None:
    """An address does not need a name server, so it cannot be rebound."""
    Hosts(["Lib.example.org"]).check(host.encode())
    Hosts().check(None)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "lib.example.org.evil.example", "127.0.0.1.evil.example", "localhost@evil", "",
     "[::1", "::1", "[evil]", "a b", "localhost:x", "ü"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/metrics", "/openapi.json", "/healthz", "/static/style.css", "/v1beta/models"])
def test_another_host_is_refused_on_every_path(running: RunningService, host: str, path: str) -> None:
    """Also pages and metrics: an attacker may run the name server of a browser."""
    key = f"x-goog-api-key: {running.key.secret}".encode()
    answer = answered(running, f"GET {path} HTTP/1.1".encode(), f"Host: {host}".encode("latin-1"), key)
    assert status(answer) == 400
    assert error(answer)["message"].startswith("Host: ")


def test_invalid_hosts_and_proxies_are_refused_at_the_start() -> None:
    """All of them at once, with what is allowed."""
    with pytest.raises(ConfigError, match=r"--allowed-host https://x: .*\n.*--allowed-host \*: give a host's name"):
        Hosts(["https://x", "good.example", "*"])
    with pytest.raises(ConfigError, match=r"--proxy proxy.example: give its address or its network"):
        check_proxies(["10.0.0.0/8", "::1", "proxy.example"])


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([b"Content-Length: 2", b"Transfer-Encoding: chunked"], "Content-Length and Transfer-Encoding"),
        ([b"x-goog-api-key: a", b"X-Goog-Api-Key: b"], "more than one header x-goog-api-key"),
        ([b"Authorization: Bearer a", b"Authorization: Bearer b"], "more than one header authorization"),
        ([b"Content-Type: application/json", b"Content-Type: text/plain"], "more than one header content-type"),
        ([b"x-goog-api-key: a", b"Authorization: Bearer b"], "different keys in different places"),
    ],
)
def test_an_ambiguous_request_is_refused(running: RunningService, lines: list[bytes], words: str) -> None:
    """Two lengths, two keys, two types: a proxy may have used the other one."""
    answer = answered(running, b"POST /v1beta/tunedModels HTTP/1.1", LOCAL, *lines, body=b"0\r\n\r\n")
    assert status(answer) == 400
    assert words in error(answer)["message"]


@pytest.mark.parametrize(
    "query", ["pageSize=1&pageSize=2", "pageSize=1&page_size=2", "filter=a&filter=a", "key=a&key=a"]
)
def test_a_repeated_parameter_is_refused(client: Client, query: str) -> None:
    """In either spelling, also with equal values."""
    response = client.http.get(f"/tunedModels?{query}")
    assert response.status_code == 400
    assert "more than once; send it once" in response.json()["error"]["message"]


def test_the_same_key_may_be_sent_in_two_places(running: RunningService) -> None:
    """As a header and in the query; two different keys are refused."""
    with Client(running.address, running.key.secret) as client:
        assert client.good("GET", "/models", key=running.key.secret)
        client.refused(400, "GET", "/models", key="another")


def test_every_response_forbids_sniffing(running: RunningService, client: Client) -> None:
    """JSON, errors, pages and files."""
    for path in (
        "/v1beta/models",
        "/v1beta/none",
        "/",
        "/healthz",
        "/static/style.css",
        "/static/none",
        "/openapi.json",
    ):
        answer = client.http.get(f"{running.address}{path}")
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"]


@pytest.fixture
def visitor(running: RunningService) -> Iterator[Visitor]:
    with visiting(running, "visitor@localhost") as visitor:
        yield visitor


def test_bodies_of_unauthenticated_callers_are_not_read(running: RunningService, visitor: Visitor) -> None:
    """They get a response before the body has arrived; the sign-in form may be as long as a key."""
    for path, expected in (
        (b"/", 405),
        (b"/healthz", 405),
        (b"/files", 401),
        (b"/library/x/try", 401),
        (b"/none", 404),
    ):
        start = b"POST " + path + b" HTTP/1.1"
        answer = answered(
            running, start, LOCAL, b"Content-Type: application/x-www-form-urlencoded", b"Content-Length: 9999"
        )
        assert status(answer) == expected
    with Client(running.address, "wrong") as wrong:
        for _ in range(
            5
        ):  # if the connection were closed at once, some would be reset before they have read the response
            assert wrong.http.post("/tunedModels", content=b" " * 5_000_000).status_code == 401
    small, large = f"key={'x' * 100}", f"key={'x' * MAX_SIGN_IN_BYTES}"
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert visitor.http.post("/sign-in", content=small, headers=form).status_code == 401
    refused = visitor.http.post("/sign-in", content=large, headers=form)
    assert "payload size exceeds the limit: 4096" in refused.json()["error"]["message"]
    visitor.sign_in()
    refused = visitor.http.post("/library/x/try", content=b"x" * (MAX_FORM_BYTES + 1), headers=form)
    assert "payload size exceeds the limit: 524288" in refused.json()["error"]["message"]


_VALUES = st.one_of(
    st.sampled_from(
        ["http://[::1", "[", "bytes=0-,1-", "bytes=-0", "bytes=9-1", "multipart/form-data", "multipart/form-data; boundary=",
         "application/json; charset=no", "text/html;;;=", "=;=;=", "Thu, 99 Foo 2026", "W/\"", "*", "gzip;q=x", "100-continue",
         "websocket", "Basic !!", "Bearer", "-1", "1e9", "\x7f", "ü"]
    ),
    st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=40),
)  # fmt: skip
_NAMES = st.sampled_from(
    ["accept", "accept-encoding", "accept-language", "authorization", "cache-control", "content-encoding", "content-type",
     "cookie", "expect", "forwarded", "if-match", "if-modified-since", "if-none-match", "if-range", "origin", "range",
     "referer", "upgrade", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-http-method-override"]
)  # fmt: skip
_TARGETS = st.sampled_from(
    ["GET /", "GET /metrics", "GET /healthz", "GET /openapi.json", "GET /static/style.css", "HEAD /static/icon.svg",
     "GET /static/%00", "GET /static/%2e%2e/x", "GET /library/%ff", "POST /sign-in", "POST /sign-out", "POST /files",
     "POST /files/x/tune", "POST /library/x/try", "GET /v1beta/models", "POST /v1beta/tunedModels",
     "POST /v1beta/models/tiny:countTokens", "OPTIONS *", "GET http://localhost/", "GET //evil/", "GET /%"]
)  # fmt: skip


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(target=_TARGETS, headers=st.dictionaries(_NAMES, _VALUES, max_size=4), is_known=st.booleans())
def test_no_header_causes_an_internal_error(
    running: RunningService, visitor: Visitor, target: str, headers: dict[str, str], is_known: bool
) -> None:
    """Random headers of signed-in and other callers: every status is below 500."""
    if is_known:
        visitor.sign_in()
        session = f"cookie: tunerun_session={visitor.http.cookies['tunerun_session']}"
        headers = {name: value for name, value in headers.items() if name not in ("cookie", "authorization")}
        own = [session.encode(), f"x-goog-api-key: {running.key.secret}".encode()]
    else:
        own = []
    lines = [f"{name}: {value}".encode("latin-1") for name, value in headers.items()]
    body = b"a=1" if target.startswith("POST") else b""
    length = f"content-length: {len(body)}".encode()
    answer = answered(running, f"{target} HTTP/1.1".encode(), LOCAL, *own, *lines, length, body=body)
    assert 200 <= status(answer) < 500


def test_forwarded_headers_are_trusted_from_configured_proxies_only(
    settings_of_own: Settings, running: RunningService
) -> None:
    """Behind a proxy with https the cookie is secure; the same header from another address has no effect."""
    secure = []
    named = replace(settings_of_own, allowed_hosts=["lib.example.org"])
    # httpx's own timeout of 5 s was too short on a busy machine.
    with RunningService(named, proxies=["127.0.0.1"]) as behind, httpx.Client(timeout=60, trust_env=False) as http:
        for service in (behind, running):
            for scheme in ("https", "https, http", "\xff"):
                forwarded = {b"x-forwarded-proto": scheme.encode("latin-1"), b"x-forwarded-for": b"[::1, evil"}
                form = {"key": service.key.secret}
                answer = http.post(f"{service.address}/sign-in", data=form, headers=forwarded)
                secure.append("secure" in answer.headers["set-cookie"].lower())
        headers = {"host": "lib.example.org", "origin": "https://lib.example.org"}
        form = {"key": behind.key.secret}
        assert http.post(f"{behind.address}/sign-in", data=form, headers=headers).status_code == 303
    assert secure == [True, False, False, False, False, False]


@pytest.fixture
def settings_of_own(settings: Settings, tmp_path: Path) -> Settings:
    return replace(settings, state=tmp_path / "state")
