"""What is recorded of each operation of the wire: that its answer is the SDK's type, and which of its fields it has."""

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
"""Operation of the SDK -> the type of what it answers, or of an item of it; None: bytes."""

Answer = TypeVar("Answer")


class Conformance:
    """Answers of the operations, each checked as it is recorded."""

    def __init__(self) -> None:
        self._fields: dict[str, set[str]] = {}

    def of(self, operation: str, answer: Answer) -> Answer:
        """Record an answer, or an item of a list; it has to be the SDK's type, and without a field unknown to it."""
        type_ = TYPES[operation]
        found = self._fields.setdefault(operation, set())
        if type_ is not None:
            assert isinstance(answer, type_), (operation, type(answer))
            assert unknown(answer) == [], (operation, unknown(answer))
            found |= answer.model_fields_set & type_.model_fields.keys()
        return answer

    @property
    def missing(self) -> set[str]:
        """The operations of which no answer was recorded."""
        return TYPES.keys() - self._fields.keys()

    def table(self) -> str:
        """Each operation with how many fields of its type it has, and which it never has."""
        lines = [f"{'operation':38} {'fields':>7}  never there"]
        for operation, type_ in TYPES.items():
            have: set[str] = self._fields.get(operation, set())
            all_: dict[str, Any] = {} if type_ is None else type_.model_fields
            count = "bytes" if type_ is None else f"{len(have)}/{len(all_)}"
            absent = ", ".join(sorted(all_.keys() - have)) if operation in self._fields else "NOT CALLED"
            lines.append(f"{operation:38} {count:>7}  {absent}")
        return "\n".join(lines)
