"""The likelihood of stated outputs as answers of a base model or of a tuned model.

The loss is the one of training: over the tokens of the output and its end token, after the same prompt as in
generation. Up to rounding, a row's loss does not depend on the other rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from tunerun.engine import forms, passes, shared_prefix
from tunerun.engine.adapters import LoadedAdapters, adapters_on
from tunerun.engine.chat_encoder import ChatEncoder
from tunerun.engine.encoding import EncodedExample
from tunerun.engine.failures import DivergedError
from tunerun.engine.network import LoadedModel, chat_of
from tunerun.errors import InputError
from tunerun.examples import Example, Input
from tunerun.generation import Likelihood


def measure(
    base: LoadedModel,
    loaded: LoadedAdapters,
    rows: Sequence[tuple[Input, Sequence[str]]],
    adapter: Path | None = None,
    examples: Sequence[Example] = (),
    between_passes: Callable[[], None] = lambda: None,
) -> list[list[Likelihood]]:
    """Measure the likelihood of each stated output as the answer to its input.

    Args:
        base: the base model, with no adapter attached.
        loaded: the cache of adapters.
        rows: each an input and the outputs to measure for it.
        adapter: the tuned model's folder; None: the base model itself.
        examples: earlier turns to put before those of every input.
        between_passes: called before each pass of the network.

    Returns:
        For each row and each of its outputs the loss in nats and the number of tokens.

    Raises:
        NotFoundError, BaseModelError: the tuned model is missing or belongs to another base model.
        NoTurnsError: there are earlier turns or a system message, and the chat format has no place for them.
        InputError: some rows are longer than the base model's context; nothing is measured then.
        DivergedError: a loss is NaN or infinite.
    """
    encoder = ChatEncoder(base.tokenizer, *chat_of(adapter, base))
    on_all = None if adapter is None else loaded.get(adapter)
    prompts = encoder.prompts([model_input for model_input, _outputs in rows], examples)
    encoded = [
        [EncodedExample(prompt, target) for target in encoder.targets(outputs)]
        for prompt, (_input, outputs) in zip(prompts, rows, strict=True)
    ]

    # Before the first pass, so that a row at the end does not waste the work on the others.
    limit = base.context_tokens
    longest = {number: max(map(len, row), default=0) for number, row in enumerate(encoded, start=1)}
    too_long = [number for number, length in longest.items() if limit is not None and length > limit]
    if too_long:
        raise InputError(
            f"{len(too_long)} of {len(encoded)} inputs cannot be measured; number {too_long[0]}: it takes "
            f"{longest[too_long[0]]} tokens with its output and the chat format around them, more than the base "
            f"model's {limit} tokens; shorten it, or choose another base model"
        )

    forms.choose(base)  # before an adapter is attached, because the choice attaches its own
    with torch.no_grad(), adapters_on(base.network, [on_all]):
        losses = iter(_losses(base, [one for row in encoded for one in row], between_passes))
    return [[Likelihood(next(losses), len(one.target)) for one in row] for row in encoded]


def _losses(base: LoadedModel, rows: Sequence[EncodedExample], between_passes: Callable[[], None]) -> list[float]:
    """Return the loss of each row in nats; the common prefix of all prompts is computed once."""
    form = forms.choose(base)
    shared = shared_prefix.length([row.prompt for row in rows]) if len(rows) > 1 and form.can_follow else 0
    prefix = shared_prefix.compute(base, rows[0].prompt[:shared]) if shared >= shared_prefix.LEAST_TOKENS else None
    if prefix is not None:
        rows = [row.without(shared) for row in rows]
    losses = [0.0] * len(rows)
    for part in passes.parts(base, rows):
        between_passes()
        nats = form.row_losses(base, [[rows[position] for position in part]], prefix)
        for position, one in zip(part, nats.tolist(), strict=True):
            losses[position] = one
    if not all(map(math.isfinite, losses)):
        unusable = next(one for one in losses if not math.isfinite(one))
        raise DivergedError(f"the loss of an expected output is {unusable}; the model's weights are not usable")
    return losses
