"""Answers of a base model and of its tuned models: batched, with a key-value cache, in the chat format of training.

A row's answer does not depend on the rows beside it. Each has its own options, its own adapter, its own room in the
context and its own random numbers, which follow from its seed and its prompt. Batching itself changes a logit by
rounding only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tunerun.engine import adapters, likelihoods, shared_prefix
from tunerun.engine.adapters import Adapter, LoadedAdapters, MixingError
from tunerun.engine.chat import ChatFormat, EarlierTurns
from tunerun.engine.chat_encoder import ChatEncoder
from tunerun.engine.json_grammar import JsonConstraint, JsonGrammars
from tunerun.engine.network import LoadedModel, chat_of
from tunerun.engine.shared_prefix import Prefix
from tunerun.errors import InputError
from tunerun.job import Answer, AnswerPart, Example, Input, Likelihood, Prompt, TokenScore

ROWS = 16
"""Inputs answered at once. Our choice, not measured: more rows need more memory for their cache."""

MIXED_RANKS = 256
"""The most ranks that different adapters of a batch have together, as each row passes through all of them. Our choice:
at the 576 inputs of SmolLM2-135M's layers they cost half as much as the layer itself; 16 rows at rank 8 take 128."""


class Generation:
    """Answers prompts with one base model, which is bare before and after each call."""

    def __init__(self, base: LoadedModel) -> None:
        self._base = base
        self._adapters = LoadedAdapters(base.network, base.device)
        self._encoders: dict[tuple[ChatFormat, EarlierTurns], ChatEncoder] = {}
        self._can_mix = True
        width = base.network.get_output_embeddings().weight.shape[0]
        self._json_grammars = JsonGrammars(base.tokenizer, width, base.stop_ids)

    def answer(
        self,
        prompts: Sequence[Prompt],
        on_part: Callable[[int, AnswerPart], None] | None = None,
        is_cancelled: Callable[[int], bool] = lambda _position: False,
        *,
        all_or_none: bool = False,
    ) -> list[Answer | InputError]:
        """Answer prompts, in order.

        Args:
            on_part: given a prompt's position and each further part of its answer as it comes.
            is_cancelled: asked for each prompt's position after each token; its answer ends there once it says so.
            all_or_none: whether to raise what one prompt has no answer for, before any is answered.

        Returns:
            For each prompt its answer, or why it has none: NotFoundError (its folder holds no tuned model),
            BaseModelError (its tuned model belongs to another base model), NoTurnsError (the chat format has no place
            for its system message or its examples), InputError (it leaves no room for an answer, or its JSON schema
            cannot be used).
        """
        found: list[Answer | InputError | None] = [None] * len(prompts)
        waiting: list[_Row] = []
        for position, prompt in enumerate(prompts):
            try:
                waiting.append(self._row(position, prompt, on_part, is_cancelled))
            except InputError as error:
                found[position] = error
        if all_or_none and len(waiting) < len(prompts):
            raise _first_error(found)
        rows = tuple(waiting)
        while waiting:
            for batch in self._batches(waiting):
                self._answer_batch(batch)
            # A row that was stopped where the longest one's context ended continues without that one.
            waiting = [row for row in waiting if not row.is_over]
        for row in rows:
            found[row.position] = row.answer()
        return [one for one in found if one is not None]

    def measure(
        self,
        rows: Sequence[tuple[Input, Sequence[str]]],
        adapter: Path | None = None,
        examples: Sequence[Example] = (),
    ) -> list[list[Likelihood]]:
        """Measure how likely stated outputs are as answers; see `likelihoods.measure`."""
        return likelihoods.measure(self._base, self._adapters, rows, adapter, examples)

    def _row(
        self,
        position: int,
        prompt: Prompt,
        on_part: Callable[[int, AnswerPart], None] | None,
        is_cancelled: Callable[[int], bool],
    ) -> _Row:
        folder = None if prompt.adapter is None else Path(prompt.adapter)
        encoder = self._encoder(chat_of(folder, self._base))
        adapter = None if folder is None else self._adapters.get(folder)
        (ids,) = encoder.prompts([prompt.asked])
        if prompt.options.json_schema is not None:
            ids = [*ids, *encoder.start_ids]  # what the chat format writes before an answer is no part of the JSON
        limit = self._base.context_tokens
        if limit is not None and len(ids) >= limit:
            turns = f" and {len(prompt.examples)} earlier turns" if prompt.examples else ""
            turns += " and a system message" if prompt.system else ""
            advice = ", give fewer earlier turns," if prompt.examples else ","
            raise InputError(
                f"the input takes {len(ids)} tokens with the chat format around it{turns}, which leaves no room for an "
                f"answer in the base model's {limit} tokens; shorten it{advice} or choose another base model"
            )
        row = _Row(position, prompt, ids, adapter, encoder, self._base)
        if prompt.options.json_schema is not None:
            row.constraint = self._json_grammars.constraint(prompt.options.json_schema)
        if on_part is not None:
            row.on_part = lambda part: on_part(position, part)
        row.is_cancelled = lambda: is_cancelled(position)
        return row

    def _encoder(self, form: tuple[ChatFormat, EarlierTurns]) -> ChatEncoder:
        if form not in self._encoders:
            self._encoders[form] = ChatEncoder(self._base.tokenizer, *form)
        return self._encoders[form]

    def _batches(self, rows: Sequence[_Row]) -> Iterator[list[_Row]]:
        """Yield rows of about the same length, the longest first: what does not fit the memory fails at once."""
        order = sorted(rows, key=lambda row: -len(row.ids))
        if not self._can_mix:
            order.sort(key=lambda row: id(row.adapter))  # keeps the order by length within an adapter
        batch: list[_Row] = []
        for row in order:
            if batch and not self._may_join(batch, row):
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _may_join(self, batch: Sequence[_Row], row: _Row) -> bool:
        if len(batch) >= ROWS:
            return False
        distinct = {id(one.adapter): one.adapter for one in (*batch, row)}
        ranks = sum(adapter.rank for adapter in distinct.values() if adapter is not None)
        return len(distinct) == 1 or (self._can_mix and ranks <= MIXED_RANKS)

    def _answer_batch(self, rows: Sequence[_Row]) -> None:
        try:
            with adapters.adapters_on(self._base.network, [row.adapter for row in rows]):
                self._generate(rows)
        except MixingError:
            self._can_mix = False  # the rows have no token yet, and are answered in the next round

    def _generate(self, rows: Sequence[_Row]) -> None:
        """Continue answers until all are over, or the longest row fills the context."""
        from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

        base, longest = self._base, max(len(row.ids) for row in rows)
        tokens = torch.tensor([[base.pad_id] * (longest - len(row.ids)) + row.ids for row in rows], device=base.device)
        mask = torch.tensor([[0] * (longest - len(row.ids)) + [1] * len(row.ids) for row in rows], device=base.device)
        most = max(row.room for row in rows)
        prefix = self._prefix(rows)
        past = {} if prefix is None else {"past_key_values": prefix.cache(len(rows))}
        if prefix is not None:  # padding stands between what all begin with and the rest of each
            done = prefix.tokens
            pads = [longest - len(row.ids) for row in rows]
            ids = [row.ids[:done] + [base.pad_id] * pad + row.ids[done:] for row, pad in zip(rows, pads, strict=True)]
            tokens = torch.tensor(ids, device=base.device)
            is_real = [[1] * done + [0] * pad + [1] * (longest - done - pad) for pad in pads]
            mask = torch.tensor(is_real, device=base.device)
        if base.context_tokens is not None:
            most = min(most, base.context_tokens - longest)
        base.network.generate(
            input_ids=tokens,
            attention_mask=mask,
            # No end token: `_taking` ends each row by itself.
            generation_config=GenerationConfig(
                max_new_tokens=most, do_sample=False, eos_token_id=None, pad_token_id=base.pad_id, use_cache=True
            ),
            **past,
            logits_processor=LogitsProcessorList([_choosing(rows)]),
            stopping_criteria=StoppingCriteriaList([_taking(rows)]),
        )

    def _prefix(self, rows: Sequence[_Row]) -> Prefix | None:
        """Return what rows with something before their inputs begin with; None: none, or not computed apart."""
        if len(rows) < 2 or not rows[0].is_conversation or any(row.adapter is not rows[0].adapter for row in rows):
            return None
        shared = shared_prefix.length([row.ids for row in rows])
        if shared < shared_prefix.LEAST_TOKENS:
            return None
        return shared_prefix.compute(self._base, rows[0].ids[:shared])


class _Row:
    """A prompt on its way to its answer.

    Attributes:
        prompt_ids: the tokens of the prompt.
        answer_ids: the tokens of the answer so far, without the one that ends it.
        is_over: whether the answer is whole.
    """

    def __init__(
        self,
        position: int,
        prompt: Prompt,
        prompt_ids: list[int],
        adapter: Adapter | None,
        encoder: ChatEncoder,
        base: LoadedModel,
    ) -> None:
        self.position = position
        self.is_conversation = bool(prompt.examples or prompt.system)
        self.prompt_ids = prompt_ids
        self.answer_ids: list[int] = []
        self.adapter = adapter
        self.is_over = False
        self.on_part: Callable[[AnswerPart], None] | None = None
        self.constraint: JsonConstraint | None = None
        self.is_cancelled: Callable[[], bool] = lambda: False
        self._encoder = encoder
        self._stop_ids = base.stop_ids
        self._options = prompt.options
        self._most = prompt.options.max_output_tokens
        if base.context_tokens is not None:
            self._most = min(self._most, base.context_tokens - len(prompt_ids))
        self._has_end = False
        self._is_stopped = False
        self._problem: InputError | None = None
        self._scores: list[TokenScore] = []
        self._sent = 0
        self._sent_scores = 0
        self._random = _random_numbers(prompt.options.seed, prompt_ids)

    @property
    def ids(self) -> list[int]:
        """The tokens that the next one follows."""
        return self.prompt_ids + self.answer_ids

    @property
    def room(self) -> int:
        """How many more tokens the answer may have."""
        return self._most - len(self.answer_ids)

    @property
    def chooses(self) -> bool:
        """Whether its next token is not simply the likeliest, or how likely it was is reported."""
        options = self._options
        return options.temperature > 0 or options.logprobs is not None or options.json_schema is not None

    def choose(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the logits that the next token is the likeliest by, [vocabulary].

        Args:
            logits: of the network.
        """
        if self._options.logprobs is not None:
            self._logprobs = logits.float().log_softmax(-1)
        try:
            if self.constraint is not None:
                allowed = torch.from_numpy(self.constraint.allowed()).to(logits.device)
                logits = logits.masked_fill(~allowed, -torch.inf)
        except InputError as error:
            self._problem, self.is_over = error, True
            return logits
        if self._options.temperature > 0:
            token = self._draw(logits[None])
            logits = torch.full_like(logits, -torch.inf)
            logits[token] = 0.0
        return logits

    def _draw(self, scores: torch.Tensor) -> int:
        """Draw the next token by the scores of all tokens, [1, vocabulary]."""
        from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

        options = self._options
        warpers: list[Any] = [TemperatureLogitsWarper(options.temperature)]
        if options.top_k:
            warpers.append(TopKLogitsWarper(options.top_k))
        if options.top_p < 1:
            warpers.append(TopPLogitsWarper(options.top_p))
        scores = scores.float().cpu()  # torch's generators give other numbers on other devices
        for warper in warpers:
            scores = warper(None, scores)
        return int(torch.multinomial(scores.softmax(-1), 1, generator=self._random))

    def take(self, token: int) -> None:
        """Take the next token, and see whether the answer is whole with it."""
        if token in self._stop_ids:
            self._has_end = self.is_over = True
        else:
            self._append(token)
            self._is_stopped = self._stop() is not None
            self.is_over = self.is_over or self._is_stopped or self.room == 0 or self.is_cancelled()
        if self.on_part is not None:
            self._send(self.on_part)

    def _append(self, token: int) -> None:
        self.answer_ids.append(token)
        if self._options.logprobs is not None:
            self._scores.append(self._score(token, self._options.logprobs))
        try:
            if self.constraint is not None:
                self.constraint.take(token)
                self._has_end = self.is_over = self.constraint.is_whole
        except InputError as error:
            self._problem, self.is_over = error, True

    def _score(self, token: int, likeliest: int) -> TokenScore:
        values, ids = self._logprobs.topk(likeliest)
        found = zip(ids.tolist(), values.tolist(), strict=True)
        others = tuple(self._encoder.score(number, logprob) for number, logprob in found)
        return replace(self._encoder.score(token, float(self._logprobs[token])), likeliest=others)

    def _send(self, on_part: Callable[[AnswerPart], None]) -> None:
        """Pass on the text that is sure to stay."""
        text = self._text()
        if not self.is_over:
            if text.endswith("\ufffd"):  # a character of which some bytes are still to come
                return
            # Behind the end's own text its token may follow at once; behind a stop sequence nothing follows.
            text = text[: len(text) - _begun(text, (*self._options.stop_sequences, f"{self._encoder.end_text}\0"))]
        if len(text) > self._sent:
            on_part(AnswerPart(text[self._sent :], self._whole_scores(len(text))))
            self._sent = len(text)

    def _whole_scores(self, characters: int) -> tuple[TokenScore, ...]:
        """Return the scores that have not been passed on, of tokens within the answer's first characters."""
        start = self._sent_scores
        while self._sent_scores < len(self._scores) and len(self._decoded(self._sent_scores + 1)) <= characters:
            self._sent_scores += 1
        return tuple(self._scores[start : self._sent_scores])

    def answer(self) -> Answer | InputError:
        """Return the answer so far, or why there is none."""
        if self._problem is not None:
            return self._problem
        text, tokens = self._text(), len(self.answer_ids)
        if self._is_stopped:
            while tokens and len(self._decoded(tokens - 1)) >= len(text):
                tokens -= 1
        is_cut = self.room == 0 and not self._has_end and not self._is_stopped
        return Answer(text, tokens, is_cut, tuple(self._scores[:tokens]))

    def _text(self) -> str:
        return self._decoded(len(self.answer_ids))[: self._stop()]

    def _stop(self) -> int | None:
        """Return where in the answer's text the first stop sequence is."""
        if not self._options.stop_sequences:
            return None
        text = self._decoded(len(self.answer_ids))
        places = [text.find(stop) for stop in self._options.stop_sequences]
        return min((place for place in places if place >= 0), default=None)

    def _decoded(self, tokens: int) -> str:
        return self._encoder.text(self.answer_ids[:tokens], has_end=self._has_end)


def _first_error(found: Sequence[Answer | InputError | None]) -> InputError:
    """Return why prompts have no answer; of several the first one's reason, and how many there are."""
    errors = {number: error for number, error in enumerate(found, 1) if isinstance(error, InputError)}
    number, error = next(iter(errors.items()))
    if len(found) == 1:
        return error
    return type(error)(f"{len(errors)} of {len(found)} inputs cannot be answered; number {number}: {error}")


def _random_numbers(seed: int, prompt_ids: list[int]) -> torch.Generator:
    """Return an answer's own random numbers: the same whatever is answered beside it or before it."""
    digest = hashlib.sha256(repr((seed, prompt_ids)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _begun(text: str, stop_sequences: Sequence[str]) -> int:
    """Return how many of the text's last characters may be the beginning of a stop sequence."""
    lengths = [length for stop in stop_sequences for length in range(1, len(stop)) if text.endswith(stop[:length])]
    return max(lengths, default=0)


def _choosing(rows: Sequence[_Row]) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """What transformers' `generate` asks for each token: the likeliest of what this returns is the next one."""

    def choose(_tokens: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        for number, row in enumerate(rows):
            if row.chooses and not row.is_over:
                scores[number] = row.choose(scores[number])
        return scores

    return choose


def _taking(rows: Sequence[_Row]) -> Callable[..., torch.Tensor]:
    """What transformers' `generate` asks after each token: hands it to its row, and says which rows are over."""

    def take(tokens: torch.Tensor, _scores: torch.Tensor, **_more: object) -> torch.Tensor:
        for row, token in zip(rows, tokens[:, -1].tolist(), strict=True):
            if not row.is_over:
                row.take(token)
        return torch.tensor([row.is_over for row in rows], device=tokens.device)

    return take
