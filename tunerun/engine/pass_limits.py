"""How much a pass of a base model holds at most. Light: the estimate of memory counts with it, without torch."""

from __future__ import annotations

import math

CPU_TOKENS, TOKENS = 512, 2048
"""Of a trial in a pass, without those that its rows share. Attention computes every pair of them, whether or not one
sees the other: at 2,048 that costs SmolLM2-135M two thirds of its weights' work, and memory for the mask. A CPU gains
nothing from more than 512; a GPU is kept busy by more."""

FULL_MEMBERS = 4
"""Trials of a pack that have that many; more of them have fewer, so that a pass needs as much memory."""

_TOGETHER = {"cpu": 896}
"""Tokens of all trials in a pass, as if their rows shared nothing, by device; elsewhere memory is the limit. A CPU
gains nothing from a wider pass, and keeps what the gradient needs of it: twelve trials of 200 tokens in one pass took
2.9 times the memory of one trial (SmolLM2-135M)."""

LOGITS = 2**27
"""Numbers that the output layer computes in a pass, 0.5 GB: learned tokens times the vocabulary."""


def most_tokens(device: str) -> int:
    """Return how many tokens of a trial a pass holds on a kind of device, such as `cpu`."""
    return CPU_TOKENS if device == "cpu" else TOKENS


def most_tokens_together(device: str) -> float:
    """Return how many tokens of several trials a pass holds, as if their rows shared nothing; infinity: no limit."""
    return _TOGETHER.get(device, math.inf)


_MEMBERS = {"cpu": 8, "mps": 8, "cuda": 16}
"""Training runs that share a pass by themselves, by device. Our choice: on a CPU a pass of 8 has all of the gain."""


def most_members(packing: str | int, device: str) -> int:
    """Return how many training runs share a pass by `backend.packing`, whatever fits into memory."""
    return packing if isinstance(packing, int) else {"off": 1, "auto": _MEMBERS[device]}[packing]
