"""Files of the wire: clients' uploads, and result files of finished jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse

from tunerun.service.core.credentials import Key
from tunerun.service.core.problems import Code, Json
from tunerun.service.core.records import ModelState, StoredFile, TunedModelRow
from tunerun.service.core.stored_files import Draft, StoredFiles, file_name
from tunerun.service.openai import names, training_rows
from tunerun.service.openai.checkpoints import FILE_NAME, step_metrics
from tunerun.service.openai.form import UploadForm, read_form
from tunerun.service.openai.jobs import NOTED, is_job
from tunerun.service.openai.method import Operation, TuningCaller, UploadRoute
from tunerun.service.openai.models import Models
from tunerun.service.openai.paging import After, Limit, not_of_list, page, size_of
from tunerun.service.openai.problems import OpenAiError, wrong

PAGE = 10_000
"""The default page size, as OpenAI's."""

FINE_TUNE, RESULTS = "fine-tune", "fine-tune-results"
PURPOSES = (FINE_TUNE, "assistants", "batch", "user_data", "vision")
"""Accepted purposes: those that the SDK's file type has. Only files for fine-tune are used."""

LEAST_LIFE_S, MOST_LIFE_S = 3_600, 2_592_000
"""Limits of `expires_after.seconds`: one hour to 30 days, as the SDK documents."""

_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": list(PURPOSES)},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {"type": "integer", "minimum": LEAST_LIFE_S, "maximum": MOST_LIFE_S},
                    },
                }
            }
        },
    }
}


Shown = TypeVar("Shown")


@dataclass(frozen=True)
class _Listed:
    """A file in a list."""

    created_at: float
    json: Json

    @property
    def order(self) -> tuple[float, str]:
        """The sort key: by age, oldest first."""
        return self.created_at, self.json["id"]


CHECKED_AT_ONCE = 2
"""The most files checked concurrently: 512 MB take minutes, and all requests share 40 worker threads."""


class FilesApi:
    """The files of each caller, and the result files of the jobs that are visible to the caller.

    Args:
        stored: the uploaded files.
        models: the jobs, for their results.
    """

    def __init__(self, stored: StoredFiles, models: Models) -> None:
        self._stored = stored
        self._models = models
        self._library = models.library
        self._sizes: dict[str, int] = {}
        """Sizes of result files in bytes, by the row's key; cached, as the result of a finished job never changes."""
        self._checking = asyncio.Semaphore(CHECKED_AT_ONCE)

    async def create(self, caller: Key, request: Request) -> Json:
        """Store the file of a multipart form; a training file is checked first.

        Raises:
            ServiceError: the form or the file is invalid.
        """
        with self._stored.draft() as draft:
            form = await read_form(request, "file", draft)
            async with self._checking:
                return await run_in_threadpool(self._keep, caller, form, draft)

    def _keep(self, caller: Key, form: UploadForm, draft: Draft) -> Json:
        if form.file_name is None:
            raise wrong("file", "the form has no file; send one")
        purpose = form.fields.get("purpose", "")
        if purpose not in PURPOSES:
            raise wrong("purpose", f"{purpose[:60]!r} is not one of {', '.join(PURPOSES)}; give one of these")
        life_s = _life_s(form.fields)
        name = file_name(form.file_name)
        draft.flush()
        if not form.size:
            raise wrong("file", f"{name} is empty; send a file with content")
        if purpose == FINE_TUNE:
            training_rows.check(draft.path, name)
        return _file(self._stored.keep(draft, caller.owner, name, purpose, life_s))

    def page(self, caller: Key, purpose: str | None, after: str, size: int, *, newest_first: bool) -> Json:
        """Return a page of the caller's files.

        Args:
            caller: the key of the request.
            purpose: required purpose; None: any.
            after: id of the last file of the previous page; empty: this is the first page.
            size: the most files to return.
            newest_first: the order, by creation.
        """
        shown = sorted(self._all(caller, purpose), key=lambda one: one.order, reverse=newest_first)
        if after:
            place = next((n for n, one in enumerate(shown) if one.json["id"] == after), None)
            if place is None:
                raise not_of_list(after)
            shown = shown[place + 1 :]
        return page([one.json for one in shown[: size + 1]], size)

    def _all(self, caller: Key, purpose: str | None) -> Iterator[_Listed]:
        for file in self._stored.of(caller.owner, purpose):
            yield _Listed(file.created_at, _file(file))
        if purpose in (None, RESULTS):
            for row in self._library.jobs(caller, -1, NOTED):
                if row.state is ModelState.ACTIVE:
                    yield _Listed(row.completed_at or row.updated_at, self._result(row))

    def get(self, caller: Key, identifier: str) -> Json:
        """Return one of the caller's files, by its id."""
        return self._either(caller, identifier, _file, self._result)

    def content(self, caller: Key, identifier: str) -> Response:
        """Return the content of a file."""
        return self._either(caller, identifier, self._sent, lambda row: _bytes(self._metrics(row)))

    def delete(self, caller: Key, identifier: str) -> Json:
        """Delete a file; jobs that were created from it have copied its rows."""

        def refuse(row: TunedModelRow) -> None:
            job = names.job_id(row)
            raise wrong("file_id", f"{identifier} is the result of {job}; to remove it, delete that job's model")

        self._either(caller, identifier, self._stored.delete, refuse)
        return {"id": identifier, "object": "file", "deleted": True}

    def to_train_on(self, caller: Key, identifier: str, param: str) -> tuple[StoredFile, Path]:
        """Return a training file, and the path of its content.

        Raises:
            OpenAiError: the file does not exist or has another purpose; names `param`.
        """
        file = self._stored.find(caller.owner, identifier)
        if file is None:
            raise wrong(
                param, f"{identifier[:60]!r} is not a file of yours; send it with POST /v1/files", "invalid_file"
            )
        if file.purpose != FINE_TUNE:
            words = f"{identifier} was sent with purpose {file.purpose!r}; send it with purpose {FINE_TUNE!r}"
            raise wrong(param, words, "invalid_file")
        return file, self._stored.path_of(file)

    def _either(
        self,
        caller: Key,
        identifier: str,
        sent: Callable[[StoredFile], Shown],
        result: Callable[[TunedModelRow], Shown],
    ) -> Shown:
        """Apply one of two functions, depending on whether an id is an upload or the result of a job."""
        beginning = names.read_result_file_id(identifier)
        if beginning is not None:
            row = self._models.of_key(caller, beginning)
            if row is not None and is_job(row) and row.state is ModelState.ACTIVE:
                return result(row)
        elif (file := self._stored.find(caller.owner, identifier)) is not None:
            return sent(file)
        raise _no_such_file(identifier)

    def _sent(self, file: StoredFile) -> Response:
        path = self._stored.path_of(file)
        if not path.is_file():  # deleted meanwhile
            raise _no_such_file(file.id)
        return FileResponse(path, media_type="application/octet-stream")

    def _metrics(self, row: TunedModelRow) -> bytes:
        return step_metrics(self._library.curve(row), self._library.epochs(row))

    def _result(self, row: TunedModelRow) -> Json:
        if row.key not in self._sizes:
            self._sizes[row.key] = len(self._metrics(row))
        return {
            "id": names.result_file_id(row),
            "object": "file",
            "bytes": self._sizes[row.key],
            "created_at": int(row.completed_at or row.updated_at),
            "expires_at": None,
            "filename": FILE_NAME,
            "purpose": RESULTS,
            "status": "processed",
            "status_details": None,
        }


def _file(file: StoredFile) -> Json:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size,
        "created_at": int(file.created_at),
        "expires_at": None if file.expires_at is None else int(file.expires_at),
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def _bytes(content: bytes) -> Response:
    return Response(content, media_type="text/csv; charset=utf-8")


def _no_such_file(identifier: str) -> OpenAiError:
    return OpenAiError(Code.NOT_FOUND, f"No such File object: {identifier[:60]}", param="id")


def _life_s(fields: dict[str, str]) -> int | None:
    """Return the seconds until a file expires; None: never."""
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise wrong("expires_after.anchor", f"must be 'created_at', not {(anchor or '')[:60]!r}")
    text = (seconds or "").strip()
    if not text.isascii() or not text.isdigit() or not LEAST_LIFE_S <= int(text[:10]) <= MOST_LIFE_S:
        words = f"must be a whole number from {LEAST_LIFE_S:,} to {MOST_LIFE_S:,}, not {text[:20]!r}"
        raise wrong("expires_after.seconds", words)
    return int(text)


def routes(files: FilesApi) -> list[APIRouter]:
    """Return the routes of files."""
    forms = APIRouter(route_class=UploadRoute, tags=["files"])
    router = APIRouter(route_class=Operation, tags=["files"])

    @forms.post("/files", openapi_extra=_FORM)
    async def create_file(request: Request, caller: TuningCaller) -> Json:
        return await files.create(caller, request)

    @router.get("/files")
    def list_files(
        caller: TuningCaller,
        limit: Limit = None,
        after: After = "",
        purpose: Annotated[str | None, Query()] = None,
        order: Annotated[Literal["asc", "desc"], Query()] = "desc",
    ) -> Json:
        return files.page(caller, purpose, after, size_of(limit, PAGE), newest_first=order == "desc")

    @router.get("/files/{file_id}")
    def retrieve_file(file_id: str, caller: TuningCaller) -> Json:
        return files.get(caller, file_id)

    @router.get("/files/{file_id}/content", response_class=Response)
    def file_content(file_id: str, caller: TuningCaller) -> Response:
        return files.content(caller, file_id)

    @router.delete("/files/{file_id}")
    def delete_file(file_id: str, caller: TuningCaller) -> Json:
        return files.delete(caller, file_id)

    return [forms, router]
