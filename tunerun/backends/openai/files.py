"""Training files at the service: examples as JSON lines, uploaded once per content and found again by name."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from urllib.parse import quote

from tunerun.backends.http import ATTEMPTS, MAX_RETRY_WAIT_S, RETRY_TIME_S, Json, JsonService, Upload
from tunerun.errors import InputError, UnavailableError
from tunerun.examples import Conversation, Example, as_conversation
from tunerun.retry import retry

PURPOSE = "fine-tune"
IDENTIFIER = re.compile(r"[A-Za-z0-9][\w.:-]{0,199}")
_NOT_YET = frozenset({"uploaded", "pending", "running"})
_USELESS = frozenset({"error", "deleted", "failed"})
"""States of a file. All others, such as OpenAI's `processed` or none at all, count as usable."""

_PROCESSED_SOON_S = 5.0
"""Seconds until the next look at a file that is not processed yet; the interval of OpenAI's own client
(`wait_for_processing`, openai 3.57.0)."""


def messages(conversation: Conversation) -> list[Json]:
    """Return a conversation as chat messages, ending with the message to answer."""
    chat = [_message("system", conversation.system)] if conversation.system else []
    for turn in conversation.earlier:
        chat += [_message("user", turn.text_input), _message("assistant", turn.output)]
    return [*chat, _message("user", conversation.text_input)]


def content_of(examples: Sequence[Example], *, has_mark: bool) -> bytes:
    """Return the content of a training file: one JSON object per line.

    Args:
        examples: one for each line.
        has_mark: whether the file starts with a byte order mark; see `Host.has_mark`.

    Raises:
        InputError: a text is not valid Unicode.
    """
    lines = []
    for example in examples:
        chat = messages(as_conversation(example.input))
        answers = [message for message in chat if message["role"] == "assistant"]
        for message, turn in zip(answers, example.earlier, strict=True):
            if not turn.is_learned:
                message["weight"] = 0  # the service's default is 1
        chat.append(_message("assistant", example.output))
        lines.append(f"{json.dumps({'messages': chat}, ensure_ascii=False)}\n")
    try:
        return "".join(lines).encode("utf-8-sig" if has_mark else "utf-8")
    except UnicodeEncodeError as error:
        raise InputError("a text contains an unpaired surrogate, such as \\ud800; fix or remove it") from error


def _message(role: str, text: str) -> Json:
    return {"role": role, "content": text}


class TrainingFiles:
    """The training files at a service. Not thread-safe: the backend serialises the calls.

    Args:
        service: the HTTP client.
        prefix: prefix of all paths, such as `/openai`; empty: none.
    """

    def __init__(self, service: JsonService, prefix: str) -> None:
        self._service = service
        self._path = f"{prefix}/files"
        self._known: dict[str, str] = {}

    def identifier(self, content: bytes) -> str:
        """Return the id of a usable file with this content; upload it unless it exists.

        Raises:
            UnavailableError: the service has not processed the file yet; try again later.
            InputError: the service rejects the file.
        """
        name = f"tunerun-{hashlib.sha256(content).hexdigest()[:40]}.jsonl"
        # Checked each time: a file may have been deleted since, or its processing may have failed.
        uploaded = self._known.pop(name, None)
        file = None if uploaded is None else self._service.find(f"{self._path}/{quote(uploaded)}")
        if not file or file.get("status") in _USELESS:
            file = self._listed(name)
        if file is None:
            try:
                file = self._service.upload(self._path, Upload(name, content, {"purpose": PURPOSE}))
            except UnavailableError:
                # The upload may have succeeded and only its answer was lost. Files have no key but their name.
                if (file := self._listed(name)) is None:
                    raise
        identifier = str(file.get("id", ""))
        if not IDENTIFIER.fullmatch(identifier):
            raise UnavailableError(f"{name}: the answer is not a file of OpenAI's API")
        self._wait(name, file)
        self._known[name] = identifier
        return identifier

    def _listed(self, name: str) -> Json | None:
        """Find a file by its name, which includes the digest of its content."""
        for file in pages(self._service, self._path, purpose=PURPOSE):
            if file.get("filename") == name and file.get("status") not in _USELESS:
                return file
        return None

    def _wait(self, name: str, file: Json) -> None:
        """Wait briefly for a file to be processed; the next attempt to submit checks again."""
        path = f"{self._path}/{quote(str(file.get('id')))}"
        answers = itertools.chain([file], iter(lambda: self._service.get(path), None))

        def processed() -> Json:
            answer = next(answers)
            if answer.get("status") in _NOT_YET:
                raise _NotYetError(answer.get("status"))
            return answer

        try:
            file = retry(
                processed,
                on=_NotYetError,
                attempts=ATTEMPTS,
                within_s=RETRY_TIME_S,
                first_wait_s=0.5,
                max_wait_s=MAX_RETRY_WAIT_S,
            )
        except _NotYetError as error:
            raise UnavailableError(f"{name} is still {error} at the service", _PROCESSED_SOON_S) from None
        if (state := file.get("status")) in _USELESS:
            reason = file.get("status_details") or "no reason given"
            raise InputError(f"{name}: the service cannot use the file ({state}): {reason}; check the examples")


class _NotYetError(Exception):
    """A file has not been processed yet; its status is the text."""


def pages(service: JsonService, path: str, **parameters: str | int) -> Iterator[Json]:
    """Yield the objects of a list, page by page; stop if a service ignores the cursor and repeats a page.

    Args:
        service: the HTTP client.
        path: path of the list.
        parameters: query parameters of every page.
    """
    # A gateway that ignores `after` and leaves `has_more` out keeps OpenAI's own client in an endless loop (recorded
    # 2026-11-25 with openai 3.57.0).
    ids: set[str] = set()
    cursor: dict[str, str] = {}
    while True:
        page = service.get(path, **parameters, **cursor)
        objects = [each for each in page.get("data") or () if isinstance(each, dict)]
        new = [each for each in objects if str(each.get("id")) not in ids]
        yield from new
        ids.update(str(each.get("id")) for each in new)
        if not new or not page.get("has_more"):
            return
        cursor = {"after": str(objects[-1].get("id"))}
