"""What a form is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch

from tunerun.engine.encoding import EncodedExample
from tunerun.engine.network import LoadedModel
from tunerun.engine.shared_prefix import Prefix


class UnfitError(Exception):
    """The base model's architecture does not fit a form."""


class Form(ABC):
    """How rows are laid out for a pass.

    Attributes:
        name: what the record and the table call it.
        takes_packs: whether several trials can share a pass.
        can_follow: whether rows can follow what the network has of the tokens before them.
    """

    name: str
    takes_packs: bool = False
    can_follow: bool = False

    def losses(self, base: LoadedModel, members: Sequence[Sequence[EncodedExample]]) -> torch.Tensor:
        """Compute the loss of each trial's rows in one pass, with the adapters that are on the base model.

        Args:
            members: the rows of each trial of the pack; of one trial alone where the form takes no packs.

        Returns:
            [members] the summed negative log likelihood of all learned tokens of a trial's rows, in nats.
        """
        of = torch.tensor([number for number, rows in enumerate(members) for _row in rows], device=base.device)
        return torch.zeros(len(members), device=base.device).index_add(0, of, self.row_losses(base, members))

    @abstractmethod
    def row_losses(
        self, base: LoadedModel, members: Sequence[Sequence[EncodedExample]], behind: Prefix | None = None
    ) -> torch.Tensor:
        """Compute the loss of each row; see `losses`.

        Args:
            behind: what the network has of the tokens before the rows, which are then without them; of one trial, and
                only where the form `can_follow`.

        Returns:
            [rows] the summed negative log likelihood of a row's learned tokens, in nats; one trial's rows after
            another's.
        """

    @abstractmethod
    def size(self, rows: Sequence[EncodedExample]) -> int:
        """Return how many tokens a pass of one trial's rows computes, without those that it computes once for all."""

    def order(self, rows: Sequence[EncodedExample]) -> list[int]:
        """Return the positions of rows, those that are cheap in one pass next to each other; the longest come first.

        What does not fit the memory fails at once then.
        """
        return sorted(range(len(rows)), key=lambda position: -len(rows[position]))


def logits(network: Any, *, use_cache: bool = False, **inputs: Any) -> torch.Tensor:
    """Return what a pass answers, as numbers of 32 bits."""
    answer: torch.Tensor = network(use_cache=use_cache, **inputs).logits
    return answer.float()
