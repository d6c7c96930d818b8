"""The base class of forms: the layout of rows in a pass, and the losses that come of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch

from tunerun.engine.encoding import EncodedExample
from tunerun.engine.network import LoadedModel
from tunerun.engine.shared_prefix import Prefix


class UnfitError(Exception):
    """The form cannot be used with the base model's architecture."""


class Form(ABC):
    """A layout of rows in a pass. Forms have no state except `can_follow`.

    Attributes:
        name: as records and tables show it.
        takes_packs: whether several trials can share a pass.
        can_follow: whether `row_losses` is right with `prefix`, on this base model; `probe` finds out.
    """

    name: str
    takes_packs: bool = False
    can_follow: bool = False

    def losses(self, base: LoadedModel, members: Sequence[Sequence[EncodedExample]]) -> torch.Tensor:
        """Compute the loss of each trial in one pass, with the adapters that are attached to the base model.

        Args:
            base: the base model.
            members: the rows of each trial of the pack; exactly one trial unless the form `takes_packs`.

        Returns:
            The summed negative log likelihood of all learned tokens of each trial, [members], in nats.
        """
        member = torch.tensor([number for number, rows in enumerate(members) for _row in rows], device=base.device)
        return torch.zeros(len(members), device=base.device).index_add(0, member, self.row_losses(base, members))

    @abstractmethod
    def row_losses(
        self, base: LoadedModel, members: Sequence[Sequence[EncodedExample]], prefix: Prefix | None = None
    ) -> torch.Tensor:
        """Compute the loss of each row in one pass; see `losses`.

        Args:
            base: the base model.
            members: the rows of each trial.
            prefix: the cache of a prefix that all rows follow and that they do not contain themselves. For one trial,
                and only if the form `can_follow`.

        Returns:
            The summed negative log likelihood of each row's learned tokens, [rows], in nats; trial after trial.

        Raises:
            UnfitError: the architecture does not support the form.
        """

    @abstractmethod
    def size(self, rows: Sequence[EncodedExample]) -> int:
        """Return how many tokens a pass computes for one trial's rows, not counting a prefix that they share."""

    def order(self, rows: Sequence[EncodedExample]) -> list[int]:
        """Return the positions of rows in an order in which neighbours are cheap to compute in the same pass.

        By default the longest come first, so that a row that does not fit into memory fails at once.
        """
        return sorted(range(len(rows)), key=lambda position: -len(rows[position]))


def logits(network: Any, *, use_cache: bool = False, **inputs: Any) -> torch.Tensor:
    """Call the network and return its logits in float32, in which losses are computed.

    Args:
        network: the transformers model.
        use_cache: whether the pass reads a cache.
        **inputs: of the network's `forward`.

    Returns:
        The logits, [rows, positions, vocabulary].
    """
    output: torch.Tensor = network(use_cache=use_cache, **inputs).logits
    return output.float()
