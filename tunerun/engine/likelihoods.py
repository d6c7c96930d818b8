"""How likely a base model, or one of its tuned models, is to give stated outputs as answers.

The loss is that of training: over the tokens of the output and the token that ends it, after the prompt that generation
sends. A row's number does not depend on the rows beside it but for rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from tunerun.engine.adapters import Adapter, LoadedAdapters, adapters_on
from tunerun.engine.chat_encoder import ChatEncoder
from tunerun.engine.encoding import EncodedExample, batches_by_length, collate
from tunerun.engine.failures import DivergedError
from tunerun.engine.network import LoadedModel, chat_of
from tunerun.errors import InputError
from tunerun.job import Example, Likelihood

ROWS = 16
"""Rows measured at once. Our choice, not measured: more rows need more memory for their logits."""


def measure(
    base: LoadedModel,
    loaded: LoadedAdapters,
    rows: Sequence[tuple[str, Sequence[str]]],
    adapter: Path | None = None,
    examples: Sequence[Example] = (),
) -> list[list[Likelihood]]:
    """Measure how likely each of some outputs is as the answer to an input.

    Args:
        base: the base model, which is bare before and after.
        loaded: the adapters in memory.
        rows: each an input and the outputs to measure for it.
        adapter: the tuned model's folder; None: the base model is measured.
        examples: earlier turns before every input.

    Returns:
        For each row, for each of its outputs.

    Raises:
        NotFoundError, BaseModelError: the tuned model is missing or belongs to another base model.
        NoTurnsError: there are examples, and the chat format has no place for them.
        InputError: some rows are longer than the base model's context; nothing is measured then.
        DivergedError: a loss is NaN or infinite.
    """
    encoder = ChatEncoder(base.tokenizer, chat_of(adapter, base), base.turns)
    on_all = None if adapter is None else loaded.get(adapter)
    prompts = encoder.prompts([text_input for text_input, _outputs in rows], examples)
    targets = [encoder.targets(outputs) for _text_input, outputs in rows]
    encoded = [
        EncodedExample(prompt, target)
        for prompt, its_targets in zip(prompts, targets, strict=True)
        for target in its_targets
    ]
    _check_room(base, encoded, [number for number, one in enumerate(targets, start=1) for _target in one])
    found = iter(_measured(base, on_all, encoded))
    return [[next(found) for _target in its_targets] for its_targets in targets]


def _check_room(base: LoadedModel, encoded: Sequence[EncodedExample], numbers: Sequence[int]) -> None:
    limit = base.context_tokens
    if limit is None:
        return
    lengths = {number: len(one) for number, one in zip(numbers, encoded, strict=True) if len(one) > limit}
    if lengths:
        number, length = next(iter(lengths.items()))
        raise InputError(
            f"{len(lengths)} of {max(numbers)} inputs cannot be measured; number {number}: it takes {length} tokens "
            f"with its output and the chat format around them, more than the base model's {limit} tokens; shorten it, "
            "or choose another base model"
        )


@torch.no_grad()
def _measured(base: LoadedModel, adapter: Adapter | None, encoded: Sequence[EncodedExample]) -> list[Likelihood]:
    found: dict[int, Likelihood] = {}
    for positions in batches_by_length([len(one) for one in encoded], ROWS):
        batch = collate([encoded[position] for position in positions], base.pad_id, base.device)
        with adapters_on(base.network, [adapter] * len(positions)):
            kept = {"logits_to_keep": batch.kept} if base.keeps_logits else {}
            logits = base.network(input_ids=batch.tokens, use_cache=False, **kept).logits[:, -batch.kept :]
        losses = cross_entropy(logits.float().flatten(0, 1), batch.labels.flatten(), reduction="none")
        for position, nats in zip(positions, losses.view(batch.labels.shape).sum(1).tolist(), strict=True):
            if not math.isfinite(nats):
                raise DivergedError(f"the loss of an expected output is {nats}; the model's weights are not usable")
            found[position] = Likelihood(nats, len(encoded[position].target))
    return [found[position] for position in range(len(encoded))]
