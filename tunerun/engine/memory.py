"""How much memory tuning takes, estimated from what a base model's config says of it. Light: no torch, no weights.

It is meant to be above what is measured, by a third at most (docs/memory.md has formula, table and measurements): a
plan that is let through should run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType

from tunerun.engine.model_facts import ModelShape

GIB = 1 << 30

BYTES_OF_WEIGHT: Mapping[str, float] = MappingProxyType({"fp32": 4, "bf16": 2, "4bit": 0.55})
"""By precision. 4bit (NF4): half a byte, and 4 bytes for each block of 64 numbers, themselves stored in one byte
(QLoRA, arXiv 2305.14314, section 3: 0.127 bits a parameter); rounded up. It is for linear layers alone."""

BYTES_OF_LEARNED = 16
"""Of a number that learns: itself, its gradient and AdamW's two moments, each fp32."""

BYTES_OF_LEARNED_TOGETHER = 24
"""The same in a pack, whose adapters are stacked for each pass: an fp32 copy of the number, and one of its gradient."""

VALIDATION_ROWS = 16
"""Held-out rows that are measured at once; as `training_run.VALIDATION_ROWS`, which imports torch."""

RUNTIME = {"cpu": 0.6 * GIB, "cuda": 0.6 * GIB}
"""What a process has before any model: on the CPU, torch, transformers and PEFT; on a CUDA device, its context and
kernels."""


@dataclass(frozen=True)
class Settings:
    """How trials are computed, as far as memory depends on it.

    Attributes:
        precision: of the frozen weights: fp32, bf16, or 4bit, which computes in bf16.
        device: cpu or cuda; anything else counts as cpu.
        adapter_rank: the largest of the trials.
        rows: computed at once: the batch, or `backend.micro_batch` where that is less.
        tokens: of one row, prompt and output; the longest that is to fit.
        learned: tokens of one row's output.
        gradient_checkpointing: whether inner values are computed again for the gradient.
    """

    precision: str = "fp32"
    device: str = "cpu"
    adapter_rank: int = 8
    rows: int = 4
    tokens: int = 256
    learned: int = 32
    gradient_checkpointing: bool = False


@dataclass(frozen=True)
class Estimate:
    """Bytes of memory, by what needs them.

    Attributes:
        runtime: the process before it has a model.
        weights: of the frozen base model, once for all trials of a pack.
        adapters: with gradients and optimiser.
        activations: what a pass keeps for the gradient.
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


def estimate(shape: ModelShape, settings: Settings, members: int = 1) -> Estimate:
    """Estimate the most memory that tuning takes.

    Args:
        members: trials that train in one pass.
    """
    tokens = settings.rows * settings.tokens
    learned = settings.rows * settings.learned
    learns = BYTES_OF_LEARNED if members == 1 else BYTES_OF_LEARNED_TOGETHER
    layer = _layer_bytes(shape, settings)
    kept = shape.layers * layer
    if settings.gradient_checkpointing:
        kept = shape.layers * 4 * shape.width + layer  # each layer's input, and one layer at a time
    training = (
        members * tokens * (kept + _gradient_bytes(shape)),
        members * learned * shape.vocabulary * 4 * LOGITS_KEPT,
        members * tokens**2 * (1 + 4 * (1 if settings.gradient_checkpointing else shape.layers)),
    )
    held_out = VALIDATION_ROWS * settings.tokens
    measuring = (
        held_out * _gradient_bytes(shape),
        VALIDATION_ROWS * settings.learned * shape.vocabulary * 4 * LOGITS_MEASURED,
        held_out**2 * 5,
    )
    activations, logits, mask = max(training, measuring, key=sum)
    return Estimate(
        runtime=int(RUNTIME["cuda" if settings.device == "cuda" else "cpu"]),
        weights=int(_weight_bytes(shape, settings.precision)),
        adapters=members * settings.adapter_rank * shape.adapter_width * learns,
        activations=int(activations),
        logits=int(logits),
        mask=int(mask),
    )


def members_that_fit(shape: ModelShape, settings: Settings, available: int, most: int) -> int:
    """Return how many trials may share a pass.

    Args:
        available: bytes of memory for the whole process.
        most: trials that there are.

    Returns:
        At most `most`; 0: not even one fits.
    """
    alone, two = estimate(shape, settings).total, estimate(shape, settings, 2).total
    if alone > available or most < 1:
        return 0
    if two > available or most < 2:
        return 1
    more = max(1, estimate(shape, settings, 3).total - two)
    found = min(most, 2 + (available - two) // more)
    while found > 1 and estimate(shape, settings, found).total > available:
        found -= 1
    return found


LOGITS_KEPT = 3
"""fp32 copies of the logits of a step: themselves, their logarithms of probabilities, and the gradient."""

LOGITS_MEASURED = 2
"""The same where no gradient is taken."""


def _weight_bytes(shape: ModelShape, precision: str) -> float:
    if precision != "4bit":
        return shape.parameters * BYTES_OF_WEIGHT[precision]
    return (
        shape.linear_parameters * BYTES_OF_WEIGHT["4bit"]
        + (shape.parameters - shape.linear_parameters) * BYTES_OF_WEIGHT["bf16"]
    )


def _layer_bytes(shape: ModelShape, settings: Settings) -> float:
    """What one layer keeps of one token for the gradient.

    Two states of the residual stream, each with the fp32 numbers of its normalisation, and what the layers get as
    inputs; queries, keys and values (repeated for all heads, some normalised and rotated) with the attention's answer;
    of the MLP the gate before and after its activation, what it multiplies, and the product. In another precision than
    fp32 each adapter keeps an fp32 copy of its input beside that.
    """
    numbers = 6 * shape.width + 6 * shape.attention + 4 * shape.inner
    if settings.precision == "fp32":
        return 4 * numbers
    return 2 * numbers + 4 * (7 * shape.width + shape.attention + shape.inner)


def _gradient_bytes(shape: ModelShape) -> float:
    """What is there for a moment of one token: the gradients inside of one layer's MLP, or its values."""
    return 4 * (4 * shape.inner + 4 * shape.width)
