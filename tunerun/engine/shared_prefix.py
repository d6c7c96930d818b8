"""The tokens that sequences begin with alike, put through the network once for all of them.

What the network keeps of them is its key-value cache. It is used where it is plain: keys and values of every position,
as most architectures have it. Others (a sliding window, a recurrent state) compute every sequence whole, with the same
numbers up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tunerun.engine.network import LoadedModel

LEAST_TOKENS = 8
"""Of a prefix that is worth it. Our choice, not measured: below it a pass of its own costs more than it saves."""


def length(sequences: Sequence[list[int]]) -> int:
    """Return how many tokens sequences begin with alike; each keeps one of its own at least."""
    first, last = min(sequences), max(sequences)  # in the order of words: what these two share, all share
    most = min(map(len, sequences)) - 1
    return next((place for place in range(most) if first[place] != last[place]), most)


class Prefix:
    """What the network keeps of some tokens, for one row.

    Attributes:
        tokens: how many they are.
    """

    def __init__(self, layers: Sequence[tuple[torch.Tensor, torch.Tensor]], tokens: int) -> None:
        self._layers = layers
        self.tokens = tokens

    def cache(self, rows: int) -> Any:
        """Return a cache of transformers' that begins with the tokens in each of some rows; it may be added to."""
        from transformers import DynamicCache

        cache = DynamicCache()
        for number, (keys, values) in enumerate(self._layers):
            cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), number)
        return cache


def compute(base: LoadedModel, ids: Sequence[int], behind: Prefix | None = None) -> Prefix | None:
    """Put tokens through the network, with the adapter that is on it, and keep what comes of them.

    Gradients flow through it, where the caller wants any.

    Args:
        behind: what stands before the tokens; None: nothing.

    Returns:
        What the network keeps of both; None: it keeps it in another form.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    kept = {"logits_to_keep": 1} if base.keeps_logits else {}
    past = {} if behind is None else {"past_key_values": behind.cache(1)}
    tokens = torch.tensor([list(ids)], device=base.device)
    cache = getattr(base.network(input_ids=tokens, use_cache=True, **past, **kept), "past_key_values", None)
    if not isinstance(cache, DynamicCache) or any(type(layer) is not DynamicLayer for layer in cache.layers):
        return None
    total = len(ids) + (0 if behind is None else behind.tokens)
    layers = [(layer.keys, layer.values) for layer in cache.layers]
    if any(keys is None or keys.shape[-2] != total for keys, _values in layers):
        return None
    return Prefix(layers, total)
