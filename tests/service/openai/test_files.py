"""Files on the wire: sent in any form that clients use, bounded, checked, listed, and gone when they are deleted."""

from __future__ import annotations

import asyncio
import io
import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from starlette.requests import Request

from tests.rigs.running_service import RunningService
from tests.service.openai.conftest import client_of
from tests.service.openai.training import jsonl, messages
from tunerun.job import Example
from tunerun.service.core.problems import ServiceError
from tunerun.service.openai.form import MAX_PARTS, read_form
from tunerun.testing.waiting import wait_until

BOUNDARY = "xYzZY"


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    """A part of a form."""
    file = "" if filename is None else f'; filename="{filename}"\r\nContent-Type: application/octet-stream'
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
    return head.encode() + content + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()
PURPOSE = part("purpose", b"fine-tune")


@pytest.fixture
def http(running: RunningService, sdk: OpenAI) -> Iterator[httpx.Client]:
    """Requests as they are written by hand; `sdk` deletes what they leave."""
    headers = {"authorization": f"Bearer {sdk.api_key}", "content-type": f"multipart/form-data; boundary={BOUNDARY}"}
    with httpx.Client(base_url=f"{running.address}/v1", headers=headers, trust_env=False, timeout=60) as client:
        yield client


def sent(http: httpx.Client, *parts: bytes) -> httpx.Response:
    """A form sent in pieces of a few bytes, without its length, as Node sends a stream."""

    def pieces() -> Iterator[bytes]:
        whole = b"".join(parts)
        for start in range(0, len(whole), 97):
            yield whole[start : start + 97]

    return http.post("/files", content=pieces())


@pytest.mark.parametrize("file_first", [True, False])
def test_a_file_comes_in_pieces_and_in_any_order(http: httpx.Client, sdk: OpenAI, *, file_first: bool) -> None:
    """Node sends the file before its purpose, chunked and without a length; its bytes are those that were sent."""
    file = part("file", jsonl(), "träin.jsonl")
    response = sent(http, *([file, PURPOSE] if file_first else [PURPOSE, file]), END)
    assert response.status_code == 200, response.text
    found = response.json()
    assert (found["bytes"], found["filename"], found["purpose"]) == (len(jsonl()), "träin.jsonl", "fine-tune")
    assert sdk.files.content(found["id"]).read() == jsonl()


@pytest.mark.parametrize(
    ("parts", "param"),
    [
        ((PURPOSE, END), "file"),
        ((part("file", jsonl(), "a.jsonl"), END), "purpose"),
        ((part("file", jsonl(), "a.jsonl"), part("purpose", b"evals"), END), "purpose"),
        ((PURPOSE, part("file", jsonl(), "a.jsonl")), "file"),  # cut off
        ((PURPOSE, part("file", b"", "a.jsonl"), END), "file"),
        ((PURPOSE, part("other", jsonl(), "a.jsonl"), END), "other"),
        ((PURPOSE, part("file", jsonl(), "a"), part("file", jsonl(), "b"), END), "file"),
        ((part("purpose", b"x" * 5000), part("file", jsonl(), "a"), END), "purpose"),
        ((*[PURPOSE] * (MAX_PARTS + 1), END), "file"),
        ((PURPOSE, part("expires_after[seconds]", b"7200"), part("file", jsonl(), "a"), END), "expires_after.anchor"),
        ((b"no form at all",), "file"),
    ],
)
def test_a_wrong_form_is_refused_and_leaves_nothing(
    http: httpx.Client, running: RunningService, parts: tuple[bytes, ...], param: str
) -> None:
    """The part or the field is named, and no file is on the disk."""
    before = {path.name for path in (running.state / "files").iterdir()}
    response = sent(http, *parts)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert {path.name for path in (running.state / "files").iterdir()} == before


def test_a_client_that_hangs_up_leaves_nothing(
    running: RunningService, sdk: OpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    """What had arrived is removed, and the service reports no error of its own."""
    place = urlsplit(running.address)
    body = PURPOSE + part("file", jsonl(), "a")
    head = f"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {sdk.api_key}\r\n"
    form = f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: 100000\r\n\r\n"
    folder = running.state / "files"
    with socket.create_connection((place.hostname, place.port)) as half:
        half.sendall((head + form).encode() + body)
        wait_until(lambda: any(folder.iterdir()), "the file is being written")
    wait_until(lambda: not any(folder.iterdir()), "what had come is gone")
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_file_over_the_limit_is_refused_as_it_arrives() -> None:
    """Its bytes are counted, since Node sends no Content-Length."""
    body = PURPOSE + part("file", b"x" * 1001, "a.jsonl")

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": True}  # the form does not have to end

    content_type = f"multipart/form-data; boundary={BOUNDARY}".encode()
    request = Request({"type": "http", "headers": [(b"content-type", content_type)]}, receive)
    with pytest.raises(ServiceError, match="over the limit of 1,000 bytes") as refused:
        asyncio.run(read_form(request, "file", io.BytesIO(), max_file_bytes=1000))
    assert [*refused.value.fields] == ["file"]


def test_wrong_rows_are_named_by_their_lines(sdk: OpenAI) -> None:
    """At most twenty of them, in OpenAI's envelope; nothing is kept."""
    good = messages(Example("1", "2"))
    rows = [good, "{broken", {"prompt": "1", "completion": "2"}, good, [1], {"messages": [{"role": "robot"}]}]
    with pytest.raises(BadRequestError, match=r"train\.jsonl:2: ") as refused:
        sdk.files.create(file=("train.jsonl", jsonl(rows)), purpose="fine-tune")
    for line in (3, 5, 6):
        assert f"train.jsonl:{line}: " in refused.value.message
    assert "train.jsonl:4: " not in refused.value.message
    assert (refused.value.code, refused.value.param) == ("invalid_file_format", "file")
    with pytest.raises(BadRequestError) as refused:
        sdk.files.create(file=("train.jsonl", jsonl(["{broken"] * 1000)), purpose="fine-tune")
    assert refused.value.message.count("broken JSON") <= 20
    assert not sdk.files.list().data


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\n \n", "holds no rows"),
        (b'{"messages": "\xff"}\n', ":1: is not UTF-8"),
        (b"[]", ":1: the row is a list"),
    ],
)
def test_what_is_no_file_of_rows_is_refused(sdk: OpenAI, content: bytes, words: str) -> None:
    """Blank files, other encodings and other formats, which the message names."""
    with pytest.raises(BadRequestError, match=words):
        sdk.files.create(file=("a.jsonl", content), purpose="fine-tune")


def test_a_byte_order_mark_and_blank_lines_are_accepted(sdk: OpenAI) -> None:
    """Azure asks for the first, editors leave the second; a name needs no ending."""
    file = sdk.files.create(file=b"\xef\xbb\xbf" + jsonl() + b"\n\n", purpose="fine-tune")
    assert (file.filename, file.status, file.expires_at) == ("upload", "processed", None)


def test_a_file_of_another_purpose_is_not_read(sdk: OpenAI) -> None:
    """Its bytes are kept as they are."""
    file = sdk.files.create(file=("a.png", b"\x89PNG\x00"), purpose="vision")
    assert sdk.files.content(file.id).read() == b"\x89PNG\x00"


def test_files_are_listed_newest_first_in_pages(sdk: OpenAI) -> None:
    """Auto-paging of one at a time sees each once; order and purpose hold."""
    made = [sdk.files.create(file=(f"{n}.bin", b"x"), purpose=p).id for n, p in enumerate(["batch", "vision", "batch"])]  # type: ignore[arg-type]
    assert [file.id for file in sdk.files.list(limit=1)] == made[::-1]
    assert [file.id for file in sdk.files.list(limit=1, order="asc", purpose="batch")] == [made[0], made[2]]
    assert sdk.files.list(limit=3).has_more is False
    with pytest.raises(BadRequestError, match="after: ") as refused:
        sdk.files.list(after="file-none")
    assert refused.value.param == "after"
    with pytest.raises(BadRequestError):
        sdk.files.list(limit=0)


def test_a_file_goes_when_it_is_deleted_or_its_time_is_over(sdk: OpenAI, running: RunningService) -> None:
    """It is no longer found, and its bytes are gone."""
    lasting = {"anchor": "created_at", "seconds": 3600}
    one = sdk.files.create(file=("a.bin", b"x"), purpose="batch")
    other = sdk.files.create(file=("a.bin", b"x"), purpose="batch", expires_after=lasting)  # type: ignore[arg-type]
    assert other.expires_at == pytest.approx(other.created_at + 3600, abs=1)
    assert sdk.files.delete(one.id).deleted
    running.service.state.database.write("UPDATE stored_file SET expires_at = 1 WHERE id = ?", [other.id])
    for identifier in (one.id, other.id, "file-r" + "0" * 23, "../keys.json", "..%2Fkeys.json"):
        for ask in (sdk.files.retrieve, sdk.files.content, sdk.files.delete):
            with pytest.raises(NotFoundError):
                ask(identifier)
    assert not (running.state / "files" / one.id).exists()


@pytest.mark.parametrize("seconds", ["1", "99999999999999", "x", ""])
def test_a_life_that_is_too_short_or_too_long_is_refused(http: httpx.Client, seconds: str) -> None:
    """Within what the SDK documents."""
    fields = part("expires_after[anchor]", b"created_at"), part("expires_after[seconds]", seconds.encode())
    response = sent(http, PURPOSE, *fields, part("file", jsonl(), "a"), END)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "expires_after.seconds")


def test_a_files_name_is_only_shown(sdk: OpenAI, running: RunningService) -> None:
    """Folders in it are dropped, and it is never used as a path."""
    file = sdk.files.create(file=("../../etc/passwd", b"x"), purpose="batch")
    assert file.filename == "passwd"
    assert (running.state / "files" / file.id).read_bytes() == b"x"


def test_files_of_others_are_not_there(sdk: OpenAI, running: RunningService) -> None:
    """Neither listed, read, deleted, nor trained on; a key without the scope opens none."""
    file = sdk.files.create(file=("a.jsonl", jsonl()), purpose="fine-tune")
    key = running.service.keys.add("other@localhost", running.key.scopes)
    with client_of(running, key.secret) as other:
        assert not other.files.list().data
        for ask in (other.files.retrieve, other.files.content, other.files.delete):
            with pytest.raises(NotFoundError):
                ask(file.id)
        with pytest.raises(BadRequestError, match="training_file"):
            other.fine_tuning.jobs.create(model="tiny", training_file=file.id)
    running.service.keys.revoke(key.id)


def test_the_answer_is_json_with_a_request_id(http: httpx.Client) -> None:
    """Of successes and of refusals."""
    responses: list[httpx.Response] = [sent(http, PURPOSE, part("file", jsonl(), "a"), END), sent(http, END)]
    found: list[dict[str, Any]] = [json.loads(response.text) for response in responses]
    assert "id" in found[0]
    assert "error" in found[1]
    assert all(response.headers["x-request-id"] for response in responses)
    assert all(response.headers["content-type"] == "application/json" for response in responses)
