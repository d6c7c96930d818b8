"""Names and ids of the wire, derived from the tuned models that they refer to.

Each is derived from the row's key, which is never reused, so names do not need to be stored and survive a restart.
`ft:BASE:ORG:SUFFIX:ID` is OpenAI's form; its clients read the base model from the second part.
"""

from __future__ import annotations

import re

from tunerun.digest import digest
from tunerun.service.core.records import TunedModelRow

ORGANIZATION = "tunerun"
"""The third part of OpenAI's names is the organization."""

MAX_SUFFIX = 64
"""The most characters of `suffix`, as the SDK documents."""

_CODE, _LONG = 8, 24
"""Characters of the last part of a model's name, and of an id; as many as OpenAI's have."""

_KEY = re.compile(r"[0-9a-f]{64}")
# A base model's name (`WIRE_NAME`) and a slug contain no colon, so a name has one reading.
_MODEL = re.compile(
    r"ft:[^:]+:(?P<organization>[^:]*):[^:]*:(?P<code>[0-9a-z]{8})(?::ckpt-step-(?P<step>[0-9]{1,10}))?"
)
_JOB = re.compile(r"ftjob-([0-9a-f]{24})")
_RESULT = re.compile(r"file-r([0-9a-f]{23})")


def model_name(row: TunedModelRow, step: int | None = None) -> str:
    """Return a tuned model's name, or that of its checkpoint after a step."""
    name = f"ft:{row.base_model}:{ORGANIZATION}:{row.suffix}:{key_of(row)[:_CODE]}"
    return name if step is None else f"{name}:ckpt-step-{step}"


def read_model_name(text: str) -> tuple[str, int | None] | None:
    """Parse a name in the format of `model_name`.

    Returns:
        The first characters of the row's key, and the step of a checkpoint (None: the name refers to the model itself).
        None: the text does not have the format.
    """
    match = _MODEL.fullmatch(text)
    if match is None or match["organization"] != ORGANIZATION:
        return None
    return match["code"], None if match["step"] is None else int(match["step"])


def key_of(row: TunedModelRow) -> str:
    """Return the 64 hexadecimal digits from which a tuned model's names are derived."""
    # The key of a sweep's model is its name, so the digest of the name takes the key's place.
    return row.key if _KEY.fullmatch(row.key) else digest(row.key)


def job_id(row: TunedModelRow) -> str:
    """Return the id of a tuned model's job."""
    return f"ftjob-{key_of(row)[:_LONG]}"


def read_job_id(text: str) -> str | None:
    """Return the start of the row's key from a job's id; None: the text is not a job's id."""
    match = _JOB.fullmatch(text)
    return match and match[1]


def result_file_id(row: TunedModelRow) -> str:
    """Return the id of a finished job's result file; its prefix differs from that of uploaded files."""
    return f"file-r{key_of(row)[: _LONG - 1]}"


def read_result_file_id(text: str) -> str | None:
    """Return the start of the row's key from a result file's id; None: it is the id of an upload."""
    match = _RESULT.fullmatch(text)
    return match and match[1]


def checkpoint_id(row: TunedModelRow, epoch: int) -> str:
    """Return the id of the checkpoint after an epoch."""
    return f"ftckpt_{key_of(row)[:16]}{epoch:08x}"


def read_checkpoint_id(row: TunedModelRow, text: str) -> int | None:
    """Return the epoch of a job's checkpoint; None: the id does not belong to this job."""
    match = re.fullmatch(rf"ftckpt_{key_of(row)[:16]}([0-9a-f]{{8}})", text)
    return match and int(match[1], 16)


def slug(suffix: str) -> str:
    """Return a suffix in OpenAI's form: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", suffix.lower()).strip("-")
