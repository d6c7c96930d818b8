"""Limits of the batches in which answers are generated."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BatchLimits:
    """How many rows, tokens and adapters share a pass of the network. Answers are the same up to rounding.

    Attributes:
        rows: the most rows of a decoding step.
        prefill_tokens: the most tokens of a prefill pass, unless a single row has more.
        enough_tokens: a prefill pass of this many tokens takes no rows of another adapter and no much shorter rows.
        cache_bytes: the most memory of a batch's cache; for large models a quarter of the weights, if that is more.
        mixed_ranks: the largest sum of the ranks of a batch's different adapters.
    """

    # Measured 2026-11-26 with SmolLM2-135M on one thread of a CPU, ms per row: 16 rows 10.2, 32 6.6, 64 5.7, 100 6.0,
    # 128 5.9, 256 6.2. Steps of one adapter at a time were tried: 35.5 s instead of 35.3 s for 300 rows.
    rows: int = 128

    # Measured on the same CPU, s for 100 prompts of banking77: 256 7.7, 512 7.4, 1024 7.6, 2048 8.0; larger passes
    # multiply no faster and need more padding.
    prefill_tokens: int = 512

    # Measured 2026-11-26 on banking77's prompts, 19 own tokens on average behind a prefix of 24: padding adds 15 %. The
    # cheapest division into passes (dynamic programming, 40 tokens for each pass) would save 3 % of the prefill.
    enough_tokens: int = 256

    # Our choice: 128 rows of 85 tokens of SmolLM2-135M in float32, whose cache takes 46 KB per token.
    cache_bytes: int = 512 * 2**20

    # Our choice: mixing keeps a second, stacked copy of the matrices, which is 320 MB for SmolLM2-135M; the time of a
    # step does not grow with the ranks.
    mixed_ranks: int = 256


DEFAULT = BatchLimits()
