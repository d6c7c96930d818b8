"""The OpenAI wire under attack: uploads, bodies that are slow to parse, names, and data of other users."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import BadRequestError, NotFoundError, OpenAI

from tests.rigs.running_service import RunningService
from tests.service.openai.conftest import client_of
from tests.service.openai.training import created, ended, jsonl
from tunerun.service.app import Settings
from tunerun.service.core.stored_files import FOLDER
from tunerun.service.openai.form import MAX_FILE_BYTES
from tunerun.testing.waiting import wait_until

HALF = "\\ud800"
NAMES = ",".join(f'"{number}": 0' for number in [*range(200_000), 199_999])
BOUNDARY = b"--b\r\n"
PURPOSE = BOUNDARY + b'Content-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
FILE = BOUNDARY + b'Content-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
END = b"\r\n--b--\r\n"


@pytest.fixture
def http(running: RunningService) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {running.key.secret}"}
    with httpx.Client(base_url=running.address, headers=headers, timeout=60, trust_env=False) as client:
        yield client


def head(running: RunningService, *lines: bytes, secret: str | None = None) -> bytes:
    """Return the request line and the headers of an upload."""
    key = (secret or running.key.secret).encode()
    own = (b"POST /v1/files HTTP/1.1", b"Host: localhost", b"Authorization: Bearer " + key)
    return b"\r\n".join([*own, b"Content-Type: multipart/form-data; boundary=b", *lines, b"", b""])


@contextlib.contextmanager
def connected(running: RunningService) -> Iterator[socket.socket]:
    port = int(running.address.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
        yield raw


def answer_of(raw: socket.socket) -> tuple[int, Any]:
    """Read the status and the error of a response, up to the end of its JSON."""
    received = b""
    while chunk := raw.recv(65_536):
        received += chunk
        with contextlib.suppress(ValueError):
            match = re.match(rb"HTTP/1.1 (\d+) ", received)
            assert match is not None
            return int(match[1]), json.loads(received.partition(b"\r\n\r\n")[2])["error"]
    raise AssertionError(received)


def kept(running: RunningService) -> list[str]:
    return sorted(path.name for path in (running.state / FOLDER).iterdir())


@pytest.mark.parametrize(
    "body",
    [
        PURPOSE * 30 + FILE + jsonl() + END,
        PURPOSE + BOUNDARY + b"Content-Disposition: " + b"x" * 9_000 + b"\r\n\r\n1" + END,
        PURPOSE + BOUNDARY + b"A: b\r\n" * 50 + b"\r\n1" + END,
        PURPOSE + BOUNDARY + b'Content-Disposition: form-data; name="suffix"\r\n\r\n' + b"x" * 5_000 + END,
        PURPOSE + FILE + jsonl() + b"\r\n" + FILE + jsonl() + END,
        PURPOSE + FILE + jsonl(),
        b"--c\r\n" + jsonl() * 100,
        b"",
    ],
)  # fmt: skip
def test_an_oversized_or_truncated_form_leaves_nothing(
    running: RunningService, http: httpx.Client, body: bytes
) -> None:
    """Too many parts, headers or files; headers or fields that are too long; another boundary; no end."""
    before = kept(running)
    kind = {"content-type": "multipart/form-data; boundary=b"}
    answer = http.post("/v1/files", content=body, headers=kind)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert kept(running) == before


def test_a_length_over_the_limit_is_refused_before_the_body_is_sent(running: RunningService) -> None:
    """So is an upload with an invalid key."""
    with connected(running) as raw:
        raw.sendall(head(running, f"Content-Length: {2 * MAX_FILE_BYTES}".encode()))
        status, error = answer_of(raw)
    assert (status, error["param"]) == (400, "file")
    with connected(running) as raw:
        raw.sendall(head(running, b"Transfer-Encoding: chunked", secret="wrong"))
        status, error = answer_of(raw)
    assert (status, error["code"]) == (401, "invalid_api_key")


def test_an_upload_that_is_not_completed_leaves_nothing(
    running: RunningService, caplog: pytest.LogCaptureFixture
) -> None:
    """Its client has disconnected: nothing remains on the disk, and the log has no error."""
    before = kept(running)
    with caplog.at_level(logging.ERROR, "tunerun.service"):
        for length in (b"Content-Length: 100000", b"Transfer-Encoding: chunked"):
            with connected(running) as raw:
                start = PURPOSE + FILE + jsonl()
                chunk = b"%x\r\n%s\r\n" % (len(start), start)
                raw.sendall(head(running, length) + (chunk if b"chunked" in length else start))
                wait_until(lambda: kept(running) != before, "the file is being written")
            wait_until(lambda: kept(running) == before, "the file is removed")
    assert not caplog.records


def test_an_upload_that_is_too_slow_is_ended(settings: Settings, tmp_path: Path) -> None:
    """It does not hold its connection, and what has arrived is removed."""
    own = replace(settings, state=tmp_path / "state")
    with RunningService(own, body_timeout_s=0.2) as running, connected(running) as raw:
        raw.sendall(head(running, b"Content-Length: 100000") + PURPOSE + FILE)
        status, error = answer_of(raw)
        assert status == 408
        assert "too slowly" in error["message"]
        assert kept(running) == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/v1/chat/completions", "[" * 100_000),
        ("/v1/chat/completions", '{"model": ' * 100_000),
        ("/v1/fine_tuning/jobs", f"{{{NAMES}}}"),
        ("/v1/fine_tuning/jobs", f'{{"model": "tiny", "training_file": "x", "suffix": "{HALF}"}}'),
        ("/v1/fine_tuning/jobs", f'{{"model": "tiny", "training_file": "x", "metadata": {{"{HALF}": "a"}}}}'),
        ("/v1/fine_tuning/jobs", f'{{"model": "{HALF}", "training_file": "{HALF}"}}'),
        ("/v1/fine_tuning/jobs", f'{{"model": "tiny", "training_file": "{HALF}\\u0000"}}'),
        ("/v1/chat/completions", f'{{"model": "tiny", "messages": [{{"role": "user", "content": "{HALF}"}}]}}'),
        ("/v1/chat/completions", f'{{"model": "{HALF}", "messages": [{{"role": "user", "content": "1"}}]}}'),
        ("/v1/completions", f'{{"model": "tiny", "prompt": "{HALF}"}}'),
        ("/v1/chat/completions", '{"model": "tiny", "model": "tiny", "messages": []}'),
        ("/v1/chat/completions", '{"model": "tiny", "temperature": 1e400, "messages": []}'),
        ("/v1/fine_tuning/jobs", '{"model": "tiny", "training_file": "x", "seed": %s}' % ("9" * 5000)),
    ],
)  # fmt: skip
def test_a_malformed_body_is_refused_quickly(http: httpx.Client, path: str, text: str) -> None:
    """Deep nesting, a repeated name among 200,000, unpaired surrogates, endless numbers: 400 or 404, never a 5xx."""
    answer = http.post(path, content=text.encode(), headers={"content-type": "application/json"}, timeout=10)
    assert answer.status_code in (400, 404), answer.text
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "name",
    ["..%2f..%2fkeys.json", "%252e%252e%252f", "org%2Fname", "ft:tiny:tunerun::../../aa", "ft:::::", "%00", "%ff",
     "tunedModels%2f..", "a" * 5_000, "ft:tiny:tunerun::00000000:ckpt-step-99999999999", "%0d%0aset-cookie:x"],
)  # fmt: skip
def test_no_name_is_used_as_a_path(http: httpx.Client, name: str) -> None:
    """Odd names of models, files and jobs are not found, and cannot add a header to the response."""
    for path in (
        f"/v1/models/{name}",
        f"/v1/files/{name}",
        f"/v1/files/{name}/content",
        f"/v1/fine_tuning/jobs/{name}",
    ):
        answer = http.get(path)
        assert answer.status_code in (400, 404), answer.text
        assert answer.json()["error"]["type"] == "invalid_request_error"
        assert "set-cookie" not in answer.headers
    request = {"model": name, "messages": [{"role": "user", "content": "1"}]}
    assert http.post("/v1/chat/completions", json=request).status_code == 404


def test_an_unpaired_surrogate_in_a_row_is_refused_with_its_line(sdk: OpenAI) -> None:
    """A job could not store it."""
    row = f'{{"messages": [{{"role": "user", "content": "{HALF}"}}, {{"role": "assistant", "content": "1"}}]}}'
    with pytest.raises(BadRequestError, match=r"a\.jsonl:8"):
        sdk.files.create(file=("a.jsonl", jsonl() + row.encode()), purpose="fine-tune")


def test_data_of_other_users_is_not_found(running: RunningService, sdk: OpenAI, training_file: str) -> None:
    """Files, jobs, events, checkpoints, results and models of others are 404, and lists do not have them."""
    job = ended(sdk, created(sdk, training_file, suffix="mine").id)
    model = job.fine_tuned_model
    assert model is not None
    key = running.service.keys.add("other@localhost", running.key.scopes)
    jobs = "/fine_tuning/jobs"
    with client_of(running, key.secret) as other:
        for method, path in (
            ("GET", f"{jobs}/{job.id}"), ("GET", f"{jobs}/{job.id}/events"), ("GET", f"{jobs}/{job.id}/checkpoints"),
            ("POST", f"{jobs}/{job.id}/cancel"), ("POST", f"{jobs}/{job.id}/pause"), ("POST", f"{jobs}/{job.id}/resume"),
            ("GET", f"/files/{training_file}"), ("GET", f"/files/{training_file}/content"),
            ("GET", f"/files/{job.result_files[0]}/content"), ("DELETE", f"/files/{training_file}"),
            ("GET", f"/models/{model}"), ("DELETE", f"/models/{model}"),
        ):  # fmt: skip
            with pytest.raises(NotFoundError):
                other.request(object, _options(method, path))
        for name in (
            model,
            f"{model}:ckpt-step-3",
            f"tunedModels/{running.service.library.newest(running.key, 1)[0].id}",
        ):
            with pytest.raises(NotFoundError):
                other.chat.completions.create(model=name, messages=[{"role": "user", "content": "1"}])
        assert [*other.fine_tuning.jobs.list(), *other.files.list()] == []
        assert [one.id for one in other.models.list()] == ["tiny"]
        with pytest.raises(Exception, match="not a file of yours"):
            created(other, training_file)
    running.service.keys.revoke(key.id)
    assert sdk.files.retrieve(training_file).filename == "train.jsonl"


def _options(method: str, path: str) -> Any:
    from openai._models import FinalRequestOptions

    return FinalRequestOptions.construct(method=method.lower(), url=path)


def test_values_of_a_request_cannot_add_headers(http: httpx.Client) -> None:
    """Line breaks in names of fields and models do not reach the response's headers."""
    request = {"model": "tiny", "messages": [], "x\r\nset-cookie: a=b": 1}
    answer = http.post("/v1/chat/completions", json=request)
    assert "set-cookie" not in answer.headers
    answer = http.post("/v1/fine_tuning/jobs", json={"model": "tiny\r\nx: y", "training_file": "a\r\nset-cookie: b"})
    assert answer.status_code == 400
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("names", [("Authorization: Bearer a", "api-key: b"), ("api-key: a", "api-key: b")])
def test_two_different_keys_are_refused(running: RunningService, names: tuple[str, str]) -> None:
    """A proxy may have checked the other one."""
    with connected(running) as raw:
        lines = ["GET /v1/models HTTP/1.1", "Host: localhost", *names, "", ""]
        raw.sendall("\r\n".join(lines).encode())
        assert answer_of(raw)[0] == 400
