"""The state of one answer: the choice of its next token, its end, and the parts that are streamed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from tunerun.engine.adapters import Adapter
from tunerun.engine.chat_encoder import ChatEncoder
from tunerun.engine.json_grammar import JsonConstraint
from tunerun.engine.network import LoadedModel
from tunerun.errors import InputError
from tunerun.generation import Answer, AnswerPart, Prompt, TokenScore


class AnswerRow:
    """A prompt and its answer so far.

    Args:
        position: of the prompt among those of the call, from 0.
        prompt: its options are the row's.
        prompt_ids: the tokens of the prompt.
        adapter: of the tuned model; None: the base model.
        encoder: decodes the answer.
        base: the base model.

    Attributes:
        prefix_key: equal for rows whose common prefix can share a cache: same adapter, system message and examples.
        prompt_ids: the tokens of the prompt.
        answer_ids: the tokens of the answer so far, without the end token.
        is_over: whether the answer is complete or was ended.
        on_part: called with each new part of the answer's text; None: not streamed.
        on_answer: called once with the complete answer; None: not called.
        constraint: the JSON constraint on the next token; None: there is none.
        is_cancelled: called after each token; True ends the answer.
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
        self.prefix_key = (id(adapter), prompt.system, prompt.examples)
        self.prompt_ids = prompt_ids
        self.answer_ids: list[int] = []
        self.adapter = adapter
        self.is_over = False
        self.on_part: Callable[[AnswerPart], None] | None = None
        self.on_answer: Callable[[Answer], None] | None = None
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
        # A generator for each answer, so that it does not depend on other answers of the batch or before it.
        digest = hashlib.sha256(repr((prompt.options.seed, prompt_ids)).encode()).digest()
        self._random = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    @property
    def ids(self) -> list[int]:
        """The tokens of prompt and answer so far."""
        return self.prompt_ids + self.answer_ids

    @property
    def length(self) -> int:
        """The number of tokens of prompt and answer so far."""
        return len(self.prompt_ids) + len(self.answer_ids)

    @property
    def room(self) -> int:
        """How many more tokens the answer may have, by its options and the context."""
        return self._most - len(self.answer_ids)

    @property
    def chooses(self) -> bool:
        """Whether the row needs `choose`: the next token is not just the likeliest, or likelihoods are reported."""
        options = self._options
        return options.temperature > 0 or options.logprobs is not None or options.json_schema is not None

    def choose(self, logits: torch.Tensor) -> torch.Tensor:
        """Return logits whose maximum is the row's next token, [vocabulary].

        If the JSON constraint fails, the row is over and keeps the error as its answer.

        Args:
            logits: the network's logits of the next token, [vocabulary].
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
        """Draw the next token from the distribution of logits, [1, vocabulary], by temperature, top-k and top-p."""
        from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

        options = self._options
        warpers: list[Any] = [TemperatureLogitsWarper(options.temperature)]
        if options.top_k:
            warpers.append(TopKLogitsWarper(options.top_k))
        if options.top_p < 1:
            warpers.append(TopPLogitsWarper(options.top_p))
        scores = scores.float().cpu()  # torch's generators draw different numbers on different devices
        for warper in warpers:
            scores = warper(None, scores)
        return int(torch.multinomial(scores.softmax(-1), 1, generator=self._random))

    def take(self, token: int) -> None:
        """Append the next token, end the answer if it is complete, and call `on_part` and `on_answer`."""
        if token in self._stop_ids:
            self._has_end = self.is_over = True
        else:
            self.answer_ids.append(token)
            if self._options.logprobs is not None:
                values, ids = self._logprobs.topk(self._options.logprobs)
                likeliest = zip(ids.tolist(), values.tolist(), strict=True)
                others = tuple(self._encoder.score(number, logprob) for number, logprob in likeliest)
                score = self._encoder.score(token, float(self._logprobs[token]))
                self._scores.append(replace(score, likeliest=others))
            try:
                if self.constraint is not None:
                    self.constraint.take(token)
                    self._has_end = self.is_over = self.constraint.is_whole
            except InputError as error:
                self._problem, self.is_over = error, True
            self._is_stopped = self._stop() is not None
            self.is_over = self.is_over or self._is_stopped or self.room == 0 or self.is_cancelled()
        if self.on_part is not None:
            self._send(self.on_part)
        if self.is_over and self.on_answer is not None and isinstance(answer := self.answer(), Answer):
            self.on_answer(answer)

    def _send(self, on_part: Callable[[AnswerPart], None]) -> None:
        """Stream the part of the text that later tokens cannot change."""
        text = self._text()
        if not self.is_over:
            if text.endswith("\ufffd"):  # a character whose last bytes are in the next token
                return
            # Text that may be the start of a stop sequence is held back. So is the format's text before the end token,
            # which the answer does not contain: with NUL appended, even its whole text counts as a start.
            held_back = 0
            for stop in (*self._options.stop_sequences, f"{self._encoder.end_text}\0"):
                starts = (length for length in range(1, len(stop)) if text.endswith(stop[:length]))
                held_back = max(held_back, max(starts, default=0))
            text = text[: len(text) - held_back]
        if len(text) > self._sent:
            # With the text go the scores of the tokens that end within it.
            first = self._sent_scores
            while self._sent_scores < len(self._scores) and len(self._decoded(self._sent_scores + 1)) <= len(text):
                self._sent_scores += 1
            on_part(AnswerPart(text[self._sent :], tuple(self._scores[first : self._sent_scores])))
            self._sent = len(text)

    def answer(self) -> Answer | InputError:
        """Return the answer so far, or the error that ended it."""
        if self._problem is not None:
            return self._problem
        text, tokens = self._text(), len(self.answer_ids)
        if self._is_stopped:  # tokens of the stop sequence are not part of the answer
            while tokens and len(self._decoded(tokens - 1)) >= len(text):
                tokens -= 1
        is_cut = self.room == 0 and not self._has_end and not self._is_stopped
        return Answer(text, tokens, is_cut, tuple(self._scores[:tokens]))

    def _text(self) -> str:
        return self._decoded(len(self.answer_ids))[: self._stop()]

    def _stop(self) -> int | None:
        """Return where the first stop sequence begins in the answer's text; None: there is none."""
        if not self._options.stop_sequences:
            return None
        text = self._decoded(len(self.answer_ids))
        places = [text.find(stop) for stop in self._options.stop_sequences]
        return min((place for place in places if place >= 0), default=None)

    def _decoded(self, tokens: int) -> str:
        return self._encoder.text(self.answer_ids[:tokens], has_end=self._has_end)
