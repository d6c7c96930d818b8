"""Rows side by side, the shorter ones filled up: right for every architecture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import cross_entropy

from tunerun.engine.encoding import EncodedExample, collate
from tunerun.engine.forms.base import logits
from tunerun.engine.network import LoadedModel


class Padded:
    """Rows side by side; see `Form`."""

    name = "padded"
    takes_packs = False

    def losses(self, base: LoadedModel, members: Sequence[Sequence[EncodedExample]]) -> torch.Tensor:
        """Compute the loss of one trial's rows; see `Form`."""
        (rows,) = members
        batch = collate(rows, base.pad_id, base.device)
        kept = {"logits_to_keep": batch.kept} if base.keeps_logits else {}
        answer = logits(base.network, input_ids=batch.tokens, **kept)[:, -batch.kept :]
        return cross_entropy(answer.flatten(0, 1), batch.labels.flatten(), reduction="sum")[None]
