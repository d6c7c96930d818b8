"""Files of the wire: clients' uploads, and result files of finished jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
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
from tunerun.service.openai.method import After, JsonRoute, Limit, TuningCaller, UploadRoute, not_of_list, page, size_of
from tunerun.service.openai.models import Models
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


Result = TypeVar("Result")

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

        def check_and_keep(form: UploadForm, draft: Draft) -> Json:
            if form.file_name is None:
                raise wrong("file", "the form has no file; send one")
            purpose = form.fields.get("purpose", "")
            if purpose not in PURPOSES:
                raise wrong("purpose", f"{purpose[:60]!r} is not one of {', '.join(PURPOSES)}; give one of these")
            life_s = None
            anchor, seconds = (form.fields.get(f"expires_after[{name}]") for name in ("anchor", "seconds"))
            if not (anchor is None and seconds is None):
                if anchor != "created_at":
                    raise wrong("expires_after.anchor", f"must be 'created_at', not {(anchor or '')[:60]!r}")
                text = (seconds or "").strip()
                # Ten digits hold every valid number; int() raises a ValueError for more than 4,300 of them.
                is_number = text.isascii() and text.isdigit() and len(text) <= 10
                if not is_number or not LEAST_LIFE_S <= int(text) <= MOST_LIFE_S:
                    words = f"must be a whole number from {LEAST_LIFE_S:,} to {MOST_LIFE_S:,}, not {text[:20]!r}"
                    raise wrong("expires_after.seconds", words)
                life_s = int(text)

            # Any name: openai-python sends bytes without one as `upload`, so no ending is required.
            name = file_name(form.file_name)
            draft.flush()  # so that the checks below read all of it
            if not form.size:
                raise wrong("file", f"{name} is empty; send a file with content")
            if purpose == FINE_TUNE:
                training_rows.check(draft.path, name)
            return _stored_json(self._stored.keep(draft, caller.owner, name, purpose, life_s))

        with self._stored.draft() as draft:
            form = await read_form(request, draft)
            async with self._checking:
                return await run_in_threadpool(check_and_keep, form, draft)

    def page(self, caller: Key, purpose: str | None, after: str, size: int, *, newest_first: bool) -> Json:
        """Return a page of the caller's files.

        Args:
            caller: the key of the request.
            purpose: required purpose; None: any.
            after: id of the last file of the previous page; empty: this is the first page.
            size: the most files to return.
            newest_first: the order, by creation.

        Raises:
            OpenAiError: `after` is not the id of a file in this list.
        """
        files = [(file.created_at, _stored_json(file)) for file in self._stored.of(caller.owner, purpose)]
        if purpose in (None, RESULTS):
            finished = (row for row in self._library.jobs(caller, -1, NOTED) if row.state is ModelState.ACTIVE)
            files += [(row.completed_at or row.updated_at, self._result_json(row)) for row in finished]
        # By their exact times: the JSON has whole seconds. The id makes the order total, so that no page skips a file.
        files.sort(key=lambda pair: (pair[0], pair[1]["id"]), reverse=newest_first)
        documents = [json for _, json in files]
        if after:
            place = next((number for number, json in enumerate(documents) if json["id"] == after), None)
            if place is None:
                raise not_of_list(after)
            documents = documents[place + 1 :]
        return page(documents[: size + 1], size)

    def get(self, caller: Key, identifier: str) -> Json:
        """Return one of the caller's files, by its id.

        Raises:
            OpenAiError: the caller does not have a file with that id.
        """
        return self._upload_or_result(caller, identifier, _stored_json, self._result_json)

    def content(self, caller: Key, identifier: str) -> Response:
        """Return the content of a file.

        Raises:
            OpenAiError: the caller does not have a file with that id.
        """

        def uploaded(file: StoredFile) -> Response:
            path = self._stored.path_of(file)
            if not path.is_file():  # deleted meanwhile
                raise _no_such_file(identifier)
            return FileResponse(path, media_type="application/octet-stream")

        def measured(row: TunedModelRow) -> Response:
            return Response(self._step_metrics(row), media_type="text/csv; charset=utf-8")

        return self._upload_or_result(caller, identifier, uploaded, measured)

    def delete(self, caller: Key, identifier: str) -> Json:
        """Delete a file; jobs that were created from it have copied its rows.

        Raises:
            OpenAiError: the caller does not have a file with that id, or it is the result of a job.
        """

        def refuse(row: TunedModelRow) -> None:
            job = names.job_id(row)
            raise wrong("file_id", f"{identifier} is the result of {job}; to remove it, delete that job's model")

        self._upload_or_result(caller, identifier, self._stored.delete, refuse)
        # A body, not 204: openai-python raises a JSONDecodeError for an empty one.
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

    def _upload_or_result(
        self,
        caller: Key,
        identifier: str,
        on_upload: Callable[[StoredFile], Result],
        on_result: Callable[[TunedModelRow], Result],
    ) -> Result:
        """Apply one of two functions, depending on whether an id is an upload or the result of a job."""
        beginning = names.read_result_file_id(identifier)
        if beginning is not None:
            row = self._models.of_key(caller, beginning)
            if row is not None and is_job(row) and row.state is ModelState.ACTIVE:
                return on_result(row)
        elif (file := self._stored.find(caller.owner, identifier)) is not None:
            return on_upload(file)
        raise _no_such_file(identifier)

    def _step_metrics(self, row: TunedModelRow) -> bytes:
        return step_metrics(self._library.curve(row), self._library.epochs(row))

    def _result_json(self, row: TunedModelRow) -> Json:
        if row.key not in self._sizes:
            self._sizes[row.key] = len(self._step_metrics(row))
        created_at = row.completed_at or row.updated_at
        return _file_json(names.result_file_id(row), self._sizes[row.key], created_at, None, FILE_NAME, RESULTS)


def _stored_json(file: StoredFile) -> Json:
    return _file_json(file.id, file.size, file.created_at, file.expires_at, file.name, file.purpose)


def _file_json(
    identifier: str, size: int, created_at: float, expires_at: float | None, name: str, purpose: str
) -> Json:
    return {
        "id": identifier,
        "object": "file",
        "bytes": size,
        "created_at": int(created_at),
        "expires_at": None if expires_at is None else int(expires_at),
        "filename": name,
        "purpose": purpose,
        "status": "processed",  # at once: the SDKs' `wait_for_processing` polls until then, for up to 30 minutes
        "status_details": None,
    }


def _no_such_file(identifier: str) -> OpenAiError:
    return OpenAiError(Code.NOT_FOUND, f"No such File object: {identifier[:60]}", param="id")


def routes(files: FilesApi) -> list[APIRouter]:
    """Return the routes of files."""
    forms = APIRouter(route_class=UploadRoute, tags=["files"])
    router = APIRouter(route_class=JsonRoute, tags=["files"])

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
