"""Size limits of a pass of a base model. Imports no torch: the memory estimate of `plan` uses these limits too."""

from __future__ import annotations

import math

CPU_TOKENS, TOKENS = 512, 2048
"""The most tokens of one trial in a pass on a CPU and elsewhere; a prefix that its rows share is not counted.

Attention computes every pair of them, masked or not: at 2,048 tokens that is two thirds of the work of SmolLM2-135M's
weights, plus memory for the mask. A CPU gains nothing from more than 512; a GPU needs more to be kept busy."""

FULL_MEMBERS = 4
"""Up to this many trials each get the full token limit; with more, the limit shrinks so that memory does not grow."""

_TOGETHER = {"cpu": 896}
"""The most tokens of all trials in a pass by device type, shared prefixes counted for each row; elsewhere memory is
the limit. A CPU gains nothing from a wider pass but has to keep its activations for the backward pass: twelve trials of
200 tokens in one pass took 2.9 times the memory of one trial (SmolLM2-135M)."""

LOGITS = 2**27
"""The most logits of a pass, learned tokens times the vocabulary: 0.5 GB in float32."""


def most_tokens(device: str) -> int:
    """Return the most tokens of one trial in a pass, by device type (`cpu`, `cuda`, `mps`)."""
    return CPU_TOKENS if device == "cpu" else TOKENS


def most_tokens_together(device: str) -> float:
    """Return the most tokens of several trials in a pass, prefix sharing not subtracted; infinity: no limit."""
    return _TOGETHER.get(device, math.inf)


_MEMBERS = {"cpu": 8, "mps": 8, "cuda": 16}
"""Training runs that share a pass with `packing: auto`, by device type. Our choice: on a CPU 8 have all of the gain."""


def most_members(packing: str | int, device: str) -> int:
    """Return how many training runs `backend.packing` allows in a pass, before memory is considered."""
    return packing if isinstance(packing, int) else {"off": 1, "auto": _MEMBERS[device]}[packing]
