"""A request to make a tuned model: checked, its defaults filled in, and given a name.

Decided here, for the API's documents do not say: batch size 4 and learning rate 0.001 up to 500 training examples, 16
and 0.0002 above. The two values of each are the API's; 500 is the most that its guide advises.
"""

from __future__ import annotations

import math
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import replace

from pydantic.alias_generators import to_camel

from tunerun.digest import digest
from tunerun.job import Example
from tunerun.service.core.catalogue import OfferedModel
from tunerun.service.core.problems import Code, ServiceError, invalid
from tunerun.service.core.records import ModelState, TunedModelRow
from tunerun.service.gemini import wire

MAX_INPUT_CHARACTERS = 40_000
MAX_OUTPUT_CHARACTERS = 5_000
MAX_TRAINING_BYTES = 4 * 2**20
ADVISED_EXAMPLES = 20
"""The Gemini API's tuning guide (as last served, 2025-04-28): characters of an input and of an output, bytes of all
examples, and the least number of examples from which a model can learn."""

LEAST_RATE = 1e-30
"""A float of 32 bits, as the engine learns with, has no smaller numbers to spare."""

MAX_DISPLAY_NAME = 40
MAX_PROBLEMS = 20
"""Fields that one answer names."""

MANY_EXAMPLES = 500
DEFAULT_EPOCHS = 5
FEW_DEFAULTS = (4, 0.001)
MANY_DEFAULTS = (16, 0.0002)
"""Batch size and learning rate up to `MANY_EXAMPLES` and above."""

_WHERE = "tuningTask.hyperparameters"
_EXAMPLES = "tuningTask.trainingData.examples.examples"
_HELD_OUT = "tuningTask.validationData.examples.examples"
_ID = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
_ID_RULE = "1 to 40 lower case letters, digits and dashes, a letter first and no dash at the end"


def advice(examples: int) -> str | None:
    """What a client should know of the number of its examples; None: nothing."""
    if examples >= ADVISED_EXAMPLES:
        return None
    return (
        f"{examples} training examples; the Gemini API's tuning guide advises at least {ADVISED_EXAMPLES}, better 100 "
        "to 500"
    )


def examples_of(task: wire.TuningTask) -> list[Example]:
    """The training examples of a request.

    Raises:
        ServiceError: there are none, or some are blank or too long; names each.
    """
    found = _examples(task.training_data, _EXAMPLES)
    if not found:
        raise invalid(_EXAMPLES, "at least one example is needed")
    return found


def held_out_of(task: wire.TuningTask) -> list[Example]:
    """The examples of a request that are held out of training; most requests have none.

    Raises:
        ServiceError: some are blank or too long; names each.
    """
    return _examples(task.validation_data, _HELD_OUT)


def _examples(data: wire.Dataset | None, where: str) -> list[Example]:
    given = (data.examples.examples if data and data.examples else None) or []
    problems: list[tuple[str, str]] = []
    for number, example in enumerate(given):
        for name, text, most in (
            ("textInput", example.text_input, MAX_INPUT_CHARACTERS),
            ("output", example.output, MAX_OUTPUT_CHARACTERS),
        ):
            problem = _problem_of(text or "", most)
            if problem is not None:
                problems.append((f"{where}[{number}].{name}", problem))
    size = sum(len(f"{e.text_input or ''}{e.output or ''}".encode()) for e in given)
    if size > MAX_TRAINING_BYTES:
        problems.append((where, f"{size:,} bytes of examples, the limit is {MAX_TRAINING_BYTES:,}"))
    _refuse(problems)
    return [Example(e.text_input or "", e.output or "") for e in given]


def check_lengths(examples: Sequence[Example], held_out: Sequence[Example], base: OfferedModel) -> None:
    """Check that a base model can read each example whole.

    Raises:
        ServiceError: some have more tokens than its context; names each. The job would fail at its first step.
    """
    limit = base.context_tokens
    if limit is None or not base.counter.exact:
        return
    words = "tokens with the chat format, more than the {:,} that models/{} reads; shorten it"
    _refuse(
        [
            (f"{where}[{number}]", f"has {tokens:,} {words.format(limit, base.name)}")
            for where, given in ((_EXAMPLES, examples), (_HELD_OUT, held_out))
            for number, tokens in enumerate(base.counter.count_all(given))
            if tokens > limit
        ]
    )


def _refuse(problems: Sequence[tuple[str, str]]) -> None:
    """Refuse fields of a request, where there are problems: the first are named, the rest is counted."""
    if problems:
        first, text = problems[0]
        more = f", and {len(problems) - 1:,} more" if len(problems) > 1 else ""
        raise ServiceError(Code.INVALID_ARGUMENT, f"{first}: {text}{more}", fields=dict(problems[:MAX_PROBLEMS]))


def _problem_of(text: str, most: int) -> str | None:
    if not text.strip():
        return "is blank; every example needs an input and an output"
    return f"has {len(text):,} characters, the limit is {most:,}" if len(text) > most else None


def row_of(
    asked: wire.TunedModel, given: wire.Hyperparameters, examples: int, base: str, source: TunedModelRow | None
) -> TunedModelRow:
    """The tuned model that a request asks for, without a name; with the API's defaults.

    Args:
        examples: how many there are to train on.
        source: the tuned model it starts from.

    Raises:
        ServiceError: a hyperparameter, or what is shown of the model, is wrong.
    """
    default_batch, default_rate = FEW_DEFAULTS if examples <= MANY_EXAMPLES else MANY_DEFAULTS
    _check_hyperparameters(given)
    epochs, batch = given.epoch_count or DEFAULT_EPOCHS, given.batch_size or default_batch
    steps = math.ceil(examples / batch) * epochs
    if steps > wire.MAX_INT32:
        raise invalid(f"{_WHERE}.epochCount", f"{steps:,} steps; the limit is {wire.MAX_INT32:,}")
    check_shown(asked)
    rate = given.learning_rate or default_rate * (given.learning_rate_multiplier or 1.0)
    if not LEAST_RATE <= rate <= wire.MAX_FLOAT:
        field = "learningRate" if given.learning_rate is not None else "learningRateMultiplier"
        raise invalid(f"{_WHERE}.{field}", f"gives a learning rate of {rate:g}, by which nothing can be learned")
    now = time.time()
    return TunedModelRow(
        number=0,
        id="",
        key="",
        folder="",
        display_name=asked.display_name or "",
        description=asked.description or "",
        base_model=base,
        source=source.id if source else None,
        source_folder=source.folder if source else None,
        temperature=asked.temperature,
        top_p=asked.top_p,
        top_k=asked.top_k,
        reader_projects=tuple(asked.reader_project_numbers or ()),
        state=ModelState.CREATING,
        created_at=now,
        updated_at=now,
        started_at=None,
        completed_at=None,
        epoch_count=epochs,
        batch_size=batch,
        learning_rate=rate,
        learning_rate_multiplier=given.learning_rate_multiplier,
        total_steps=steps,
        operation=secrets.token_hex(6),
        is_cancelling=False,
        can_answer=False,
        error_code=None,
        error_message=None,
    )


def _check_hyperparameters(given: wire.Hyperparameters) -> None:
    if given.learning_rate is not None and given.learning_rate_multiplier is not None:
        raise invalid(f"{_WHERE}.learningRate", "learningRate and learningRateMultiplier exclude each other; send one")
    for name in ("learning_rate", "learning_rate_multiplier"):
        value = getattr(given, name)
        if value is not None and value <= 0:
            raise invalid(f"{_WHERE}.{to_camel(name)}", f"must be greater than 0, not {value:g}")
    for name in ("epoch_count", "batch_size"):
        value = getattr(given, name)
        if value is not None and value < 0:
            raise invalid(f"{_WHERE}.{to_camel(name)}", f"must be 1 or more, not {value}")


def named(row: TunedModelRow, identifier: str, display_name: str, *, is_given: bool) -> TunedModelRow:
    """A tuned model under its id: as given, else the words of the display name and something random, as Google does.

    Raises:
        ServiceError: what is given is not an id.
    """
    if is_given and not _ID.fullmatch(identifier):
        raise invalid("tunedModelId", f"{identifier[:60]!r} is not an id; {_ID_RULE}")
    if not is_given:
        words = re.sub(r"[^a-z0-9]+", "-", display_name.lower()).strip("-0123456789")[:27].strip("-")
        identifier = f"{words or 'tuned'}-{secrets.token_hex(6)}"
    key = digest([identifier, row.created_at, secrets.token_hex(16)])
    return replace(row, id=identifier, key=key, folder=f"{identifier[:27].rstrip('-')}-{key[:12]}")


def check_shown(asked: wire.TunedModel) -> None:
    """Check what may be changed later: how the model is shown, and what it answers with by default.

    Raises:
        ServiceError: something of it is wrong.
    """
    if len(asked.display_name or "") > MAX_DISPLAY_NAME:
        raise invalid("displayName", f"has {len(asked.display_name or '')} characters, the limit is {MAX_DISPLAY_NAME}")
    for name in ("temperature", "top_p"):
        value = getattr(asked, name)
        if value is not None and not 0 <= value <= 1:
            raise invalid(to_camel(name), f"must be from 0 to 1, not {value:g}")
    if asked.top_k is not None and asked.top_k < 0:
        raise invalid("topK", f"must be 0 or more, not {asked.top_k}")
