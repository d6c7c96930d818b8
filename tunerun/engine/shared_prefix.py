"""The common prefix of several sequences, computed once for all of them.

The prefix is kept as the network's key-value cache, if that holds keys and values of every position, as in most
architectures. With other caches (a sliding window, a recurrent state) every sequence is computed whole; the results are
the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tunerun.engine.network import LoadedModel

LEAST_TOKENS = 8
"""The shortest prefix that gets a pass of its own. Our choice, not measured: a shorter one costs more than it saves."""


def length(sequences: Sequence[list[int]]) -> int:
    """Return the length of the common prefix of sequences, in tokens; at least one token of each is not counted."""
    # Each sequence needs a token of its own to compute logits from. The prefix that the first and the last sequence in
    # lexicographic order have in common is common to all between them.
    first, last = min(sequences), max(sequences)
    most = min(map(len, sequences)) - 1
    return next((place for place in range(most) if first[place] != last[place]), most)


class Prefix:
    """The keys and values of a prefix.

    Args:
        layers: the keys and the values of each layer, [1, heads, tokens, head size].
        tokens: the length of the prefix.

    Attributes:
        tokens: the length of the prefix.
    """

    def __init__(self, layers: Sequence[tuple[torch.Tensor, torch.Tensor]], tokens: int) -> None:
        self._layers = layers
        self.tokens = tokens

    def cache(self, rows: int) -> Any:
        """Return a new transformers cache with the prefix in each row; a forward pass may append to it.

        Args:
            rows: the batch size. The rows share memory until then.
        """
        from transformers import DynamicCache

        cache = DynamicCache()
        for number, (keys, values) in enumerate(self._layers):
            cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), number)
        return cache


def compute(base: LoadedModel, ids: Sequence[int], prefix: Prefix | None = None) -> Prefix | None:
    """Compute the keys and values of a prefix, with the adapter that is attached to the network.

    Gradients flow through them unless the caller disables gradients.

    Args:
        base: the base model.
        ids: the tokens.
        prefix: a prefix before the tokens; None: the tokens are the start of the sequence.

    Returns:
        The prefix of both together; None if the network's cache does not hold keys and values of every position.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    kept = {"logits_to_keep": 1} if base.keeps_logits else {}
    past = {} if prefix is None else {"past_key_values": prefix.cache(1)}
    tokens = torch.tensor([list(ids)], device=base.device)
    cache = getattr(base.network(input_ids=tokens, use_cache=True, **past, **kept), "past_key_values", None)
    if not isinstance(cache, DynamicCache) or any(type(layer) is not DynamicLayer for layer in cache.layers):
        return None
    total = len(ids) + (0 if prefix is None else prefix.tokens)
    layers = [(layer.keys, layer.values) for layer in cache.layers]
    if any(keys is None or keys.shape[-2] != total for keys, _values in layers):
        return None
    return Prefix(layers, total)
