"""Rows side by side, the shorter ones filled up: right for every architecture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from tunerun.engine import shared_prefix
from tunerun.engine.encoding import EncodedExample, collate
from tunerun.engine.forms.base import Form, UnfitError, logits
from tunerun.engine.network import LoadedModel
from tunerun.engine.shared_prefix import Prefix


class Padded(Form):
    """Rows side by side; see `Form`."""

    name = "padded"

    def row_losses(
        self, base: LoadedModel, members: Sequence[Sequence[EncodedExample]], behind: Prefix | None = None
    ) -> torch.Tensor:
        """Compute the loss of each row; see `Form`."""
        (rows,) = members
        batch = collate(rows, base.pad_id, base.device)
        inputs: dict[str, Any] = {"logits_to_keep": batch.kept} if base.keeps_logits else {}
        if behind is not None:  # padding is on the right, so that it needs no attention mask, with a cache neither
            inputs["past_key_values"] = behind.cache(len(rows))
        answer = logits(base.network, use_cache=behind is not None, input_ids=batch.tokens, **inputs)[:, -batch.kept :]
        losses = cross_entropy(answer.flatten(0, 1), batch.labels.flatten(), reduction="none")
        return losses.view(batch.labels.shape).sum(1)

    def size(self, rows: Sequence[EncodedExample]) -> int:
        """Return how many tokens a pass computes for some rows; see `Form`."""
        return len(rows) * (max(map(len, rows)) - 1)


class PrefixCache(Form):
    """What rows begin with in a cache of keys and values through which gradients flow, the rest side by side.

    Right for every architecture that keeps the keys and values of all tokens, whatever it does with their distances.
    """

    name = "prefix cache"

    def row_losses(
        self, base: LoadedModel, members: Sequence[Sequence[EncodedExample]], behind: Prefix | None = None
    ) -> torch.Tensor:
        """Compute the loss of each row; see `Form`."""
        (rows,) = members
        shared = _shared(rows)
        if shared >= shared_prefix.LEAST_TOKENS:
            found = shared_prefix.compute(base, rows[0].prompt[:shared], behind)
            if found is None:
                raise UnfitError
            behind, rows = found, [row.without(shared) for row in rows]
        return Padded().row_losses(base, [rows], behind)

    def size(self, rows: Sequence[EncodedExample]) -> int:
        """Return how many tokens a pass computes for some rows; see `Form`."""
        shared = _shared(rows)
        return len(rows) * (max(map(len, rows)) - 1 - shared)


def _shared(rows: Sequence[EncodedExample]) -> int:
    """Return how many tokens rows begin with alike, before the last one in front of something that is learned."""
    if len(rows) < 2:
        return 0
    common = shared_prefix.length([row.prompt for row in rows])
    return max(0, min(common, *(row.first - 1 for row in rows)))
