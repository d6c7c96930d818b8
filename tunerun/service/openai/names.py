"""Names and ids of the wire, and the tuned models that they refer to.

Every name is made of the row's key, which is never used twice: nothing of it is stored, and a name is the same after a
restart. `ft:BASE:ORG:SUFFIX:ID` is OpenAI's form, whose clients take the second part for the base model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tunerun.digest import digest
from tunerun.service.core.records import TunedModelRow

ORGANIZATION = "tunerun"
"""The third part of OpenAI's names is the organization."""

MAX_SUFFIX = 64
"""Characters of `suffix`, as the SDK documents it."""

_CODE, _LONG = 8, 24
"""Characters of the last part of a model's name, and of an id: those of the names that OpenAI gives."""

_KEY = re.compile(r"[0-9a-f]{64}")
_MODEL = re.compile(
    r"ft:(?P<base>[^:]+):(?P<organization>[^:]*):(?P<suffix>[^:]*):(?P<code>[0-9a-z]{8})(?::ckpt-step-(?P<step>[0-9]{1,10}))?"
)
_JOB = re.compile(r"ftjob-([0-9a-f]{24})")
_RESULT = re.compile(r"file-r([0-9a-f]{23})")


@dataclass(frozen=True)
class ModelName:
    """A tuned model's name in its parts.

    Attributes:
        code: the first characters of its row's key.
        step: of the checkpoint that is meant; None: the model itself.
    """

    base: str
    suffix: str
    code: str
    step: int | None = None


def model_name(row: TunedModelRow, step: int | None = None) -> str:
    """A tuned model's name, or that of its checkpoint after a step."""
    name = f"ft:{row.base_model}:{ORGANIZATION}:{row.suffix}:{key_of(row)[:_CODE]}"
    return name if step is None else f"{name}:ckpt-step-{step}"


def read_model_name(text: str) -> ModelName | None:
    """Parse a name that `model_name` has made; None: it is not one."""
    found = _MODEL.fullmatch(text)
    if found is None or found["organization"] != ORGANIZATION:
        return None
    step = None if found["step"] is None else int(found["step"])
    return ModelName(found["base"], found["suffix"], found["code"], step)


def key_of(row: TunedModelRow) -> str:
    """The digits in the names of a tuned model: its key; for a sweep's, the digest of its name."""
    return row.key if _KEY.fullmatch(row.key) else digest(row.key)


def job_id(row: TunedModelRow) -> str:
    """The id of the job that makes a tuned model."""
    return f"ftjob-{key_of(row)[:_LONG]}"


def read_job_id(text: str) -> str | None:
    """The beginning of the key of a job's row; None: it is not a job's id."""
    found = _JOB.fullmatch(text)
    return found and found[1]


def result_file_id(row: TunedModelRow) -> str:
    """The id of the file that a finished job leaves; it begins otherwise than those of uploaded files."""
    return f"file-r{key_of(row)[: _LONG - 1]}"


def read_result_file_id(text: str) -> str | None:
    """The beginning of the key of a result's row; None: the file was uploaded."""
    found = _RESULT.fullmatch(text)
    return found and found[1]


def checkpoint_id(row: TunedModelRow, epoch: int) -> str:
    """The id of the checkpoint after an epoch."""
    return f"ftckpt_{key_of(row)[:16]}{epoch:08x}"


def read_checkpoint_id(row: TunedModelRow, text: str) -> int | None:
    """The epoch of a job's checkpoint; None: the job does not have a checkpoint with that id."""
    found = re.fullmatch(rf"ftckpt_{key_of(row)[:16]}([0-9a-f]{{8}})", text)
    return found and int(found[1], 16)


def slug(suffix: str) -> str:
    """A suffix as OpenAI shows it in a name: lower case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", suffix.lower()).strip("-")
