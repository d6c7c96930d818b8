"""Packed rows: several rows in one sequence, with a mask that lets each row attend to its own tokens only.

Each trial of a pack has a sequence of its own in the batch dimension. Trials cannot share a sequence: their adapters
give different values even for equal tokens, and a NaN spreads to everything in its sequence, masked or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from tunerun.engine import shared_prefix
from tunerun.engine.encoding import EncodedExample
from tunerun.engine.forms import layout, masks
from tunerun.engine.forms.base import Form, logits
from tunerun.engine.network import LoadedModel
from tunerun.engine.shared_prefix import Prefix


class Packed(Form):
    """All rows of a trial in one sequence; see `Form`.

    Args:
        shares_prefix: whether prefixes that rows have in common are computed once.
        takes_packs: whether to claim that several trials can share a pass; `probe` tries both.
    """

    def __init__(self, *, shares_prefix: bool, takes_packs: bool = True) -> None:
        self.name = "shared prefix" if shares_prefix else "packed"
        self.takes_packs = takes_packs
        self._shares_prefix = shares_prefix

    def row_losses(
        self, base: LoadedModel, members: Sequence[Sequence[EncodedExample]], prefix: Prefix | None = None
    ) -> torch.Tensor:
        """Compute the loss of each row; see `Form`."""
        layouts = [layout.lay_out(rows, shares=self._shares_prefix) for rows in members]
        time = max(len(one.tokens) for one in layouts)
        before = 0 if prefix is None else prefix.tokens
        inputs: dict[str, Any] = {
            "input_ids": _filled([one.tokens for one in layouts], time, base.pad_id, base.device),
        }

        if prefix is not None or any(len(rows) > 1 for rows in members):  # for single rows the causal mask is right
            positions = _filled([one.positions for one in layouts], time, 0, base.device) + before
            # Padding attends to itself: a token that attends to nothing has a softmax of NaN.
            ends = [[*one.ends, *range(len(one.ends) + 1, time + 1)] for one in layouts]
            inputs["position_ids"] = positions
            inputs["attention_mask"] = self.mask(
                base.network, torch.tensor(ends, device=base.device), positions, before
            )
        if prefix is not None:
            inputs["past_key_values"] = prefix.cache(len(members))

        first = list(accumulate(map(len, members), initial=0))
        # Each learned token: its member, the place of the token before it, its id, and its row among all members' rows.
        learned = [
            (member, place, label, first[member] + row)
            for member, one in enumerate(layouts)
            for place, label, row in one.learned
        ]
        member, place, label, row = torch.tensor(learned, device=base.device).unbind(1)
        # Only learned tokens need logits: [tokens, vocabulary] instead of [members, time, vocabulary].
        with _head_sees(base.network, member, place):
            scores = logits(base.network, use_cache=prefix is not None, **inputs)
        losses = cross_entropy(scores[0], label, reduction="none")
        return torch.zeros(first[-1], device=base.device).index_add(0, row, losses)

    def mask(self, network: Any, ends: torch.Tensor, positions: torch.Tensor, before: int) -> masks.Mask:
        """Return the attention mask of a pass; see `masks.build`."""
        return masks.build(network, ends, positions, before)

    def size(self, rows: Sequence[EncodedExample]) -> int:
        """Return how many tokens a pass computes for some rows; see `Form`."""
        tokens = len(layout.lay_out(rows, shares=self._shares_prefix).tokens)
        if not self._shares_prefix or len(rows) < 2:
            return tokens
        return tokens - shared_prefix.length([row.prompt + row.target for row in rows])

    def order(self, rows: Sequence[EncodedExample]) -> list[int]:
        """Return the positions of rows in an order in which neighbours share prefixes; see `Form`."""
        return layout.order(rows) if self._shares_prefix else super().order(rows)


def _filled(rows: Sequence[list[int]], time: int, value: int, device: torch.device) -> torch.Tensor:
    return torch.tensor([row + [value] * (time - len(row)) for row in rows], device=device)


@contextmanager
def _head_sees(network: Any, member: torch.Tensor, place: torch.Tensor) -> Iterator[None]:
    """Have the output layer compute the logits of chosen tokens only, as [1, tokens, vocabulary].

    Args:
        member: for each token its index in the batch, [tokens].
        place: for each token its index in the sequence, [tokens].
    """

    def gather(_module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (inputs[0][member, place][None], *inputs[1:])

    handle = network.get_output_embeddings().register_forward_pre_hook(gather)
    try:
        yield
    finally:
        handle.remove()
