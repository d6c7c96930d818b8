"""What a wire asks the core to tune: checked as far as it is the wire's own affair, in tunerun's words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tunerun.job import Example


@dataclass(frozen=True)
class NewModel:
    """A tuning job that a client asks for.

    Attributes:
        base_model: a name of the catalogue; empty: that of `source`.
        source: the id of the tuned model that training begins with; empty: a new adapter.
        training, validation: the examples; the core checks that the base model can read each whole.
        identifier: the id that the tuned model shall have; empty: the core makes one.
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
