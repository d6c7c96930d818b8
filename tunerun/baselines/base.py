"""The Protocol of baselines, the setting that they are made from, and a model that is asked the inputs unchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tunerun.backends.base import Backend
from tunerun.digest import digest
from tunerun.engine.token_counter import TokenCounter
from tunerun.examples import Example, Input
from tunerun.generation import GenerateOptions, ModelInputs
from tunerun.job import BaseModelRef, TunedModel


@dataclass(frozen=True)
class Setting:
    """What all trials with the same baselines have in common.

    Attributes:
        model: the base model.
        identity: everything that distinguishes settings, as JSON values: the base model's content, the chat format, the
            digest of the validation set (and so the template) and the place where the model runs.
        training: the largest training set of these trials; empty where no answers are needed.
        drawn: examples of it in the order of the draw (`tunerun.dataset.drawing`); none of them is held out.
        expected: the outputs of the validation set.
        counts: numbers of examples in the prompt, for the baselines that ask the base model.
    """

    model: BaseModelRef
    identity: Mapping[str, Any]
    training: Sequence[Example]
    drawn: Sequence[Example]
    expected: Sequence[str]
    counts: Sequence[int]


class Answering(Protocol):
    """Something that answers held-out examples: a tuned model or a baseline.

    - `choose` and `losses` behave as `Backend`'s methods of these names, use the backend that is passed, and raise
      what these raise. A baseline that asks no model does not touch the backend.
    - `asks` returns what a model has to generate, so that several baselines can be asked together; `read` turns the
      generated texts into the answers.
    """

    def asks(self, inputs: Sequence[Input], options: GenerateOptions) -> ModelInputs | list[str]:
        """Return what a model has to generate for some inputs; the answers themselves if no model is asked.

        Args:
            options: of generation, such as the maximum number of tokens.
        """

    def read(self, texts: Sequence[str]) -> list[str]:
        """Return the answers from the texts that the model generated."""

    def choose(self, backend: Backend, inputs: Sequence[Input], choices: Sequence[str]) -> list[str]:
        """Answer each input with one of the choices.

        Args:
            backend: where the model runs.
            choices: the answers that are allowed, the same for every input.

        Raises:
            BackendError: the backend cannot answer.
        """

    def losses(self, backend: Backend, rows: Sequence[Example]) -> list[float]:
        """Measure the mean loss of each expected output, in nats per token.

        Raises:
            BackendError: the backend cannot measure losses.
        """


class Baseline(Answering, Protocol):
    """Something that answers held-out examples without tuning. A plain value: equal subjects answer alike.

    - `losses` is called only where `measures_losses` is true.
    - `document` contains what `registry.restored` needs to make the baseline again, as JSON values, and `model`, the
      name of its base model (empty if it asks none).
    """

    @property
    def kind(self) -> str:
        """Its name in the registry."""

    @property
    def name(self) -> str:
        """Its name in tables: `base`, `base+4`, `base+4 text`, `majority`."""

    @property
    def subject(self) -> str:
        """The key of its answers in the ledger: a digest of everything that can change them."""

    @property
    def measures_losses(self) -> bool:
        """Whether it has probabilities, not only answers."""

    @property
    def problem(self) -> str | None:
        """Why it cannot be asked, as far as it knows itself; None: it can."""

    def extra_tokens(self, counter: TokenCounter) -> int | None:
        """Return how many more tokens each of its prompts has than a tuned model's; None: it asks no model.

        Raises:
            NoTurnsError: the base model's chat format has no place for the examples.
        """

    def document(self) -> dict[str, Any]:
        """Return what it is, as JSON values."""


@dataclass(frozen=True)
class PlainModel:
    """A model that is asked the inputs unchanged."""

    model: TunedModel | BaseModelRef

    def asks(self, inputs: Sequence[Input], options: GenerateOptions) -> ModelInputs:
        """Return the inputs unchanged, for the model itself."""
        return ModelInputs(self.model, tuple(inputs), options)

    def read(self, texts: Sequence[str]) -> list[str]:
        """Return the model's answers unchanged."""
        return list(texts)

    def choose(self, backend: Backend, inputs: Sequence[Input], choices: Sequence[str]) -> list[str]:
        """Answer each input with one of the choices."""
        return backend.choose(self.model, inputs, choices)

    def losses(self, backend: Backend, rows: Sequence[Example]) -> list[float]:
        """Measure the mean loss of each expected output."""
        return backend.losses(self.model, rows)


def subject_of(setting: Setting, **more: Any) -> str:
    """Return the subject of a baseline that asks the setting's base model.

    Args:
        more: what distinguishes it from the untuned base model, as JSON values; nothing for that model itself.
    """
    # The untuned base model has no key of its own in the digest, as before there were other baselines: ledgers of that
    # time keep their answers.
    return digest({**setting.identity, **more})
