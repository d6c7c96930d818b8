"""The baseline `base`: the base model as it is, asked as the tuned models are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tunerun.baselines.base import Baseline, PlainModel, Setting, subject_of
from tunerun.engine.token_counter import TokenCounter
from tunerun.job import BaseModelRef
from tunerun.stored import read_stored, section

KIND = "base"


@dataclass(frozen=True)
class Untuned(PlainModel):
    """The base model without an example in the prompt."""

    model: BaseModelRef
    subject: str
    kind = KIND
    measures_losses = True
    name = "base"
    problem = None

    def extra_tokens(self, _counter: TokenCounter) -> int:
        """Return 0: its prompts are those of the tuned models."""
        return 0

    def document(self) -> dict[str, Any]:
        """Return the base model's name, as JSON values."""
        return {"model": self.model.name, "base_model": asdict(self.model)}


def baselines(setting: Setting) -> list[Baseline]:
    """Return the base model, if 0 is one of the configured numbers of examples."""
    return [Untuned(setting.model, subject_of(setting))] if 0 in setting.counts else []


def restored(subject: str, document: Mapping[str, Any]) -> Baseline:
    """Return the baseline that wrote a document."""
    return Untuned(read_stored(BaseModelRef, section(document, "base_model")), subject)


def words(_document: Mapping[str, Any]) -> str:
    """Return the baseline's name in a sentence."""
    return "the base model"
