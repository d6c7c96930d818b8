"""Every way in which a call can fail is one of our errors, and only what may be repeated is."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest
import stamina
from hypothesis import given
from hypothesis import strategies as st

from tests.rigs.gemini_service import Fault, GeminiService, Script
from tunerun.backends.gemini.refusals import refusal
from tunerun.backends.http import ApiKey, JsonService, _unanswered
from tunerun.errors import AccessError, AmbiguousError, BackendError, StatusError, UnavailableError

QUOTA = {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": []}
RETRY = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7.5s"}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """stamina's own test mode: as many attempts, no waits."""
    monkeypatch.setenv("A_KEY", "planted-key")
    with stamina.set_testing(True, attempts=4):
        yield


@pytest.fixture
def service() -> Iterator[GeminiService]:
    with GeminiService() as service:
        yield service


@pytest.fixture
def client(service: GeminiService) -> Iterator[JsonService]:
    with JsonService(service.address, ApiKey("A_KEY", "x-goog-api-key"), 5.0, 5.0, refusal) as client:
        yield client


@pytest.mark.parametrize(
    ("status", "details", "repeatable", "error"),
    [
        (302, (), True, UnavailableError),
        (302, (), False, AmbiguousError),
        (400, (), False, StatusError),
        (401, (), False, AccessError),
        (403, (), True, AccessError),
        (404, (), True, StatusError),
        (409, (), False, StatusError),
        (429, (), False, UnavailableError),
        (429, (QUOTA,), False, AccessError),
        (429, (QUOTA, RETRY), False, UnavailableError),
        (500, (), True, UnavailableError),
        (500, (), False, AmbiguousError),
        (503, (), False, UnavailableError),
        (504, (), False, AmbiguousError),
    ],
)
def test_every_status_says_who_must_act(
    status: int, details: tuple[dict[str, object], ...], repeatable: bool, error: type[BackendError]
) -> None:
    """By status, by the quota in its details, and by whether the call is safe to repeat."""
    envelope = f'{{"error": {{"message": "why", "details": {str(list(details)).replace(chr(39), chr(34))}}}}}'
    found = refusal(status, {}, envelope.encode(), is_repeatable=repeatable)
    assert type(found) is error
    assert f"the service answered {status}" in str(found)


@given(st.integers(300, 599), st.binary(max_size=60), st.booleans())
def test_any_error_response_is_a_backend_error(status: int, content: bytes, repeatable: bool) -> None:
    """No body, however broken, escapes the translation."""
    assert isinstance(refusal(status, {}, content, is_repeatable=repeatable), BackendError)


def test_every_error_of_httpx_is_translated() -> None:
    """Those before a connection is made had no effect."""
    pending, errors = [httpx.HTTPError], set()
    while pending:
        kind = pending.pop()
        errors.add(kind)
        pending.extend(kind.__subclasses__())
    for kind in errors - {httpx.HTTPStatusError}:
        once = _unanswered(kind("x"), "POST /", is_repeatable=False)
        sure = issubclass(kind, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
        assert type(once) is (UnavailableError if sure else AmbiguousError)
        assert type(_unanswered(kind("x"), "GET /", is_repeatable=True)) is UnavailableError


def test_a_repeatable_call_is_retried(service: GeminiService, client: JsonService) -> None:
    """It succeeds after three failures."""
    service.script = Script(fault=lambda request: Fault(503) if request.number < 4 else None)
    assert client.get("/v1beta/models")["models"]
    assert len(service.requests) == 4


def test_a_create_is_sent_once(service: GeminiService, client: JsonService) -> None:
    """A job is not paid for twice."""
    service.script = Script(fault=lambda _: Fault(503))
    with pytest.raises(UnavailableError, match="answered 503 UNAVAILABLE: scripted"):
        client.create("/v1beta/tunedModels", {})
    assert len(service.requests) == 1


def test_the_number_of_attempts_is_limited(service: GeminiService, client: JsonService) -> None:
    """After them the last error is raised."""
    service.script = Script(fault=lambda _: Fault(500))
    with pytest.raises(UnavailableError, match="answered 500"):
        client.get("/v1beta/models")
    assert len(service.requests) == 4


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("fault", "wait_s"),
    [
        (Fault(429, headers={"retry-after": "3"}), 3.0),
        (Fault(429, details=(RETRY,)), 7.5),
        (Fault(503, headers={"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}), 0.0),
        (Fault(503, headers={"retry-after": "soon"}), None),
        (Fault(503, headers={"retry-after": "99999"}), 99999.0),
    ],
)
def test_the_wait_of_the_service_is_read(
    service: GeminiService, client: JsonService, fault: Fault, wait_s: float | None
) -> None:
    """From the header or from google.rpc.RetryInfo."""
    service.script = Script(fault=lambda _: fault)
    with pytest.raises(UnavailableError, match="answered") as caught:
        client.get("/v1beta/models")
    assert caught.value.retry_after_s == wait_s


NO_OBJECTS = (b"", b"<html>", b"[]", b"3", b'{"name": "tunedMod', b"\xff\x00", b"[" * 100_000)


def answering(status: int, content: bytes = b"", **headers: str) -> JsonService:
    """A client of a service that answers every request with the same bytes."""
    transport = httpx.MockTransport(lambda _: httpx.Response(status, content=content, headers=headers))
    return JsonService("http://127.0.0.1", ApiKey("A_KEY", "x-goog-api-key"), 1.0, 1.0, refusal, transport)


@pytest.mark.parametrize("content", NO_OBJECTS)
def test_an_answer_that_is_not_an_object_is_reported(content: bytes) -> None:
    """The error asks whether `base_url` is the service's address; a repeatable call may be repeated."""
    with pytest.raises(UnavailableError, match=r"GET http://127\.0\.0\.1/.*is base_url the service's address"):
        answering(200, content).get("/")


@pytest.mark.parametrize("content", NO_OBJECTS)
def test_after_a_corrupt_answer_it_is_unknown_whether_a_create_took_effect(content: bytes) -> None:
    """The status is a success, but the answer may come from a proxy."""
    with pytest.raises(AmbiguousError, match="it is unknown whether it took effect"):
        answering(200, content).create("/", {})


@pytest.mark.parametrize("content", NO_OBJECTS)
def test_a_refusal_needs_no_body(content: bytes) -> None:
    """The status alone shows that the call had no effect."""
    with pytest.raises(StatusError, match="the service answered 400"):
        answering(400, content).create("/", {})


@pytest.mark.parametrize(
    "error", [None, 3, "no", [], {"details": None}, {"details": 3}, {"details": [3, {"@type": 4}]}]
)
def test_a_malformed_error_is_translated(error: object) -> None:
    """Whatever replaces the message and the details of Google's envelope."""
    violations = {"details": [{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": error}]}
    for content in ({"error": error}, {"error": violations}):
        found = refusal(400, {}, json.dumps(content).encode(), is_repeatable=False)
        assert type(found) is StatusError


def test_redirects_and_proxies_are_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key goes to base_url and nowhere else."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with pytest.raises(UnavailableError, match=r"answered 302: .*; redirects are not followed"):
        answering(302, location="http://elsewhere/").get("/")


def test_a_key_is_never_displayed() -> None:
    """Neither by its repr nor by the error for a malformed key."""
    assert "planted" not in repr(ApiKey("A_KEY", "x"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("A_KEY", "zwei\nZeilen")
        with pytest.raises(AccessError, match="A_KEY does not contain a valid API key") as caught:
            ApiKey("A_KEY", "x").headers()
    assert "Zeilen" not in str(caught.value)


def test_retry_after_may_be_a_date(service: GeminiService, client: JsonService) -> None:
    """It is converted to seconds from now."""
    service.script = Script(fault=lambda _: Fault(429, headers={"retry-after": "Wed, 21 Oct 2099 07:28:00 GMT"}))
    with pytest.raises(UnavailableError) as caught:
        client.create("/v1beta/tunedModels", {})
    assert caught.value.retry_after_s is not None
    assert 1e9 < caught.value.retry_after_s < 4e9
