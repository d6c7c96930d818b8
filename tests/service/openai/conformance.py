"""Records for each operation of the wire that its response has the SDK's type, and which fields it has."""

from __future__ import annotations

from typing import Any, TypeVar

from openai import BaseModel
from openai.types import Completion, FileDeleted, FileObject, Model, ModelDeleted
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint

from tests.service.openai.strict import unknown

JOBS = "fine_tuning.jobs"
TYPES: dict[str, type[BaseModel] | None] = {
    "files.create": FileObject,
    "files.list": FileObject,
    "files.retrieve": FileObject,
    "files.content": None,
    "files.delete": FileDeleted,
    f"{JOBS}.create": FineTuningJob,
    f"{JOBS}.list": FineTuningJob,
    f"{JOBS}.retrieve": FineTuningJob,
    f"{JOBS}.cancel": FineTuningJob,
    f"{JOBS}.pause": FineTuningJob,
    f"{JOBS}.resume": FineTuningJob,
    f"{JOBS}.list_events": FineTuningJobEvent,
    f"{JOBS}.checkpoints.list": FineTuningJobCheckpoint,
    "models.list": Model,
    "models.retrieve": Model,
    "models.delete": ModelDeleted,
    "chat.completions.create": ChatCompletion,
    "chat.completions.create (stream)": ChatCompletionChunk,
    "completions.create": Completion,
    "completions.create (stream)": Completion,
}
"""Operation of the SDK -> the type of its response, or of an item of it; None: bytes."""

Answer = TypeVar("Answer")


class Conformance:
    """Responses of the operations, each checked as it is recorded."""

    def __init__(self) -> None:
        self._fields: dict[str, set[str]] = {}

    def of(self, operation: str, answer: Answer) -> Answer:
        """Record a response, or an item of a list; it must have the SDK's type and no other fields."""
        type_ = TYPES[operation]
        fields = self._fields.setdefault(operation, set())
        if type_ is not None:
            assert isinstance(answer, type_), (operation, type(answer))
            assert unknown(answer) == [], (operation, unknown(answer))
            fields |= answer.model_fields_set & type_.model_fields.keys()
        return answer

    @property
    def missing(self) -> set[str]:
        """The operations without a recorded response."""
        return TYPES.keys() - self._fields.keys()

    def table(self) -> str:
        """Return a table of the operations with the number of their type's fields that occurred, and the others."""
        lines = [f"{'operation':38} {'fields':>7}  missing"]
        for operation, type_ in TYPES.items():
            have: set[str] = self._fields.get(operation, set())
            all_: dict[str, Any] = {} if type_ is None else type_.model_fields
            count = "bytes" if type_ is None else f"{len(have)}/{len(all_)}"
            absent = ", ".join(sorted(all_.keys() - have)) if operation in self._fields else "NOT CALLED"
            lines.append(f"{operation:38} {count:>7}  {absent}")
        return "\n".join(lines)
