"""Files of the wire: uploads in every form that clients send, limits, checks, lists and deletion."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from starlette.requests import Request

from tests.rigs.running_service import RunningService
from tests.service.openai.training import jsonl, messages
from tunerun.examples import Example
from tunerun.service.core.problems import ServiceError
from tunerun.service.openai.form import MAX_PARTS, read_form

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
    """A plain client; `sdk` deletes the files that it creates."""
    headers = {"authorization": f"Bearer {sdk.api_key}", "content-type": f"multipart/form-data; boundary={BOUNDARY}"}
    with httpx.Client(base_url=f"{running.address}/v1", headers=headers, trust_env=False, timeout=60) as client:
        yield client


def sent(http: httpx.Client, *parts: bytes) -> httpx.Response:
    """Send a form in pieces of a few bytes, without its length, as Node sends a stream."""

    def pieces() -> Iterator[bytes]:
        whole = b"".join(parts)
        for start in range(0, len(whole), 97):
            yield whole[start : start + 97]

    return http.post("/files", content=pieces())


@pytest.mark.parametrize("file_first", [True, False])
def test_a_form_may_arrive_in_pieces_and_in_any_order(http: httpx.Client, sdk: OpenAI, *, file_first: bool) -> None:
    """Node sends the file before its purpose, chunked and without a length."""
    file = part("file", jsonl(), "träin.jsonl")
    response = sent(http, *([file, PURPOSE] if file_first else [PURPOSE, file]), END)
    assert response.status_code == 200, response.text
    file = response.json()
    assert (file["bytes"], file["filename"], file["purpose"]) == (len(jsonl()), "träin.jsonl", "fine-tune")
    assert sdk.files.content(file["id"]).read() == jsonl()


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
def test_an_invalid_form_is_refused_and_leaves_nothing(
    http: httpx.Client, running: RunningService, parts: tuple[bytes, ...], param: str
) -> None:
    """The error names the part or field, and no file is left on the disk."""
    before = {path.name for path in (running.state / "files").iterdir()}
    response = sent(http, *parts)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert {path.name for path in (running.state / "files").iterdir()} == before


def test_a_file_over_the_limit_is_refused_as_it_arrives() -> None:
    """Its bytes are counted, since Node sends no Content-Length."""
    body = PURPOSE + part("file", b"x" * 1001, "a.jsonl")

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": True}  # the form does not have to end

    content_type = f"multipart/form-data; boundary={BOUNDARY}".encode()
    request = Request({"type": "http", "headers": [(b"content-type", content_type)]}, receive)
    with pytest.raises(ServiceError, match="over the limit of 1,000 bytes") as refused:
        asyncio.run(read_form(request, io.BytesIO(), max_file_bytes=1000))
    assert [*refused.value.fields] == ["file"]


def test_invalid_rows_are_named_by_their_lines(sdk: OpenAI) -> None:
    """At most twenty of them; the file is not kept."""
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
def test_a_file_without_rows_is_refused(sdk: OpenAI, content: bytes, words: str) -> None:
    """Also files in other encodings and formats, which the message names."""
    with pytest.raises(BadRequestError, match=words):
        sdk.files.create(file=("a.jsonl", content), purpose="fine-tune")


def test_a_byte_order_mark_and_blank_lines_are_accepted(sdk: OpenAI) -> None:
    """Azure requires the first, and editors leave the second; the file name does not need an ending."""
    file = sdk.files.create(file=b"\xef\xbb\xbf" + jsonl() + b"\n\n", purpose="fine-tune")
    assert (file.filename, file.status, file.expires_at) == ("upload", "processed", None)


def test_a_file_of_another_purpose_is_not_checked(sdk: OpenAI) -> None:
    """Its bytes are stored unchanged."""
    file = sdk.files.create(file=("a.png", b"\x89PNG\x00"), purpose="vision")
    assert sdk.files.content(file.id).read() == b"\x89PNG\x00"


def test_files_are_listed_newest_first_in_pages(sdk: OpenAI) -> None:
    """Auto-paging returns each file once, in the requested order and of the requested purpose."""
    made = [sdk.files.create(file=(f"{n}.bin", b"x"), purpose=p).id for n, p in enumerate(["batch", "vision", "batch"])]  # type: ignore[arg-type]
    assert [file.id for file in sdk.files.list(limit=1)] == made[::-1]
    assert [file.id for file in sdk.files.list(limit=1, order="asc", purpose="batch")] == [made[0], made[2]]
    assert sdk.files.list(limit=3).has_more is False
    with pytest.raises(BadRequestError, match="after: ") as refused:
        sdk.files.list(after="file-none")
    assert refused.value.param == "after"
    with pytest.raises(BadRequestError):
        sdk.files.list(limit=0)


def test_a_deleted_or_expired_file_is_not_found(sdk: OpenAI, running: RunningService) -> None:
    """Its bytes are removed as well."""
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


@pytest.mark.parametrize(
    "seconds", ["1", "99999999999999", "0000003600" + "9" * 20, "0000003600" + "9" * 4000, "x", ""]
)
def test_an_invalid_expiry_is_refused(http: httpx.Client, seconds: str) -> None:
    """The limits are those of the SDK's documentation."""
    fields = part("expires_after[anchor]", b"created_at"), part("expires_after[seconds]", seconds.encode())
    response = sent(http, PURPOSE, *fields, part("file", jsonl(), "a"), END)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "expires_after.seconds")


def test_a_file_name_is_not_used_as_a_path(sdk: OpenAI, running: RunningService) -> None:
    """Its folders are dropped, and the file is stored under its id."""
    file = sdk.files.create(file=("../../etc/passwd", b"x"), purpose="batch")
    assert file.filename == "passwd"
    assert (running.state / "files" / file.id).read_bytes() == b"x"
