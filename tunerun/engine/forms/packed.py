"""Rows behind each other in one sequence, each of which sees itself and what all begin with.

Each trial of a pack has its own place in the batch dimension: their adapters give different numbers even for the tokens
that they share, and a NaN reaches everything in its sequence, even behind a mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from tunerun.engine.encoding import EncodedExample
from tunerun.engine.forms.base import logits
from tunerun.engine.forms.layout import PADDING, PREFIX, lay_out
from tunerun.engine.network import LoadedModel


class Packed:
    """Rows in one sequence, with or without what they begin with once; see `Form`."""

    takes_packs = True

    def __init__(self, *, shares_prefix: bool) -> None:
        self.name = "shared prefix" if shares_prefix else "packed"
        self._shares_prefix = shares_prefix

    def losses(self, base: LoadedModel, members: Sequence[Sequence[EncodedExample]]) -> torch.Tensor:
        """Compute the loss of each trial's rows; see `Form`."""
        layouts = [lay_out(rows, shares_prefix=self._shares_prefix) for rows in members]
        time = max(len(layout.tokens) for layout in layouts)
        owners = _filled([layout.owners for layout in layouts], time, PADDING, base.device)
        learned = [(member, *place) for member, layout in enumerate(layouts) for place in layout.learned]
        member, place, label = torch.tensor(learned, device=base.device).unbind(1)
        with _head_sees(base.network, member, place):
            answer = logits(
                base.network,
                input_ids=_filled([layout.tokens for layout in layouts], time, base.pad_id, base.device),
                position_ids=_filled([layout.positions for layout in layouts], time, 0, base.device),
                attention_mask=_mask(owners)[:, None],
            )
        losses = cross_entropy(answer[0], label, reduction="none")
        return torch.zeros(len(layouts), device=base.device).index_add(0, member, losses)


def _filled(rows: Sequence[list[int]], time: int, value: int, device: torch.device) -> torch.Tensor:
    return torch.tensor([row + [value] * (time - len(row)) for row in rows], device=device)


def _mask(owners: torch.Tensor) -> torch.Tensor:
    """Return what each place sees, [members, time, time]: itself, its row before it and the prefix."""
    time = owners.shape[1]
    before = torch.ones(time, time, dtype=torch.bool, device=owners.device).tril()
    return before & ((owners[:, :, None] == owners[:, None, :]) | (owners[:, None, :] == PREFIX))


@contextmanager
def _head_sees(network: Any, member: torch.Tensor, place: torch.Tensor) -> Iterator[None]:
    """Have the output layer compute the logits of some places only, as [1, places, vocabulary]."""

    def gather(_module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (inputs[0][member, place][None], *inputs[1:])

    handle = network.get_output_embeddings().register_forward_pre_hook(gather)
    try:
        yield
    finally:
        handle.remove()
