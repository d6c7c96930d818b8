"""An estimate of the memory that tuning takes, from a base model's config. Imports no torch and reads no weights.

The estimate is too high rather than too low, because a plan that is accepted should run: it exceeds what was measured
by at most half. docs/memory.md has the formula, a table and the measurements.
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
"""Bytes per parameter of a linear layer in NF4: half a byte, and 0.127 bits for the constants of its block (QLoRA,
arXiv 2305.14314, section 3), rounded up."""

LEARNED = 16
"""Bytes per trained parameter: itself, its gradient and AdamW's two moments, each fp32."""

LEARNED_TOGETHER = 24
"""The same in a pack, whose adapters are stacked for each pass: another fp32 copy of the parameter and its gradient."""

LOGITS_KEPT, LOGITS_MEASURED = 3, 2
"""fp32 copies of the logits in a training pass (logits, log probabilities, gradient) and in a validation pass."""

RUNTIME = 0.45 * GIB
"""Bytes of a process without a model, and of what loading one leaves behind: torch, transformers and PEFT on a CPU
(measured, docs/memory.md). The same is counted for a CUDA device's context and kernels, which was not measured."""

UNUSED: Mapping[str, float] = MappingProxyType({"cpu": 1.8})
"""Memory that the allocator takes for the values of a pass, as a multiple of their size. On a CPU, glibc's allocator
cannot reuse the place of a freed tensor for the next one of its size, because both are aligned (measured,
docs/memory.md)."""

UNUSED_ELSEWHERE = 1.2
"""The same for torch's own allocators on other devices. Our choice, not measured: no such device was at hand."""


@dataclass(frozen=True)
class Workload:
    """What a pass of the base model computes, as far as memory depends on it.

    Attributes:
        number_format: of the frozen weights; see `precision`.
        is_quantised: whether linear layers are stored in 4 bits.
        device: cpu, cuda or mps.
        adapter_rank: the largest rank of the trials.
        rows: the rows of one trial in a pass: the batch, or `backend.micro_batch` if that is less.
        tokens: the length of the longest row, prompt and output.
        learned: the length of one row's output, in tokens.
        shared: the length of the prefix that all rows have in common and that is computed once, in tokens.
        gradient_checkpointing: whether activations inside layers are recomputed in the backward pass.
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
    """The peak memory of tuning by purpose, in bytes.

    Attributes:
        runtime: the process without a model.
        weights: the frozen base model, once for all trials of a pack.
        adapters: with their gradients and optimiser states.
        activations: what a pass keeps for the backward pass, and the gradients inside one layer.
        logits: of the learned tokens, with what the loss keeps of them.
        mask: the attention masks.
    """

    runtime: int
    weights: int
    adapters: int
    activations: int
    logits: int
    mask: int

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return sum(getattr(self, part.name) for part in fields(self))


def estimate(shape: ModelShape, work: Workload, members: int = 1, *, with_unused: bool = True) -> MemoryEstimate:
    """Estimate the peak memory of tuning.

    Args:
        shape: the sizes of the base model.
        work: of one trial.
        members: how many trials share a pass.
        with_unused: whether to count memory that an allocator takes and cannot use; without it the estimate may be low.
    """
    layer = _layer_bytes(shape, work)
    kept, masks = shape.layers * layer, shape.layers
    if work.gradient_checkpointing:
        kept, masks = shape.layers * 4 * shape.width + layer, 1  # each layer's input, and one layer at a time

    # A validation pass keeps nothing for a backward pass but is filled up to the limit, so either may be the peak.
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

    number = precision.BYTES[work.number_format]
    weights = shape.parameters * number
    if work.is_quantised:
        weights = int(shape.linear_parameters * FOUR_BITS + (shape.parameters - shape.linear_parameters) * number)
    learns = LEARNED if members == 1 else LEARNED_TOGETHER
    adapters = members * work.adapter_rank * shape.adapter_width * learns
    return MemoryEstimate(int(RUNTIME), weights, adapters, activations, logits, mask)


@dataclass(frozen=True)
class _Pass:
    """The size of a pass: tokens, pairs of tokens that attention computes, and logits."""

    tokens: float
    pairs: float
    logits: float

    @classmethod
    def of(cls, work: Workload, members: int, tokens: float, vocabulary: int) -> _Pass:
        """Return the size of the largest pass of trials with `tokens` tokens each; a row is never divided."""
        # Passes with shorter rows hold more trials, so the limits of a pass decide, not how many long rows fit.
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
    """Return how many trials can share a pass within a limit of memory.

    Args:
        shape: the sizes of the base model.
        work: of one trial.
        available: memory for the whole process, in bytes.
        most: the number of trials.

    Returns:
        At most `most`; 0: not even one fits.
    """
    return bisect_right(range(1, most + 1), available, key=lambda members: estimate(shape, work, members).total)


def _layer_bytes(shape: ModelShape, work: Workload) -> float:
    """Return what one layer keeps of one token for the backward pass, in bytes."""
    # Two states of the residual stream and the outputs of their norms; queries, keys and values, repeated for all
    # heads, and the output of attention; in the MLP the gate before and after its activation, its factor, and the
    # product. Some architectures also normalise queries and keys, or the outputs of layers; half of that is added.
    numbers = 6 * shape.width + 5 * shape.attention + 4 * shape.inner
    size = precision.BYTES[work.number_format]
    # In another number format than fp32, each adapter keeps an fp32 copy of its input.
    copies = 0 if work.number_format == precision.FLOAT32 else 4 * (7 * shape.width + shape.attention + shape.inner)
    return size * numbers + copies


def _passing_bytes(shape: ModelShape) -> float:
    """Return what exists for one token while one layer is computed, in bytes: values or gradients inside its MLP."""
    return 4 * (4 * shape.inner + 4 * shape.width)
