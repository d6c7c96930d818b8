"""Keys, scopes and permissions, and limits on the size and the duration of a request."""

from __future__ import annotations

import json
import logging
import pickle
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rigs.running_service import RunningService
from tests.service.client import Client, continuing, prompt
from tunerun.errors import ConfigError, NotFoundError
from tunerun.service.app import Settings
from tunerun.service.core.credentials import CLOUD_SCOPE, TUNING_SCOPE, KeyFile
from tunerun.service.core.problems import Code, ServiceError
from tunerun.service.gemini.dialect import GEMINI
from tunerun.service.middleware import JsonLines, log
from tunerun.service.server import listening

LONG = 1_000_000


@pytest.fixture(scope="module")
def shared(running: RunningService) -> Iterator[str]:
    """A tuned model of the first key's owner, which tests leave as it was."""
    with Client(running.address, running.key.secret) as client:
        client.tuned("shared", epochCount=1)
        yield "/tunedModels/shared"
        client.good("DELETE", "/tunedModels/shared")


def reason(error: dict[str, Any]) -> object:
    return next(d for d in error["details"] if d["@type"].endswith("ErrorInfo"))["reason"]


def test_requests_without_a_valid_key_are_refused(running: RunningService) -> None:
    """No key and a wrong key are 401, also for paths that do not exist and bodies that are not JSON."""
    with Client(running.address, None) as anonymous, Client(running.address, "wrong") as wrong:
        for path in ("/models", "/tunedModels", "/nowhere"):
            assert reason(anonymous.refused(401, "GET", path)) == "CREDENTIALS_MISSING"
            assert reason(wrong.refused(401, "GET", path)) == "API_KEY_INVALID"
        broken = anonymous.http.post("/tunedModels", content=b"{")
        assert broken.status_code == 401
        assert broken.headers["www-authenticate"] == "Bearer"


def test_a_key_is_sent_in_four_ways(running: RunningService) -> None:
    """As a header, in the query under both names, and as a bearer token."""
    secret = running.key.secret
    with Client(running.address, None) as client:
        assert client.good("GET", "/models", key=secret)
        assert client.good("GET", "/models", access_token=secret)
        client.http.headers["authorization"] = f"bearer {secret}"
        assert client.good("GET", "/models")
        client.http.headers.clear()
        client.http.headers["X-Goog-Api-Key"] = secret
        assert client.good("GET", "/models")


def test_a_key_without_the_scope_may_only_call_models(running: RunningService, shared: str) -> None:
    """The methods of tuned models answer 403 in Google's words; either scope allows them."""
    keys = running.service.keys
    for scopes, status in (((), 403), (("https://example.org/other",), 403), ((CLOUD_SCOPE,), 200)):
        key = keys.add(running.key.owner, scopes)
        with Client(running.address, None) as client:
            client.http.headers["authorization"] = f"Bearer {key.secret}"
            assert client.good("GET", "/models")
            assert client.good("POST", "/models/tiny:generateContent", prompt("1", maxOutputTokens=2))
            assert client.good("POST", f"{shared}:generateContent", prompt("1", maxOutputTokens=2))
            response = client.call("GET", shared)
            assert response.status_code == status
            if status == 403:
                error = response.json()["error"]
                assert error["message"] == "Request had insufficient authentication scopes."
                assert reason(error) == "ACCESS_TOKEN_SCOPE_INSUFFICIENT"
        keys.revoke(key.id)


def test_a_key_that_is_revoked_is_refused_at_once(running: RunningService) -> None:
    """The running service reads the file again when it has changed."""
    key = running.service.keys.add("gone@localhost", [TUNING_SCOPE])
    with Client(running.address, key.secret) as client:
        client.good("GET", "/models")
        KeyFile(running.service.keys.path).revoke(key.id)
        client.refused(401, "GET", "/models")


def test_a_hidden_model_is_answered_like_a_missing_one(client: Client, other: Client, shared: str) -> None:
    """404 in the same words for another owner's id and for one that does not exist; nothing changes."""
    operation = client.operation("shared")["name"]
    source = continuing("shared")
    for method, path, payload in (
        ("GET", shared, None),
        ("PATCH", shared, {"displayName": "mine"}),
        ("DELETE", shared, None),
        ("POST", f"{shared}:generateContent", prompt("1")),
        ("POST", f"{shared}:streamGenerateContent", prompt("1")),
        ("POST", f"{shared}:transferOwnership", {"emailAddress": "other@localhost"}),
        ("POST", f"{shared}:cancel", {}),
        ("GET", f"{shared}/operations", None),
        ("GET", f"{shared}/permissions", None),
        ("POST", f"{shared}/permissions", {"granteeType": "EVERYONE", "role": "READER"}),
        ("GET", f"/{operation}", None),
        ("POST", f"/{operation}:cancel", {}),
        ("POST", "/tunedModels", source),
    ):
        foreign = other.call(method, path, payload)
        missing = other.call(
            method, path.replace("shared", "absent"), json.loads(json.dumps(payload).replace("shared", "absent"))
        )
        assert foreign.status_code == 404
        assert (missing.status_code, missing.text) == (404, foreign.text.replace("shared", "absent"))
        assert set(foreign.headers) == set(missing.headers)
    assert len(client.good("GET", f"{shared}/permissions")["permissions"]) == 1


def test_each_role_includes_the_rights_of_the_next(client: Client, other: Client) -> None:
    """A reader gets answers, a writer also changes and shares, the owner also deletes and transfers."""
    client.tuned("given-away", epochCount=1)
    shared = "/tunedModels/given-away"
    path = f"{shared}/permissions"
    payload = {"granteeType": "USER", "emailAddress": "Other@localhost", "role": "READER"}
    granted = client.good("POST", path, payload)
    assert (granted["emailAddress"], granted["role"]) == ("other@localhost", "READER")
    assert other.good("GET", f"/{granted['name']}") == granted
    assert other.good("POST", f"{shared}:generateContent", prompt("1", maxOutputTokens=2))
    error = other.refused(403, "PATCH", shared, {"displayName": "ours"})
    assert reason(error) == "IAM_PERMISSION_DENIED"
    assert "other@localhost is not a WRITER of it; ask me@localhost for a permission" in error["message"]
    client.refused(409, "POST", path, payload)
    assert client.good("PATCH", f"/{granted['name']}", {"role": 2}, updateMask="role")["role"] == "WRITER"
    assert other.good("PATCH", shared, {"displayName": "ours"})["displayName"] == "ours"
    everyone = other.good("POST", path, {"grantee_type": "EVERYONE", "role": "READER"})
    assert everyone["name"].endswith("/permissions/everyone")
    other.refused(403, "DELETE", shared)
    other.refused(403, "POST", f"{shared}:transferOwnership", {"emailAddress": "other@localhost"})
    assert client.good("POST", f"{shared}:transferOwnership", {"emailAddress": "other@localhost"}) == {}
    roles = {p.get("emailAddress", "everyone"): p["role"] for p in client.good("GET", path)["permissions"]}
    assert roles == {"me@localhost": "WRITER", "other@localhost": "OWNER", "everyone": "READER"}
    client.refused(403, "DELETE", shared)
    assert len(client.good("GET", path, pageSize=2)["permissions"]) == 2
    second = client.good("GET", path, pageSize=2, pageToken="2")
    assert len(second["permissions"]) == 1
    other.good("DELETE", shared)
    client.refused(404, "GET", path)


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({"granteeType": "GROUP", "emailAddress": "a@b.c", "role": "READER"}, "granteeType"),
        ({"granteeType": "USER", "role": "READER"}, "emailAddress"),
        ({"granteeType": "USER", "emailAddress": "nobody", "role": "READER"}, "emailAddress"),
        ({"granteeType": "USER", "emailAddress": "a@b.c"}, "role"),
        ({"granteeType": "USER", "emailAddress": "a@b.c", "role": "OWNER"}, "role"),
        ({"granteeType": "EVERYONE", "role": "WRITER"}, "role"),
        ({"granteeType": 9, "role": "READER"}, "granteeType"),
    ],
)
def test_an_invalid_permission_is_refused_with_its_field(client: Client, shared: str, payload: Any, field: str) -> None:
    """Groups are not supported, a user needs an address, and there is one owner."""
    error = client.refused(400, "POST", f"{shared}/permissions", payload)
    assert error["message"].startswith(f"{field}: ")


def test_the_owners_permission_cannot_be_changed(client: Client, shared: str) -> None:
    """It can be neither deleted nor changed; of any other permission, only the role can be changed."""
    (owner,) = client.good("GET", f"{shared}/permissions")["permissions"]
    client.refused(400, "DELETE", f"/{owner['name']}")
    client.refused(400, "PATCH", f"/{owner['name']}", {"role": "READER"})
    client.refused(400, "PATCH", f"/{owner['name']}", {"role": "READER"}, updateMask="emailAddress")
    client.refused(400, "POST", f"{shared}:transferOwnership", {"emailAddress": "me@localhost"})
    client.refused(404, "DELETE", f"{shared}/permissions/none")


def test_a_large_body_is_refused_while_it_is_read(running: RunningService, client: Client) -> None:
    """By its stated length before anything is read, or once the limit is reached."""
    address = ("127.0.0.1", int(running.address.rpartition(":")[2]))
    head = f"POST /v1beta/tunedModels HTTP/1.1\r\nHost: localhost\r\nx-goog-api-key: {running.key.secret}\r\n"
    with socket.create_connection(address, timeout=10) as raw:
        raw.sendall(f"{head}content-length: 99999999\r\n\r\n".encode())
        assert b"400 Bad Request" in raw.recv(200)
    with socket.create_connection(address, timeout=10) as raw:
        raw.sendall(f"{head}transfer-encoding: chunked\r\n\r\n".encode())
        chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
        answer = b""
        for _ in range(40):
            try:
                raw.sendall(chunk)
            except OSError:
                break
        raw.settimeout(10)
        try:
            answer = raw.recv(1000)
        except OSError:
            answer = b"400 Bad Request"  # the answer was lost with the connection that the rest was sent on
        assert b"400 Bad Request" in answer
    assert client.good("GET", "/models")


def test_slow_clients_do_not_delay_others(settings: Settings, tmp_path: Path) -> None:
    """A hundred unfinished requests occupy no worker, and are refused when their time is over."""
    slow_settings = Settings(tmp_path / "state", settings.models, settings.cache, device="cpu", threads=1)
    with RunningService(slow_settings, body_timeout_s=2.0) as running:
        address = ("127.0.0.1", int(running.address.rpartition(":")[2]))
        head = f"POST /v1beta/tunedModels HTTP/1.1\r\nHost: localhost\r\nx-goog-api-key: {running.key.secret}\r\n"
        slow = [socket.create_connection(address, timeout=20) for _ in range(100)]
        for raw in slow:
            raw.sendall(f"{head}content-length: 1000\r\n\r\n{{".encode())
        with Client(running.address, running.key.secret) as client:
            assert client.good("GET", "/models")
            assert client.good("POST", "/models/tiny:generateContent", prompt("1", maxOutputTokens=2))
        assert b"408 Request Timeout" in slow[0].recv(2000)
        for raw in slow:
            raw.close()


def test_no_secret_is_logged_or_answered(running: RunningService, caplog: pytest.LogCaptureFixture) -> None:
    """Keys, valid or not, in headers and queries, are in no log line and in no response."""
    written: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: written.append(JsonLines().format(record))  # type: ignore[method-assign]
    log.addHandler(listener)
    log.setLevel(logging.INFO)
    try:
        for secret in (running.key.secret, "planted-wrong-key"):
            with Client(running.address, secret) as client:
                answers = [client.call("GET", "/tunedModels"), client.call("GET", "/models", key=secret)]
                answers.append(client.call("GET", f"/tunedModels/{'x'}", pageSize="many", key=secret))
            assert all(secret not in answer.text + str(answer.headers) for answer in answers)
    finally:
        log.removeHandler(listener)
    assert len(written) == 6
    lines = [json.loads(line) for line in written]
    assert {line["status"] for line in lines} == {200, 404, 401}
    assert lines[0]["key"] == running.key.id
    assert running.key.secret not in "".join(written) + caplog.text
    assert "planted" not in "".join(written) + caplog.text


def test_a_service_error_survives_pickling() -> None:
    """With its code, fields and message, as every error of tunerun."""
    error = ServiceError(Code.INVALID_ARGUMENT, "x: is wrong", fields={"x": "is wrong"}, reason="R", retry_after_s=3)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (GEMINI.refusal(again), str(again)) == (GEMINI.refusal(error), "x: is wrong")


def test_only_its_owner_can_read_the_key_file(tmp_path: Path) -> None:
    """Created once with mode 600; a file that others can read, or that holds something else, is refused."""
    file = KeyFile(tmp_path / "state" / "keys.json")
    assert file.keys() == ()
    assert file.make()
    assert not file.make()
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    (first,) = file.keys()
    assert first.secret not in repr(first) + str(first)
    second = file.add("A@b.c", [TUNING_SCOPE])
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert KeyFile(file.path).keys() == (first, second)
    assert second.owner == "a@b.c"
    assert file.find(second.secret) == second
    assert file.find("wrong") is None
    with pytest.raises(ConfigError, match="an owner is an e-mail address"):
        file.add("nobody", [])
    with pytest.raises(NotFoundError, match=f"keys: {first.id}, {second.id}"):
        file.revoke("k0")
    file.revoke(first.id)
    assert file.keys() == (second,)
    file.path.chmod(0o644)
    with pytest.raises(ConfigError, match="run: chmod 600"):
        KeyFile(file.path).keys()
    file.path.write_text("{}")
    file.path.chmod(0o600)
    with pytest.raises(ConfigError, match="holds no keys"):
        KeyFile(file.path).keys()


def test_remote_clients_need_an_option() -> None:
    """Another address needs --allow-remote; a port in use is reported."""
    with pytest.raises(ConfigError, match="add --allow-remote"):
        listening("0.0.0.0", 0, allow_remote=False)  # noqa: S104 - it is refused
    with listening("127.0.0.1", 0, allow_remote=False) as first:
        port = first.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port} on 127.0.0.1: .*; choose another one"):
            listening("127.0.0.1", port, allow_remote=False)
    listening("0.0.0.0", 0, allow_remote=True).close()  # noqa: S104 - nothing is served there
