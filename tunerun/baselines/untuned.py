"""The baseline `base`: the base model as it is, asked as the tuned models are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tunerun.backends.base import Backend
from tunerun.baselines.base import Baseline, Setting, subject_of
from tunerun.engine.token_counter import TokenCounter
from tunerun.examples import Example, Input
from tunerun.generation import GenerateOptions, ModelInputs
from tunerun.job import BaseModelRef
from tunerun.stored import read_stored, section

KIND = "base"


@dataclass(frozen=True)
class Untuned:
    """The base model without an example in the prompt."""

    subject: str
    model: BaseModelRef
    kind = KIND
    measures_losses = True
    name = "base"
    problem = None

    def asks(self, inputs: Sequence[Input], options: GenerateOptions) -> ModelInputs:
        """Ask the base model, without examples in the prompt."""
        return ModelInputs(self.model, tuple(inputs), options)

    def read(self, texts: Sequence[str]) -> list[str]:
        """Return the base model's answers unchanged."""
        return list(texts)

    def choose(self, backend: Backend, inputs: Sequence[Input], choices: Sequence[str]) -> list[str]:
        """Let the base model choose."""
        return backend.choose(self.model, inputs, choices)

    def losses(self, backend: Backend, rows: Sequence[Example]) -> list[float]:
        """Measure the base model's losses."""
        return backend.losses(self.model, rows)

    def extra_tokens(self, _counter: TokenCounter) -> int:
        """Return 0: its prompts are those of the tuned models."""
        return 0

    def document(self) -> dict[str, Any]:
        """Return the base model's name, as JSON values."""
        return {"model": self.model.name, "base_model": asdict(self.model)}


def baselines(setting: Setting) -> list[Baseline]:
    """Return the base model, if 0 is one of the configured numbers of examples."""
    return [Untuned(subject_of(setting), setting.model)] if 0 in setting.counts else []


def restored(subject: str, document: Mapping[str, Any]) -> Baseline:
    """Return the baseline that wrote a document."""
    return Untuned(subject, read_stored(BaseModelRef, section(document, "base_model")))


def words(_document: Mapping[str, Any]) -> str:
    """Return the baseline's name in a sentence."""
    return "the base model"
