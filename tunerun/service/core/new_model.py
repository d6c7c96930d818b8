"""A requested tuning job: its validation, and its conversion into a database row.

Each wire applies the limits and defaults that its API documents; this module checks what the engine can train.
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
from tunerun.examples import Example
from tunerun.job import TUNED_MODEL_ID
from tunerun.service.core.catalogue import OfferedModel
from tunerun.service.core.problems import MAX_PROBLEMS, Code, ServiceError, invalid
from tunerun.service.core.records import ModelState, TunedModelRow

MAX_DISPLAY_NAME = 40
"""Characters of a display name; the Gemini API's limit."""

LEAST_RATE, MAX_RATE = 1e-30, 3.4e38
"""Bounds of a learning rate: the engine computes in float32, which cannot represent values far outside these."""

MAX_STEPS = 2**31 - 1
"""Clients count steps in a signed 32-bit integer."""

_ID_RULE = "1 to 40 lower case letters, digits and dashes, a letter first and no dash at the end"


@dataclass(frozen=True)
class NewModel:
    """A requested tuning job, independent of the wire.

    Attributes:
        base_model: a name of the catalogue; empty: the base model of `source`.
        source: id of the tuned model whose adapter training starts from; empty: a new adapter.
        training, validation: the examples; each has to fit the base model's context.
        identifier: id for the tuned model; empty: one is generated.
        display_name, description: free text, only shown.
        epoch_count, batch_size, learning_rate: effective values, the wire's defaults filled in.
        learning_rate_multiplier: the multiplier from which `learning_rate` was computed; None: the rate was given.
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
        """Number of optimiser steps of the job."""
        return math.ceil(len(self.training) / self.batch_size) * self.epoch_count


def checked_row(new: NewModel, base: OfferedModel, source: TunedModelRow | None) -> TunedModelRow:
    """Check that the engine can train a job, and build the row of its tuned model.

    Args:
        new: the job; without an identifier, one is made from the display name or suffix and random digits.
        base: the base model.
        source: the tuned model that training starts from; None: a new adapter.

    Raises:
        ServiceError: a hyperparameter is out of range, there are no examples, an example exceeds the base model's
            context, so that the job would fail at its first step, or the given identifier is not a valid id.
    """
    _check(new, base)
    now = time.time()
    # Generated as Google does: the words of the display name, then random digits; 27 + 1 + 12 are the 40 of an id.
    slug = re.sub(r"[^a-z0-9]+", "-", (new.display_name or new.suffix).lower()).strip("-0123456789")[:27].strip("-")
    identifier = new.identifier or f"{slug or 'tuned'}-{secrets.token_hex(6)}"
    if not TUNED_MODEL_ID.fullmatch(identifier):
        raise invalid("identifier", f"{identifier[:60]!r} is not an id; {_ID_RULE}")
    key = digest([identifier, now, secrets.token_hex(16)])  # random: two equal requests are two jobs
    return TunedModelRow(
        number=0,  # assigned when the row is inserted
        id=identifier,
        key=key,
        folder=f"{identifier[:27].rstrip('-')}-{key[:12]}",  # its own, also if the id is used again after a deletion
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
        epoch_count=new.epoch_count,
        batch_size=new.batch_size,
        learning_rate=new.learning_rate,
        learning_rate_multiplier=new.learning_rate_multiplier,
        total_steps=new.total_steps,
        operation=secrets.token_hex(6),
        seed=new.seed,
        suffix=new.suffix,
        metadata=new.metadata,
        notes=new.notes,
        keeps_epochs=new.keeps_epochs,
    )


def _check(new: NewModel, base: OfferedModel) -> None:
    for name in ("epoch_count", "batch_size"):
        value = getattr(new, name)
        if value < 1:
            raise invalid(name, f"must be 1 or more, not {value}")
    if not LEAST_RATE <= new.learning_rate <= MAX_RATE:  # true for NaN too
        name = "learning_rate" if new.learning_rate_multiplier is None else "learning_rate_multiplier"
        raise invalid(
            name, f"gives a learning rate of {new.learning_rate:g}; it must be from {LEAST_RATE:g} to {MAX_RATE:g}"
        )
    if not new.training:
        raise invalid("training", "at least one example is needed")
    if new.total_steps > MAX_STEPS:
        raise invalid("epoch_count", f"gives {new.total_steps:,} steps; the limit is {MAX_STEPS:,}; choose fewer")
    # Here, because the engine would fail at its first step, long after the client was answered.
    limit = base.context_tokens
    if limit is None or not base.counter.exact:  # an estimate must not refuse what may fit
        return
    words = f"tokens including the chat format; the limit of models/{base.name} is {limit:,}; shorten it"
    refuse(
        [
            (f"{name}[{number}]", f"has {tokens:,} {words}")
            for name, examples in (("training", new.training), ("validation", new.validation))
            for number, tokens in enumerate(base.counter.count_all(examples))
            if tokens > limit
        ]
    )


def refuse(problems: Sequence[tuple[str, str]]) -> None:
    """Raise one error for all problems of a request: the message has the first, `fields` up to `MAX_PROBLEMS`.

    Args:
        problems: pairs of a field and its message; empty: nothing is raised.

    Raises:
        ServiceError: there are problems.
    """
    if problems:
        first, text = problems[0]
        more = f", and {len(problems) - 1:,} more" if len(problems) > 1 else ""
        raise ServiceError(Code.INVALID_ARGUMENT, f"{first}: {text}{more}", fields=dict(problems[:MAX_PROBLEMS]))
