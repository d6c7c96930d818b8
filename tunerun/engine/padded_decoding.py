"""Answers by transformers' `generate`, for architectures whose cache is not plain: recurrent states, convolutions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from tunerun.engine.adapters import adapters_on
from tunerun.engine.answer_row import AnswerRow
from tunerun.engine.decoding import MIXED_RANKS
from tunerun.engine.network import LoadedModel

ROWS = 16
"""Rows of a batch. Our choice, not measured: a batch stays together until its longest answer is finished."""


class PaddedDecoder:
    """Answers rows with one base model, in batches that stay together until all their answers are finished."""

    def __init__(self, base: LoadedModel) -> None:
        self._base = base

    def answer(self, rows: Sequence[AnswerRow], between_passes: Callable[[], None]) -> None:
        """Continue rows until all are finished, or the longest of a batch fills the context.

        Args, Raises: as `decoding.Decoder.answer`.
        """
        for batch in _batches(rows):
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
        base.network.generate(
            input_ids=tokens,
            attention_mask=mask,
            # No end token: `_taking` ends each row by itself.
            generation_config=GenerationConfig(
                max_new_tokens=most, do_sample=False, eos_token_id=None, pad_token_id=base.pad_id, use_cache=True
            ),
            logits_processor=LogitsProcessorList([_choosing(rows)]),
            stopping_criteria=StoppingCriteriaList([_taking(rows, between_passes)]),
        )


def _batches(rows: Sequence[AnswerRow]) -> Iterator[list[AnswerRow]]:
    """Yield batches of rows of similar length, the longest first, so that lack of memory shows at once."""
    batch: list[AnswerRow] = []
    for row in sorted(rows, key=lambda row: -row.length):
        if batch and not _may_join(batch, row):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _may_join(batch: Sequence[AnswerRow], row: AnswerRow) -> bool:
    if len(batch) >= ROWS:
        return False
    distinct = {id(one.adapter): one.adapter for one in (*batch, row)}
    ranks = sum(adapter.rank for adapter in distinct.values() if adapter is not None)
    return len(distinct) == 1 or ranks <= MIXED_RANKS


def _choosing(rows: Sequence[AnswerRow]) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return a logits processor: the likeliest token of its result is a row's next one."""

    def choose(_tokens: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        for number, row in enumerate(rows):
            if row.chooses and not row.is_over:
                scores[number] = row.choose(scores[number])
        return scores

    return choose


def _taking(rows: Sequence[AnswerRow], between_passes: Callable[[], None]) -> Callable[..., torch.Tensor]:
    """Return a stopping criterion that hands each row its token and says which rows are finished."""

    def take(tokens: torch.Tensor, _scores: torch.Tensor, **_more: object) -> torch.Tensor:
        for row, token in zip(rows, tokens[:, -1].tolist(), strict=True):
            if not row.is_over:
                row.take(token)
        between_passes()
        return torch.tensor([row.is_over for row in rows], device=tokens.device)

    return take
