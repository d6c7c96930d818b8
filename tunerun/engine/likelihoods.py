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

from tunerun.engine import shared_prefix
from tunerun.engine.adapters import LoadedAdapters, adapters_on
from tunerun.engine.chat_encoder import ChatEncoder
from tunerun.engine.encoding import EncodedExample, batches_by_length, collate
from tunerun.engine.failures import DivergedError
from tunerun.engine.network import LoadedModel, chat_of
from tunerun.engine.shared_prefix import Prefix
from tunerun.errors import InputError
from tunerun.job import Example, Input, Likelihood

ROWS = 16
"""Rows measured at once. Our choice, not measured: more rows need more memory for their logits."""


def measure(
    base: LoadedModel,
    loaded: LoadedAdapters,
    rows: Sequence[tuple[Input, Sequence[str]]],
    adapter: Path | None = None,
    examples: Sequence[Example] = (),
) -> list[list[Likelihood]]:
    """Measure how likely each of some outputs is as the answer to an input.

    Args:
        base: the base model, which is bare before and after.
        loaded: the adapters in memory.
        rows: each an input and the outputs to measure for it.
        adapter: the tuned model's folder; None: the base model is measured.
        examples: earlier turns before every input's own.

    Returns:
        For each row, for each of its outputs.

    Raises:
        NotFoundError, BaseModelError: the tuned model is missing or belongs to another base model.
        NoTurnsError: there are earlier turns or a system message, and the chat format has no place for them.
        InputError: some rows are longer than the base model's context; nothing is measured then.
        DivergedError: a loss is NaN or infinite.
    """
    encoder = ChatEncoder(base.tokenizer, *chat_of(adapter, base))
    on_all = None if adapter is None else loaded.get(adapter)
    prompts = encoder.prompts([asked for asked, _outputs in rows], examples)
    encoded = [
        [EncodedExample(prompt, target) for target in encoder.targets(outputs)]
        for prompt, (_asked, outputs) in zip(prompts, rows, strict=True)
    ]
    _check_room(base, encoded)
    with torch.no_grad(), adapters_on(base.network, [on_all]):
        return _measured(base, encoded)


def _check_room(base: LoadedModel, encoded: Sequence[Sequence[EncodedExample]]) -> None:
    limit = base.context_tokens
    longest = {number: max(map(len, row), default=0) for number, row in enumerate(encoded, start=1)}
    too_long = [number for number, length in longest.items() if limit is not None and length > limit]
    if too_long:
        raise InputError(
            f"{len(too_long)} of {len(encoded)} inputs cannot be measured; number {too_long[0]}: it takes "
            f"{longest[too_long[0]]} tokens with its output and the chat format around them, more than the base "
            f"model's {limit} tokens; shorten it, or choose another base model"
        )


def _measured(base: LoadedModel, encoded: Sequence[Sequence[EncodedExample]]) -> list[list[Likelihood]]:
    """Measure all outputs; what all prompts begin with is computed once, the rest of a prompt once for its outputs."""
    prompts = [row[0].prompt for row in encoded if row]
    shared = shared_prefix.length(prompts) if len(prompts) > 1 else 0
    prefix = _behind(base, None, prompts[0][:shared]) if shared else None
    if all(len(row) <= 1 for row in encoded):
        found = iter(_losses(base, prefix, [one for row in encoded for one in row]))
        return [[next(found) for _one in row] for row in encoded]
    done = 0 if prefix is None else prefix.tokens
    return [
        _losses(base, _behind(base, prefix, row[0].prompt[done:-1]) if len(row) > 1 else prefix, row) for row in encoded
    ]


def _behind(base: LoadedModel, prefix: Prefix | None, ids: Sequence[int]) -> Prefix | None:
    """Return what the network has of a prefix and of further tokens; the prefix alone where these are not worth it."""
    if len(ids) < shared_prefix.LEAST_TOKENS:
        return prefix
    return shared_prefix.compute(base, ids, prefix) or prefix


def _losses(base: LoadedModel, prefix: Prefix | None, encoded: Sequence[EncodedExample]) -> list[Likelihood]:
    """Measure outputs, some at a time, behind what the network has of the beginning of all their prompts."""
    found: dict[int, Likelihood] = {}
    done = 0 if prefix is None else prefix.tokens
    for positions in batches_by_length([len(one) for one in encoded], ROWS):
        chosen = [EncodedExample(encoded[place].prompt[done:], encoded[place].target) for place in positions]
        batch = collate(chosen, base.pad_id, base.device)
        # Padding is on the right, so that it needs no attention mask, with a cache neither.
        past = {"use_cache": False} if prefix is None else {"past_key_values": prefix.cache(len(positions))}
        kept = {"logits_to_keep": batch.kept} if base.keeps_logits else {}
        logits = base.network(input_ids=batch.tokens, **past, **kept).logits[:, -batch.kept :]
        losses = cross_entropy(logits.float().flatten(0, 1), batch.labels.flatten(), reduction="none")
        for position, nats in zip(positions, losses.view(batch.labels.shape).sum(1).tolist(), strict=True):
            if not math.isfinite(nats):
                raise DivergedError(f"the loss of an expected output is {nats}; the model's weights are not usable")
            found[position] = Likelihood(nats, len(encoded[position].target))
    return [found[position] for position in range(len(encoded))]
