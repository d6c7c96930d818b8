"""What services have in common that generate answers and do not measure how likely a stated one is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Never

from tunerun.errors import InputError
from tunerun.job import BaseModelRef, Example, Input, TunedModel


class AnswersOnly:
    """The methods of `Backend` that such a service refuses; `capabilities().measures_losses` is False.

    Attributes:
        kind: of the backend, for messages.
    """

    kind: str

    def losses(
        self, model: BaseModelRef | TunedModel, rows: Sequence[Example], examples: Sequence[Example] = ()
    ) -> list[float]:
        """Refuse.

        Raises:
            InputError: always.
        """
        self._refuse(model, rows, examples)

    def choose(
        self,
        model: BaseModelRef | TunedModel,
        inputs: Sequence[Input],
        choices: Sequence[str],
        examples: Sequence[Example] = (),
    ) -> list[str]:
        """Refuse.

        Raises:
            InputError: always.
        """
        self._refuse(model, inputs, choices, examples)

    def _refuse(self, *_asked: object) -> Never:
        raise InputError(
            f"backend {self.kind}: the API does not return the likelihood of a given answer; use metrics that need "
            "only answers, or backend=local"
        )
