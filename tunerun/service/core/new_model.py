"""A tuning job as a wire requests it from the core, its validation, and the row that it becomes.

A wire applies the limits and defaults of its own documents; this module checks what the engine can train.
"""

from __future__ import annotations

import math
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunerun.digest import digest
from tunerun.job import TUNED_MODEL_ID, Example
from tunerun.service.core.catalogue import OfferedModel
from tunerun.service.core.problems import MAX_PROBLEMS, Code, ServiceError, invalid
from tunerun.service.core.records import ModelState, TunedModelRow

MAX_DISPLAY_NAME = 40
"""Characters; the Gemini API's limit, whose clients cannot show more."""

LEAST_RATE, MAX_RATE = 1e-30, 3.4e38
"""A float of 32 bits, as the engine learns with, has no smaller and no larger numbers to spare."""

MAX_STEPS = 2**31 - 1
"""More do not fit the 32 bits that clients count them with."""

_ID_RULE = "1 to 40 lower case letters, digits and dashes, a letter first and no dash at the end"


@dataclass(frozen=True)
class NewModel:
    """A requested tuning job.

    Attributes:
        base_model: a name of the catalogue; empty: that of `source`.
        source: the id of the tuned model that training begins with; empty: a new adapter.
        training, validation: the examples; the core checks that the base model can read each whole.
        identifier: the id of the tuned model; empty: the core makes one.
        display_name, description: for people.
        epoch_count, batch_size, learning_rate: what the optimiser gets; the wire has filled in its defaults.
        learning_rate_multiplier: what was asked for instead of a rate, which has it in it; None: nothing.
        seed, suffix, metadata, notes, keeps_epochs, temperature, top_p, top_k, reader_projects: see `TunedModelRow`.
    """

    base_model: str
    training: tuple[Example, ...]
    epoch_count: int
    batch_size: int
    learning_rate: float
    validation: tuple[Example, ...] = ()
    source: str = ""
    identifier: str = ""
    display_name: str = ""
    description: str = ""
    learning_rate_multiplier: float | None = None
    seed: int = 0
    suffix: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    keeps_epochs: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    reader_projects: tuple[int, ...] = ()

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole job."""
        return math.ceil(len(self.training) / self.batch_size) * self.epoch_count


def check(new: NewModel, base: OfferedModel) -> None:
    """Check that the engine can train a job.

    Raises:
        ServiceError: a hyperparameter cannot be learned with, there are no examples, or the base model cannot read some
            whole; the job would fail at its first step.
    """
    for name in ("epoch_count", "batch_size"):
        value = getattr(new, name)
        if value < 1:
            raise invalid(name, f"must be 1 or more, not {value}")
    if not LEAST_RATE <= new.learning_rate <= MAX_RATE:
        name = "learning_rate" if new.learning_rate_multiplier is None else "learning_rate_multiplier"
        raise invalid(name, f"gives a learning rate of {new.learning_rate:g}, by which nothing can be learned")
    if not new.training:
        raise invalid("training", "at least one example is needed")
    if new.total_steps > MAX_STEPS:
        raise invalid("epoch_count", f"{new.total_steps:,} steps; the limit is {MAX_STEPS:,}")
    refuse([*_too_long("training", new.training, base), *_too_long("validation", new.validation, base)])


def _too_long(field_name: str, examples: Sequence[Example], base: OfferedModel) -> list[tuple[str, str]]:
    limit = base.context_tokens
    if limit is None or not base.counter.exact:
        return []
    words = f"tokens with the chat format, more than the {limit:,} that models/{base.name} reads; shorten it"
    counts = enumerate(base.counter.count_all(examples))
    return [(f"{field_name}[{number}]", f"has {tokens:,} {words}") for number, tokens in counts if tokens > limit]


def refuse(problems: Sequence[tuple[str, str]]) -> None:
    """Refuse fields of a request, where there are problems: the first are named, the rest is counted.

    Raises:
        ServiceError: there are some.
    """
    if problems:
        first, text = problems[0]
        more = f", and {len(problems) - 1:,} more" if len(problems) > 1 else ""
        raise ServiceError(Code.INVALID_ARGUMENT, f"{first}: {text}{more}", fields=dict(problems[:MAX_PROBLEMS]))


def row_of(new: NewModel, base: OfferedModel, source: TunedModelRow | None) -> TunedModelRow:
    """The tuned model that a job makes, under its id: as given, else words of what it is called and something random.

    Args:
        source: the tuned model it starts from.

    Raises:
        ServiceError: what is given is not an id.
    """
    now = time.time()
    identifier = new.identifier or _identifier(new.display_name or new.suffix)
    if not TUNED_MODEL_ID.fullmatch(identifier):
        raise invalid("identifier", f"{identifier[:60]!r} is not an id; {_ID_RULE}")
    key = digest([identifier, now, secrets.token_hex(16)])
    return TunedModelRow(
        number=0,
        id=identifier,
        key=key,
        folder=f"{identifier[:27].rstrip('-')}-{key[:12]}",
        display_name=new.display_name,
        description=new.description,
        base_model=base.name,
        source=source.id if source else None,
        source_folder=source.folder if source else None,
        temperature=new.temperature,
        top_p=new.top_p,
        top_k=new.top_k,
        reader_projects=new.reader_projects,
        state=ModelState.CREATING,
        created_at=now,
        updated_at=now,
        started_at=None,
        completed_at=None,
        epoch_count=new.epoch_count,
        batch_size=new.batch_size,
        learning_rate=new.learning_rate,
        learning_rate_multiplier=new.learning_rate_multiplier,
        total_steps=new.total_steps,
        operation=secrets.token_hex(6),
        is_cancelling=False,
        can_answer=False,
        error_code=None,
        error_message=None,
        seed=new.seed,
        suffix=new.suffix,
        metadata=new.metadata,
        notes=new.notes,
        keeps_epochs=new.keeps_epochs,
    )


def _identifier(words: str) -> str:
    """As Google makes one: the words of a display name, and something random."""
    slug = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-0123456789")[:27].strip("-")
    return f"{slug or 'tuned'}-{secrets.token_hex(6)}"
