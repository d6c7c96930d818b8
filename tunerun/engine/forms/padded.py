"""Padded rows: one row per batch index, the shorter ones padded. Right for every architecture; for one trial only."""

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
    """One row per batch index, padded on the right; see `Form`."""

    name = "padded"

    def row_losses(
        self, base: LoadedModel, members: Sequence[Sequence[EncodedExample]], prefix: Prefix | None = None
    ) -> torch.Tensor:
        """Compute the loss of each row; see `Form`."""
        (rows,) = members
        batch = collate(rows, base.pad_id, base.device)
        inputs: dict[str, Any] = {"logits_to_keep": batch.kept} if base.keeps_logits else {}
        if prefix is not None:  # right padding needs no attention mask, with or without a cache; see `collate`
            inputs["past_key_values"] = prefix.cache(len(rows))
        scores = logits(base.network, use_cache=prefix is not None, input_ids=batch.tokens, **inputs)[:, -batch.kept :]
        losses = cross_entropy(scores.flatten(0, 1), batch.labels.flatten(), reduction="none")
        return losses.view(batch.labels.shape).sum(1)

    def size(self, rows: Sequence[EncodedExample]) -> int:
        """Return how many tokens a pass computes for some rows; see `Form`."""
        return len(rows) * (max(map(len, rows)) - 1)


class PrefixCache(Form):
    """The rows' common prefix in a key-value cache through which gradients flow, the rest padded; see `Form`.

    Right for every architecture that keeps keys and values of all tokens, also where it takes positions from the order
    of the tokens (such as ALiBi), which packed rows would break.
    """

    name = "prefix cache"

    def row_losses(
        self, base: LoadedModel, members: Sequence[Sequence[EncodedExample]], prefix: Prefix | None = None
    ) -> torch.Tensor:
        """Compute the loss of each row; see `Form`."""
        (rows,) = members
        shared = _shared(rows)
        if shared >= shared_prefix.LEAST_TOKENS:
            prefix = shared_prefix.compute(base, rows[0].prompt[:shared], prefix)
            if prefix is None:
                raise UnfitError
            rows = [row.without(shared) for row in rows]
        return Padded().row_losses(base, [rows], prefix)

    def size(self, rows: Sequence[EncodedExample]) -> int:
        """Return how many tokens a pass computes for some rows; see `Form`."""
        shared = _shared(rows)
        return len(rows) * (max(map(len, rows)) - 1 - shared)


def _shared(rows: Sequence[EncodedExample]) -> int:
    """Return how many common first tokens can be cached."""
    if len(rows) < 2:
        return 0
    common = shared_prefix.length([row.prompt for row in rows])
    # The token before the first learned one stays outside, because its logits are needed.
    return max(0, min(common, *(row.first - 1 for row in rows)))
