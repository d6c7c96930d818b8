"""The division of rows into parts, each small enough for one pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from tunerun.engine.encoding import EncodedExample
from tunerun.engine.forms.probe import choose
from tunerun.engine.network import LoadedModel
from tunerun.engine.pass_limits import FULL_MEMBERS, LOGITS, most_tokens


def parts(
    base: LoadedModel, rows: Sequence[EncodedExample], *, members: int = 1, most_rows: int | None = None
) -> list[list[int]]:
    """Divide rows so that each part is within the limits of a pass, or is a single row.

    Args:
        base: the base model.
        rows: of one trial.
        members: the number of trials that share the pass; more trials get smaller parts.
        most_rows: the most rows of a part; None: limited by tokens and logits only.

    Returns:
        The positions of each part's rows; every row is in exactly one part, and rows that are cheap to compute together
        are in the same one. Parts have similar numbers of rows.
    """
    form = choose(base)
    vocabulary = base.network.get_output_embeddings().weight.shape[0]
    tokens = min(1.0, FULL_MEMBERS / members) * most_tokens(base.device.type)
    logits = LOGITS / members

    def divided(chosen: list[int]) -> list[list[int]]:
        part = [rows[position] for position in chosen]
        needed = max(
            form.size(part) / tokens,
            sum(row.learned for row in part) * vocabulary / logits,
            len(part) / (most_rows or len(part)),
        )
        count = min(math.ceil(needed), len(part))
        if count <= 1:
            return [chosen]
        edges = [len(part) * number // count for number in range(count + 1)]
        return [one for start, stop in pairwise(edges) for one in divided(chosen[start:stop])]

    return divided(form.order(rows)) if rows else []
