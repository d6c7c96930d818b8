"""Answers from transformers' `generate`, for architectures whose cache holds recurrent states or convolutions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from tunerun.engine.adapters import adapters_on
from tunerun.engine.answer_row import AnswerRow
from tunerun.engine.batch_limits import DEFAULT, BatchLimits
from tunerun.engine.network import LoadedModel

ROWS = 16
"""The most rows of a batch. Our choice, not measured; small, as a batch runs until its longest answer is finished."""


class PaddedDecoder:
    """Generates the answers of rows in batches, each of which runs until its longest answer is finished.

    Args:
        base: the base model.
        limits: of its batches; only the limit of ranks applies, because it has batches of `ROWS`.
    """

    def __init__(self, base: LoadedModel, limits: BatchLimits = DEFAULT) -> None:
        self._base = base
        self._limits = limits

    def answer(self, rows: Sequence[AnswerRow], between_passes: Callable[[], None]) -> None:
        """Generate tokens until each batch is finished or its longest row fills the context.

        A row that is cut short by a longer row of its batch is not over; call again to continue it.

        Args:
            rows: as in `decoding.Decoder.answer`.
            between_passes: called before each batch and after each token, from this thread.

        Raises:
            MixingError: as in `decoding.Decoder.answer`.
        """
        for batch in self._batches(rows):
            between_passes()
            with adapters_on(self._base.network, [row.adapter for row in batch]):
                self._generate(batch, between_passes)

    def _generate(self, rows: Sequence[AnswerRow], between_passes: Callable[[], None]) -> None:
        from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

        base, longest = self._base, max(row.length for row in rows)
        tokens = torch.tensor([[base.pad_id] * (longest - row.length) + row.ids for row in rows], device=base.device)
        mask = torch.tensor([[0] * (longest - row.length) + [1] * row.length for row in rows], device=base.device)
        most = max(row.room for row in rows)
        if base.context_tokens is not None:
            most = min(most, base.context_tokens - longest)

        # A logits processor for greedy decoding: it makes the token that a row chooses the likeliest one.
        def choose(_tokens: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            scores = scores.clone()
            for number, row in enumerate(rows):
                if row.chooses and not row.is_over:
                    scores[number] = row.choose(scores[number])
            return scores

        # A stopping criterion: it appends each row's new token to its answer and returns which rows are finished.
        def take(tokens: torch.Tensor, _scores: torch.Tensor, **_more: object) -> torch.Tensor:
            for row, token in zip(rows, tokens[:, -1].tolist(), strict=True):
                if not row.is_over:
                    row.take(token)
            between_passes()
            return torch.tensor([row.is_over for row in rows], device=tokens.device)

        base.network.generate(
            input_ids=tokens,
            attention_mask=mask,
            # No end token: the stopping criterion decides for each row.
            generation_config=GenerationConfig(
                max_new_tokens=most, do_sample=False, eos_token_id=None, pad_token_id=base.pad_id, use_cache=True
            ),
            logits_processor=LogitsProcessorList([choose]),
            stopping_criteria=StoppingCriteriaList([take]),
        )

    def _batches(self, rows: Sequence[AnswerRow]) -> Iterator[list[AnswerRow]]:
        """Yield batches of rows of similar length, the longest first, so that a lack of memory shows at once."""
        batch: list[AnswerRow] = []
        for row in sorted(rows, key=lambda row: -row.length):
            distinct = {id(one.adapter): one.adapter for one in (*batch, row)}
            ranks = sum(adapter.rank for adapter in distinct.values() if adapter is not None)
            has_room = len(batch) < ROWS and (len(distinct) == 1 or ranks <= self._limits.mixed_ranks)
            if batch and not has_room:
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch
