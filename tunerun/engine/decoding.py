"""Continuous batching: answers are generated token by token, finished rows leave the batch and waiting rows join it.

transformers' `generate` keeps a batch together until its longest answer is finished. Here each decoding step contains
only unfinished rows, as many as fit into the cache's memory. The common prefix of an adapter's rows is computed once.
Rows are padded on the left to the longest one, as in `generate`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from tunerun.engine import shared_prefix
from tunerun.engine.adapters import Adapter, RowAdapters, adapters_on
from tunerun.engine.answer_row import AnswerRow
from tunerun.engine.batch_limits import DEFAULT, BatchLimits
from tunerun.engine.network import LoadedModel
from tunerun.engine.row_cache import SPARE_COLUMNS, RowCache

_LIMIT = 1e-3
"""The largest accepted difference of logits from those of a row alone, relative to the largest logit. Our choice:
rounding causes 1e-5 in float32."""


class _Passes:
    """Forward passes with a cache; every row ends at the cache's last column."""

    def __init__(self, base: LoadedModel, adapters: RowAdapters) -> None:
        self._base = base
        self._adapters = adapters
        self._kept = {"logits_to_keep": 1} if base.keeps_logits else {}
        self._takes_positions = "position_ids" in inspect.signature(base.network.forward).parameters

    def logits(
        self, cache: RowCache, sequences: Sequence[list[int]], width: int, adapters: Sequence[Adapter | None]
    ) -> torch.Tensor:
        """Compute the last tokens of sequences and append them to a cache that holds the tokens before them.

        Args:
            cache: holds the earlier tokens of each sequence, one row each; may be empty.
            sequences: all tokens of each row.
            width: tokens to compute per row; a shorter sequence is padded on the left.
            adapters: of each row; None: the base model.

        Returns:
            The logits of the next token, float32, [rows, vocabulary].
        """
        # Cache columns to the left of a row's first token are padding, so mask and positions follow from the length.
        base, total = self._base, cache.width + width
        tokens = [[base.pad_id] * (width - len(ids)) + ids[max(len(ids) - width, 0) :] for ids in sequences]
        lengths = torch.tensor([[len(ids)] for ids in sequences], device=base.device)
        mask = torch.arange(total, device=base.device) >= total - lengths
        positions = (lengths - width + torch.arange(width, device=base.device)).clamp(min=0)
        self._adapters.put_on(adapters)
        output = base.network(
            input_ids=torch.tensor(tokens, device=base.device),
            attention_mask=mask.long(),
            past_key_values=cache.states,
            use_cache=True,
            **({"position_ids": positions} if self._takes_positions else {}),
            **self._kept,
        )
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits


@dataclass
class _Group:
    """Rows with a common prefix.

    Attributes:
        ids: the tokens of the prefix; empty if it is too short to be worth a pass of its own.
        waiting: how many rows of the group have not joined the batch yet.
        cache: the prefix's keys and values; released when no row is waiting any more.
    """

    ids: list[int]
    waiting: int
    cache: RowCache | None = None


def _groups(rows: Sequence[AnswerRow]) -> dict[Any, _Group]:
    """Return the rows' groups by `AnswerRow.prefix_key`."""
    ids_by_key: dict[Any, list[list[int]]] = {}
    for row in rows:
        ids_by_key.setdefault(row.prefix_key, []).append(row.ids)
    groups = {}
    for key, sequences in ids_by_key.items():
        shared = shared_prefix.length(sequences) if len(sequences) > 1 else 0
        is_worth_it = shared >= shared_prefix.LEAST_TOKENS
        groups[key] = _Group(sequences[0][:shared] if is_worth_it else [], len(sequences))
    return groups


class Decoder:
    """Generates the answers of rows with one base model. Make it with `decoder_of`, which checks the architecture.

    Args:
        base: the base model.
        bytes_per_token: memory that one token of one row takes in the cache, in all layers.
        limits: of its batches.
    """

    def __init__(self, base: LoadedModel, bytes_per_token: int, limits: BatchLimits = DEFAULT) -> None:
        self._base = base
        self._limits = limits
        weights = sum(weight.numel() * weight.element_size() for weight in base.network.parameters())
        self._most_tokens = max(limits.cache_bytes, weights // 4) // bytes_per_token

    def answer(self, rows: Sequence[AnswerRow], between_passes: Callable[[], None]) -> None:
        """Generate tokens until all rows are finished.

        Args:
            rows: each with its own adapter and options; their answers are appended in place.
            between_passes: called before each pass of the network, from this thread.

        Raises:
            MixingError: rows have different adapters, and a layer of the model does not treat a batch row by row. The
                rows keep the tokens they have, so a second call continues them.
        """
        with _passes(self._base) as passes:
            _Batch(passes, rows, self._most_tokens, self._limits).run(between_passes)


class _Batch:
    """The continuous batch of one call: which rows are waiting and which are decoded.

    Args:
        passes: computes forward passes.
        rows: to answer.
        most_tokens: the limit of the cache, in tokens of all rows, padding included.
        limits: further limits.
    """

    def __init__(self, passes: _Passes, rows: Sequence[AnswerRow], most_tokens: int, limits: BatchLimits) -> None:
        self._passes = passes
        self._most_tokens = most_tokens
        self._limits = limits
        self._groups = _groups(rows)
        self._waiting = self._in_order(rows)  # a stack: the last element is next
        self._active: list[AnswerRow] = []
        self._cache = RowCache()

    def run(self, between_passes: Callable[[], None]) -> None:
        """Generate tokens until all rows are finished."""
        while self._waiting or self._active:
            between_passes()
            joining = self._joining()
            if joining:
                self._prefill(joining)
            elif self._active:
                self._step()

    def _in_order(self, rows: Sequence[AnswerRow]) -> list[AnswerRow]:
        """Return the rows grouped by adapter, because a batch of one adapter costs less, and by length within a group.

        The longest row is last and taken first: a row that does not fit into memory fails early, and the short rows
        that follow fill up the batch.
        """
        longest: dict[int, int] = {}
        for row in rows:
            longest[id(row.adapter)] = max(longest.get(id(row.adapter), 0), row.length)
        place = {adapter: number for number, adapter in enumerate(sorted(longest, key=lambda one: longest[one]))}
        return sorted(rows, key=lambda row: (place[id(row.adapter)], self._own(row)))

    def _own(self, row: AnswerRow) -> int:
        return row.length - len(self._groups[row.prefix_key].ids)

    def _joining(self) -> list[AnswerRow]:
        """Take the rows of the next prefill pass from the waiting ones; none if too few would fit into the batch."""
        chosen: list[AnswerRow] = []
        own = 0
        # Not while fewer rows could join than a quarter of those in the batch: a prefill pass is for several rows.
        if self._limits.rows - len(self._active) < min(len(self._waiting), len(self._active) // 4):
            return []
        while self._waiting:
            row = self._waiting[-1]
            if row.is_cancelled():
                row.is_over = True
                self._groups[row.prefix_key].waiting -= 1
            elif self._fits(chosen, row, max(own, self._own(row))):
                chosen.append(row)
                own = max(own, self._own(row))
            else:
                break
            self._waiting.pop()
        if self._waiting and len(chosen) < len(self._active) // 4:
            self._waiting += reversed(chosen)
            return []
        return chosen

    def _fits(self, chosen: Sequence[AnswerRow], row: AnswerRow, own: int) -> bool:
        """Whether a row can join the chosen rows and the batch, in a prefill pass of `own` tokens per row."""
        together = [*self._active, *chosen, row]
        if len(together) == 1:  # a row that exceeds every limit alone still has to be answered
            return True
        # Counts some room to grow and not `max_output_tokens`, which most answers end far before; if the batch then
        # outgrows the memory, `_step` removes rows.
        width = max(one.length + min(one.room, 2 * SPARE_COLUMNS) for one in together)
        if len(together) > self._limits.rows or len(together) * width > self._most_tokens:
            return False
        distinct = {id(one.adapter): one.adapter for one in together}
        ranks = sum(one.rank for one in distinct.values() if one is not None)
        if len(distinct) > 1 and ranks > self._limits.mixed_ranks:
            return False
        is_other = bool(chosen) and (row.adapter is not chosen[-1].adapter or 4 * self._own(row) < 3 * own)
        if is_other and len(chosen) * own >= self._limits.enough_tokens:
            return False
        return not chosen or (len(chosen) + 1) * own <= self._limits.prefill_tokens

    def _prefill(self, rows: list[AnswerRow]) -> None:
        """Compute the prompts of rows after their cached prefixes, and add the rows to the batch."""
        # First the prefixes that are not cached yet, all in one pass. A prefix that no other row waits for is not worth
        # a pass of its own.
        of_groups = {row.prefix_key: (self._groups[row.prefix_key], row.adapter) for row in rows}
        missing = [
            (group, adapter)
            for group, adapter in of_groups.values()
            if group.ids and group.cache is None and group.waiting > 1
        ]
        if missing:
            prefixes, cache = [group.ids for group, _adapter in missing], RowCache()
            self._passes.logits(cache, prefixes, max(map(len, prefixes)), [adapter for _group, adapter in missing])
            for number, (group, _adapter) in enumerate(missing):
                group.cache = cache.only(number, len(group.ids))

        groups = [self._groups[row.prefix_key] for row in rows]
        sequences = [row.ids for row in rows]
        cached = [0 if group.cache is None else len(group.ids) for group in groups]
        width = max(len(ids) - tokens for ids, tokens in zip(sequences, cached, strict=True))
        cache = RowCache()
        # A row with fewer own tokens than the widest one computes the last tokens of its prefix again. So there is no
        # padding between prefix and own tokens, and the distance of two columns is the distance of their tokens.
        begun = [(group.cache, max(len(ids) - width, 0)) for group, ids in zip(groups, sequences, strict=True)]
        if any(tokens for _cache, tokens in begun):
            like = next(one for one, tokens in begun if one is not None and tokens)
            # A row without a cached prefix takes 0 tokens of another row's cache, just for the shapes.
            cache.begin([(one or like, tokens) for one, tokens in begun], max(tokens for _cache, tokens in begun))
        logits = self._passes.logits(cache, sequences, width, [row.adapter for row in rows])
        self._take(rows, cache, logits)
        if rows:
            self._cache.join(cache, min(self._limits.rows, len(self._active) + len(rows) + len(self._waiting)))
            self._active += rows

        # A prefix is released with the last row that needs it.
        for group in groups:
            group.waiting -= 1
            if not group.waiting:
                group.cache = None

    def _step(self) -> None:
        """Generate the next token of each row."""
        while len(self._active) > 1 and len(self._active) * (self._cache.width + 1) > self._most_tokens:
            # A row goes back to the waiting ones to free memory. It keeps its tokens, which its prefill computes again:
            # the shortest answer loses the least.
            number = min(range(len(self._active)), key=lambda one: len(self._active[one].answer_ids))
            row = self._active[number]
            self._remove(self._active, self._cache, number)
            self._waiting.insert(0, row)
            self._groups[row.prefix_key].waiting += 1
        adapters = [row.adapter for row in self._active]
        logits = self._passes.logits(self._cache, [row.ids for row in self._active], 1, adapters)
        self._take(self._active, self._cache, logits)
        if self._active:
            self._cache.crop(max(row.length for row in self._active) - 1)
        else:
            self._cache = RowCache()

    def _take(self, rows: list[AnswerRow], cache: RowCache, logits: torch.Tensor) -> None:
        """Append each row's next token and remove finished rows from the list and the cache.

        Args:
            logits: of the next token, [rows, vocabulary].
        """
        likeliest = logits.argmax(-1).tolist()  # one transfer from the device for all greedy rows
        for number in reversed(range(len(rows))):  # `_remove` moves the last row, which has been visited by then
            row = rows[number]
            token = int(row.choose(logits[number]).argmax()) if row.chooses else likeliest[number]
            if not row.is_over:
                row.take(token)
            if row.is_over:
                self._remove(rows, cache, number)

    @staticmethod
    def _remove(rows: list[AnswerRow], cache: RowCache, number: int) -> None:
        cache.leave(number)
        rows[number] = rows[-1]
        rows.pop()


@contextmanager
def _passes(base: LoadedModel) -> Iterator[_Passes]:
    # The last position of [rows, time, hidden] is not contiguous, so torch would multiply row by row in the output
    # layer, which was 16 % of the time of a prefill (measured 2026-11-26 on a CPU).
    hook = base.network.get_output_embeddings().register_forward_pre_hook(
        lambda _module, inputs: (inputs[0].contiguous(), *inputs[1:])
    )
    try:
        with torch.no_grad(), adapters_on(base.network, ()) as adapters:
            yield _Passes(base, adapters)
    finally:
        hook.remove()


def decoder_of(base: LoadedModel, limits: BatchLimits = DEFAULT) -> Decoder | None:
    """Return a decoder for a base model, after trying every cache operation on the model itself.

    Sliding windows are supported: all keys and values are kept, and the network's own mask hides the older ones.

    Args:
        base: the base model.
        limits: of the decoder's batches.

    Returns:
        The decoder; None if the cache holds something other than keys and values of every token, or if the logits
        differ from those of each row computed alone. `PaddedDecoder` then answers.
    """
    with _passes(base) as passes:
        output = base.network(input_ids=torch.tensor([[0, 1]], device=base.device), use_cache=True)
        own = getattr(output, "past_key_values", None)
        plain = (DynamicLayer, DynamicSlidingWindowLayer)
        if not isinstance(own, DynamicCache) or any(type(layer) not in plain for layer in own.layers):
            return None
        try:
            cache, logits, sequences = _tried(passes, base)
        except (RuntimeError, ValueError, TypeError, AttributeError, LookupError):
            return None  # the architecture treats caches or positions in its own way, which its `generate` handles
        if not cache.is_plain:
            return None
        for of_row, ids in zip(logits, sequences, strict=True):
            alone = base.network(input_ids=torch.tensor([ids], device=base.device), use_cache=False).logits[0, -1]
            limit = max(_LIMIT, 16 * torch.finfo(alone.dtype).eps) * float(alone.abs().max())
            if not float((of_row - alone.float()).abs().max()) <= limit:  # `not <=` also rejects NaN
                return None
        return Decoder(base, cache.bytes_per_token, limits)


def _tried(passes: _Passes, base: LoadedModel) -> tuple[RowCache, torch.Tensor, list[list[int]]]:
    """Compute rows with every operation on the cache: a shared prefix, a row that leaves, a crop, a row that joins.

    Returns:
        The cache, the logits of the next token [rows, vocabulary], and the tokens of each row.
    """
    words = base.network.get_input_embeddings().weight.shape[0]
    ids = [number * number % words for number in range(40, 80)]
    start, own = ids[:6], 5
    rows = [[*start, *ids[20:25]], [*start, *ids[10:12]], [*start, *ids[30:33]]]
    prefix, cache, joining = RowCache(), RowCache(), RowCache()
    passes.logits(prefix, [start], len(start), [None])
    begun = [len(row) - own for row in rows]
    cache.begin([(prefix.only(0, len(start)), tokens) for tokens in begun], max(begun))
    passes.logits(cache, rows, own, [None] * 3)
    cache.leave(0)
    cache.crop(len(rows[2]))
    passes.logits(joining, [ids[34:38]], 4, [None])
    cache.join(joining, 4)
    rows = [[*row, ids[2 * number]] for number, row in enumerate((rows[2], rows[1], ids[34:38]))]
    return cache, passes.logits(cache, rows, 1, [None] * 3), rows
