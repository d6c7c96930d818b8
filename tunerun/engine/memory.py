"""How much memory tuning takes, estimated from what a base model's config says of it. Light: no torch, no weights.

The estimate is above what is measured, by half at most in the cases of docs/memory.md: what a plan accepts should run.
docs/memory.md has formula, table and measurements.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType

from tunerun.engine import pass_limits, precision
from tunerun.engine.model_shape import ModelShape

GIB = 1 << 30

FOUR_BITS = 0.55
"""Bytes of a number of a linear layer in NF4: half a byte, and 0.127 bits for the constants of its block (QLoRA, arXiv
2305.14314, section 3), rounded up."""

LEARNED = 16
"""Bytes of a number that learns: itself, its gradient and AdamW's two moments, each fp32."""

LEARNED_TOGETHER = 24
"""The same in a pack, whose adapters are stacked for each pass: an fp32 copy of the number, and one of its gradient."""

LOGITS_KEPT, LOGITS_MEASURED = 3, 2
"""fp32 copies of the logits of a step, and of a measurement: themselves, their logarithms, and the gradient."""

RUNTIME = 0.45 * GIB
"""What a process has before any model, and what loading one leaves: torch, transformers and PEFT on a CPU (measured,
docs/memory.md); a CUDA device's context and kernels count as much, which was not measured."""

UNUSED: Mapping[str, float] = MappingProxyType({"cpu": 1.8})
"""Memory that the allocator takes for the values of a pass, as a multiple of what they need. On a CPU, glibc's cannot
reuse the place of a freed tensor for the next one of its size, because both are aligned (measured, docs/memory.md)."""

UNUSED_ELSEWHERE = 1.2
"""The same of torch's own allocators for other devices. Our choice, not measured: no such device was at hand."""


@dataclass(frozen=True)
class Workload:
    """What is computed at once, as far as memory depends on it.

    Attributes:
        number_format: of the frozen weights, as `precision` has it.
        is_quantised: whether linear layers are stored in 4 bits.
        device: cpu, cuda or mps.
        adapter_rank: the largest of the trials.
        rows: of one trial in a pass: the batch, or `backend.micro_batch` where that is less.
        tokens: of one row, prompt and output; the longest that is to fit.
        learned: tokens of one row's output.
        shared: tokens that all rows begin with and that are computed once.
        gradient_checkpointing: whether inner values are computed again for the gradient.
    """

    number_format: str = precision.FLOAT32
    is_quantised: bool = False
    device: str = "cpu"
    adapter_rank: int = 8
    rows: int = 4
    tokens: int = 256
    learned: int = 32
    shared: int = 0
    gradient_checkpointing: bool = False


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of memory, by what needs them.

    Attributes:
        runtime: the process before it has a model.
        weights: of the frozen base model, once for all trials of a pack.
        adapters: with gradients and optimiser.
        activations: what a pass keeps for the gradient, with the gradients that are there for a moment.
        logits: of the learned tokens, with what the loss keeps of them.
        mask: of what each token may see.
    """

    runtime: int
    weights: int
    adapters: int
    activations: int
    logits: int
    mask: int

    @property
    def total(self) -> int:
        """All together."""
        return sum(getattr(self, part.name) for part in fields(self))


def estimate(shape: ModelShape, work: Workload, members: int = 1, *, with_unused: bool = True) -> MemoryEstimate:
    """Estimate the most memory that tuning takes.

    Args:
        members: trials that train in one pass.
        with_unused: whether memory counts that an allocator takes and cannot use; without it the estimate may be low.
    """
    layer = _layer_bytes(shape, work)
    kept, masks = shape.layers * layer, shape.layers
    if work.gradient_checkpointing:
        kept, masks = shape.layers * 4 * shape.width + layer, 1  # each layer's input, and one layer at a time
    step = _Pass.of(work, members, work.shared + work.rows * (work.tokens - work.shared), shape.vocabulary)
    measured = _Pass.of(work, members, math.inf, shape.vocabulary)
    training = (
        step.tokens * (kept + _passing_bytes(shape)),
        step.logits * 4 * LOGITS_KEPT,
        step.pairs * (1 + 4 * masks),
    )
    measuring = (measured.tokens * _passing_bytes(shape), measured.logits * 4 * LOGITS_MEASURED, measured.pairs * 5)
    unused = UNUSED.get(work.device, UNUSED_ELSEWHERE) if with_unused else 1.0
    activations, logits, mask = (int(unused * part) for part in max(training, measuring, key=sum))
    learns = LEARNED if members == 1 else LEARNED_TOGETHER
    adapters = members * work.adapter_rank * shape.adapter_width * learns
    return MemoryEstimate(int(RUNTIME), _weight_bytes(shape, work), adapters, activations, logits, mask)


@dataclass(frozen=True)
class _Pass:
    """What a pass holds: tokens, pairs of tokens that attention computes, numbers of the output layer."""

    tokens: float
    pairs: float
    logits: float

    @classmethod
    def of(cls, work: Workload, members: int, tokens: float, vocabulary: int) -> _Pass:
        """Return what a pass holds of trials with so many tokens each; a row is never divided.

        A pass with shorter rows takes more of the trials, so the limits count, not how many of the longest are in it.
        """
        most = pass_limits.most_tokens(work.device)
        own = max(work.tokens, min(tokens, most))
        computed = (work.shared + work.rows * (work.tokens - work.shared)) / (work.rows * work.tokens)
        limit = computed * pass_limits.most_tokens_together(work.device)
        several = min(members * own, limit, pass_limits.FULL_MEMBERS * most)
        together = max(several, own if math.isfinite(limit) else members * work.tokens)
        one_row_each = together / own * work.learned * vocabulary
        return cls(
            tokens=together,
            pairs=together * own,
            logits=min(together / work.tokens * work.learned * vocabulary, max(pass_limits.LOGITS, one_row_each)),
        )


def members_that_fit(shape: ModelShape, work: Workload, available: int, most: int) -> int:
    """Return how many trials may share a pass.

    Args:
        available: bytes of memory for the whole process.
        most: trials that there are.

    Returns:
        At most `most`; 0: not even one fits.
    """
    found = bisect_right(range(1, most + 1), available, key=lambda members: estimate(shape, work, members).total)
    return max(0, found)


def _weight_bytes(shape: ModelShape, work: Workload) -> int:
    number = precision.BYTES[work.number_format]
    if not work.is_quantised:
        return shape.parameters * number
    return int(shape.linear_parameters * FOUR_BITS + (shape.parameters - shape.linear_parameters) * number)


def _layer_bytes(shape: ModelShape, work: Workload) -> float:
    """What one layer keeps of one token for the gradient.

    Two states of the residual stream and what its norms make of them; queries, keys and values, repeated for all
    heads, and the attention's answer; of the MLP the gate before and after its activation, what it multiplies, and the
    product.
    Norms of queries and keys, and behind layers, keep as much again as a norm does: half is added. In another number
    format than fp32 each adapter keeps an fp32 copy of its input beside that.
    """
    numbers = 6 * shape.width + 5 * shape.attention + 4 * shape.inner
    size = precision.BYTES[work.number_format]
    copies = 0 if work.number_format == precision.FLOAT32 else 4 * (7 * shape.width + shape.attention + shape.inner)
    return size * numbers + copies


def _passing_bytes(shape: ModelShape) -> float:
    """What is there for a moment of one token: the gradients inside of one layer's MLP, or its values."""
    return 4 * (4 * shape.inner + 4 * shape.width)
