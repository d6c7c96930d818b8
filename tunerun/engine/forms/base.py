"""What a form is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from tunerun.engine.encoding import EncodedExample
from tunerun.engine.network import LoadedModel


class Form(Protocol):
    """How rows are laid out for a pass.

    Attributes:
        name: what the record and the table call it.
        takes_packs: whether several trials can share a pass.
    """

    name: str
    takes_packs: bool

    def losses(self, base: LoadedModel, members: Sequence[Sequence[EncodedExample]]) -> torch.Tensor:
        """Compute the loss of each trial's rows in one pass, with the adapters that are on the base model.

        Args:
            members: the rows of each trial of the pack; of one trial alone where the form takes no packs.

        Returns:
            [members] the summed negative log likelihood of all learned tokens of a trial's rows, in nats.
        """


def logits(network: Any, **inputs: Any) -> torch.Tensor:
    """Return what a pass without a cache answers, as numbers of 32 bits."""
    answer: torch.Tensor = network(use_cache=False, **inputs).logits
    return answer.float()
