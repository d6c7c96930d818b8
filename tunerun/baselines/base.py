"""The Protocol of baselines, and the setting that they are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tunerun.backends.base import Backend
from tunerun.digest import digest
from tunerun.engine.token_counter import TokenCounter
from tunerun.job import BaseModelRef, Example, GenerateOptions, Input, ModelInputs


@dataclass(frozen=True)
class Setting:
    """What all trials with the same baselines have in common.

    Attributes:
        model: the base model.
        identity: what tells the settings apart, as JSON values: the base model's content, the chat format, the digest
            of the validation set (and so the template) and the place where the model runs. The digest of it is the
            subject of the untuned base model, as it was before there were other baselines: old answers are found.
        training: the largest training set of these trials; empty where no answers are asked for.
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


class Baseline(Protocol):
    """Something that answers held-out examples without tuning. A plain value: equal subjects answer alike.

    - `choose` and `losses` answer as `Backend`'s methods of these names do, through the backend that is given, and
      raise what these raise. A baseline that asks no model leaves the backend alone.
    - `asks` says what a model is to generate, so that several baselines can be asked together; `read` makes the
      baseline's answers of what that model generated.
    - `losses` is called only where `measures_losses` is true.
    - `document` holds what `registry.restored` needs to make the baseline again, as JSON values, and `model`, the name
      of its base model (empty where it asks none).
    """

    @property
    def kind(self) -> str:
        """Its word in the registry."""

    @property
    def name(self) -> str:
        """What tables call it where a sweep has one of it: `base`, `base+4`, `base+4 text`, `majority`."""

    @property
    def subject(self) -> str:
        """The key of its answers in the ledger: a digest of everything that can change them."""

    @property
    def measures_losses(self) -> bool:
        """Whether it has probabilities, and not answers alone."""

    @property
    def problem(self) -> str | None:
        """What keeps it from being asked, as far as it knows itself; None: nothing."""

    def asks(self, inputs: Sequence[Input], options: GenerateOptions) -> ModelInputs | list[str]:
        """What a model is asked for the answers to inputs; the answers themselves where the baseline asks none."""

    def read(self, texts: Sequence[str]) -> list[str]:
        """The answers, of what the model generated."""

    def choose(self, backend: Backend, inputs: Sequence[Input], choices: Sequence[str]) -> list[str]:
        """Answer each input with one of the choices."""

    def losses(self, backend: Backend, rows: Sequence[Example]) -> list[float]:
        """Measure the mean loss of each expected output."""

    def extra_tokens(self, counter: TokenCounter) -> int | None:
        """How many more tokens each of its prompts has than that of a tuned model; None: it asks no model.

        Raises:
            NoTurnsError: the base model's chat format has no place for the examples.
        """

    def document(self) -> dict[str, Any]:
        """What it is, as JSON values."""


def subject_of(setting: Setting, **more: Any) -> str:
    """The subject of a baseline that asks the setting's base model; `more` is what it does beside that."""
    return digest({**setting.identity, **more})
