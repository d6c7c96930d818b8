"""Uploads: a multipart form with one file, which is written to disk as it arrives and is never in memory as a whole.

starlette's own form parser is not used: it writes to the temporary directory, which may be in memory, and limits the
size of fields but not of files. The order of the parts differs: openai-python sends the file last, Node first.
Node does not send a Content-Length either, so bytes are counted as they arrive.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from fastapi.concurrency import run_in_threadpool
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from tunerun.service.core.problems import Code, ServiceError, invalid

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FILE_FIELD = "file"
"""Name of the part with the file; other files are refused."""

MAX_FILE_BYTES = 512 * 10**6
"""Limit of a file, as OpenAI's: 512 MB."""

_FRAMING_BYTES = 2**20
"""Limit of a form without its file: its fields and the multipart framing."""

MAX_FIELD_BYTES = 4096
MAX_PARTS = 20
"""The most parts of a form; OpenAI's has four."""

_WRITE_BYTES = 2**20
"""Bytes collected before each write, which runs in a worker thread."""


class Sink(Protocol):
    """The destination of a file's content."""

    def write(self, content: bytes, /) -> object:
        """Append bytes of the file."""
        ...


@dataclass
class UploadForm:
    """The content of a form.

    Attributes:
        fields: values by name; of a repeated name, the last one.
        file_name: the file's name as sent; None: the form has no file.
        size: size of the file in bytes.
    """

    fields: dict[str, str] = field(default_factory=dict)
    file_name: str | None = None
    size: int = 0


async def read_form(request: Request, sink: Sink, max_file_bytes: int = MAX_FILE_BYTES) -> UploadForm:
    """Read the body of a request, and write its file as it arrives.

    Args:
        request: the request; its body has not been read yet.
        sink: where the file's content is written.
        max_file_bytes: limit of the file.

    Raises:
        ServiceError: the body is not such a form or is too large, or the client disconnected.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise invalid(FILE_FIELD, "the body is not multipart/form-data with a boundary; send the file as a form")
    length = request.headers.get("content-length", "")
    max_bytes = max_file_bytes + _FRAMING_BYTES
    reader = _Reader(max_file_bytes)
    # Twenty digits are enough: int() refuses thousands of them with a ValueError.
    if length.isdigit() and int(length[:20]) > max_bytes:
        raise reader.too_large()
    # Counted as it arrives: Node's `createReadStream` is sent in chunks, without a length (openai 7.57).
    size = 0
    try:
        parser = MultipartParser(boundary, reader.callbacks())
        async for chunk in request.stream():
            size += len(chunk)
            if size > max_bytes:
                raise reader.too_large()
            parser.write(chunk)
            if len(reader.arrived) >= _WRITE_BYTES:  # in a thread: a slow disk would hold up every other request
                await run_in_threadpool(sink.write, reader.take())
        parser.finalize()
    except ClientDisconnect as error:
        raise ServiceError(Code.CANCELLED, "the client disconnected") from error
    except FormParserError as error:
        raise invalid(FILE_FIELD, "the form is malformed or cut off; send it again") from error
    await run_in_threadpool(sink.write, reader.take())
    # python-multipart does not report a missing end (0.0.34): the last rows of a cut-off file would be lost silently.
    if not reader.has_ended:
        raise invalid(FILE_FIELD, "the form is cut off before its last boundary; send it again")
    return reader.form


class _Reader:
    """Collects the parts of a form from the parser's callbacks."""

    def __init__(self, max_file_bytes: int) -> None:
        self.form = UploadForm()
        self.arrived = bytearray()
        self.has_ended = False
        self._max_file_bytes = max_file_bytes
        self._parts = 0
        self._header = (bytearray(), bytearray())
        self._disposition = b""
        self._name: str | None = None
        """Name of the field that is being received; None: the file is being received."""
        self._value = bytearray()

    def callbacks(self) -> MultipartCallbacks:
        """Return the callbacks for the parser."""
        return {
            "on_part_begin": self.part_begin,
            "on_part_data": self.part_data,
            "on_part_end": self.part_end,
            "on_header_field": self.header_field,
            "on_header_value": self.header_value,
            "on_header_end": self.header_end,
            "on_headers_finished": self.headers_finished,
            "on_end": self.end,
        }

    def take(self) -> bytes:
        """Return the content of the file that arrived since the last call."""
        content = bytes(self.arrived)
        self.arrived.clear()
        return content

    def part_begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise invalid(FILE_FIELD, f"the form has more than {MAX_PARTS} parts; send the file and its fields")
        self._disposition = b""
        self._value.clear()

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def header_end(self) -> None:
        name, value = map(bytes, self._header)
        if name.lower() == b"content-disposition":  # the part's content type is not read: it says octet-stream of JSONL
            self._disposition = value
        for part in self._header:
            part.clear()

    def headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = _text(options.get(b"name", b""), "name of a part")
        if b"filename" not in options:
            self._name = name
            return
        if name != FILE_FIELD or self.form.file_name is not None:
            raise invalid(name or FILE_FIELD, f"send one file, as the part {FILE_FIELD!r}")
        self._name = None
        self.form.file_name = _text(options[b"filename"], "name of the file")

    def part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name is None:
            self.form.size += end - start
            if self.form.size > self._max_file_bytes:
                raise self.too_large()
            self.arrived += data[start:end]
            return
        self._value += data[start:end]
        if len(self._value) > MAX_FIELD_BYTES:
            raise invalid(self._name[:60], f"has more than {MAX_FIELD_BYTES:,} bytes")

    def part_end(self) -> None:
        if self._name is not None:
            self.form.fields[self._name] = _text(bytes(self._value), "value of a field")

    def end(self) -> None:
        self.has_ended = True

    def too_large(self) -> ServiceError:
        words = f"is over the limit of {self._max_file_bytes:,} bytes; send a smaller file"
        return invalid(FILE_FIELD, words)


def _text(content: bytes, what: str) -> str:
    """Decode a part of the form; clients send raw UTF-8, also in file names."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise invalid(FILE_FIELD, f"the {what} is not UTF-8") from error
