"""Answers of a base model and of its tuned models: batched, with a key-value cache, in the chat format of training.

An answer does not depend on the other rows of its batch. Each row has its own options, adapter, context limit and
random numbers, which are derived from its seed and prompt. Batching itself changes logits by rounding only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tunerun.engine import decoding, likelihoods
from tunerun.engine.adapters import LoadedAdapters, MixingError
from tunerun.engine.answer_row import AnswerRow
from tunerun.engine.chat_encoder import ChatEncoder
from tunerun.engine.chat_format import ChatFormat, EarlierTurns
from tunerun.engine.decoding import Decoder
from tunerun.engine.json_grammar import JsonGrammars
from tunerun.engine.network import LoadedModel, chat_of
from tunerun.engine.padded_decoding import PaddedDecoder
from tunerun.errors import InputError
from tunerun.examples import Example, Input
from tunerun.generation import Answer, AnswerPart, Likelihood, Prompt


class Generation:
    """Answers prompts with one base model and its tuned models. Between calls no adapter is attached to it.

    Args:
        base: the base model.
        decoder: generates the tokens; None: chosen at the first prompt, by the base model's architecture.

    Attributes:
        base: the base model.
        can_mix: whether rows of different adapters may share a batch; False once a layer turned out not to treat a
            batch row by row.
    """

    def __init__(self, base: LoadedModel, decoder: Decoder | PaddedDecoder | None = None) -> None:
        self.can_mix = True
        self.base = base
        self._decoder = decoder
        self._adapters = LoadedAdapters(base.network, base.device)
        self._encoders: dict[tuple[ChatFormat, EarlierTurns], ChatEncoder] = {}
        width = base.network.get_output_embeddings().weight.shape[0]
        self._json_grammars = JsonGrammars(base.tokenizer, width, base.stop_ids)

    def answer(
        self,
        prompts: Sequence[Prompt],
        on_part: Callable[[int, AnswerPart], None] | None = None,
        is_cancelled: Callable[[int], bool] = lambda _position: False,
        on_answer: Callable[[int, Answer], None] | None = None,
        *,
        all_or_none: bool = False,
        between_passes: Callable[[], None] = lambda: None,
    ) -> list[Answer | InputError]:
        """Answer prompts.

        Args:
            prompts: each with its own options and tuned model.
            on_part: called with a prompt's position and each new part of its answer, for streaming.
            is_cancelled: called with a prompt's position before its first token and after each token; True ends the
                answer there.
            on_answer: called with a prompt's position and its answer as soon as that is complete, before the others
                are.
            all_or_none: whether to raise an error if any prompt cannot be answered, before answering the others.
            between_passes: called before each pass of the network, from this thread.

        Returns:
            For each prompt, in order, its answer or the reason why there is none: NotFoundError (its folder holds no
            tuned model), BaseModelError (its tuned model belongs to another base model), NoTurnsError (the chat format
            does not support its system message or its examples), InputError (the context leaves no room for an answer,
            or its JSON schema cannot be used).

        Raises:
            InputError: a prompt cannot be answered, and `all_or_none` is set.
        """
        answers: list[Answer | InputError | None] = [None] * len(prompts)
        rows: list[AnswerRow] = []
        for position, prompt in enumerate(prompts):
            try:
                row = self._row(position, prompt, on_part, is_cancelled)
            except InputError as error:  # returned: prompts of several callers share a batch
                answers[position] = error
                continue
            row.on_answer = None if on_answer is None else partial(on_answer, position)
            rows.append(row)
        if all_or_none and len(rows) < len(prompts):
            raise _first_error(answers)

        if self._decoder is None:
            self._decoder = decoding.decoder_of(self.base) or PaddedDecoder(self.base)
        # Repeated for rows of other adapters, and for rows that a padded batch cut short.
        waiting = [*rows]
        while waiting:
            together = waiting if self.can_mix else [row for row in waiting if row.adapter is waiting[0].adapter]
            try:
                self._decoder.answer(together, between_passes)
            except MixingError:  # a property of the architecture: from now on one adapter after another
                self.can_mix = False
            waiting = [row for row in waiting if not row.is_over]
        for row in rows:
            answers[row.position] = row.answer()
        return [one for one in answers if one is not None]

    def measure(
        self,
        rows: Sequence[tuple[Input, Sequence[str]]],
        adapter: Path | None = None,
        examples: Sequence[Example] = (),
        between_passes: Callable[[], None] = lambda: None,
    ) -> list[list[Likelihood]]:
        """Measure the likelihood of stated outputs as answers; see `likelihoods.measure`."""
        return likelihoods.measure(self.base, self._adapters, rows, adapter, examples, between_passes)

    def _row(
        self,
        position: int,
        prompt: Prompt,
        on_part: Callable[[int, AnswerPart], None] | None,
        is_cancelled: Callable[[int], bool],
    ) -> AnswerRow:
        folder = None if prompt.adapter is None else Path(prompt.adapter)
        form = chat_of(folder, self.base)
        if form not in self._encoders:
            self._encoders[form] = ChatEncoder(self.base.tokenizer, *form)
        encoder = self._encoders[form]
        adapter = None if folder is None else self._adapters.get(folder)
        (ids,) = encoder.prompts([prompt.input])
        if prompt.options.json_schema is not None:
            ids = [*ids, *encoder.start_ids]  # the chat format's text before an answer is not part of the JSON
        limit = self.base.context_tokens
        if limit is not None and len(ids) >= limit:
            turns = f" and {len(prompt.examples)} earlier turns" if prompt.examples else ""
            turns += " and a system message" if prompt.system else ""
            advice = ", give fewer earlier turns," if prompt.examples else ","
            raise InputError(
                f"the input takes {len(ids)} tokens with the chat format around it{turns}, which leaves no room for an "
                f"answer in the base model's {limit} tokens; shorten it{advice} or choose another base model"
            )
        row = AnswerRow(position, prompt, ids, adapter, encoder, self.base)
        if prompt.options.json_schema is not None:
            row.constraint = self._json_grammars.constraint(prompt.options.json_schema)
        if on_part is not None:
            row.on_part = lambda part: on_part(position, part)
        row.is_cancelled = lambda: is_cancelled(position)
        return row


def _first_error(answers: Sequence[Answer | InputError | None]) -> InputError:
    """Return the first reason why a prompt has no answer, with the number of such prompts if there are several."""
    errors = {number: error for number, error in enumerate(answers, 1) if isinstance(error, InputError)}
    number, error = next(iter(errors.items()))
    if len(answers) == 1:
        return error
    return type(error)(f"{len(errors)} of {len(answers)} inputs cannot be answered; number {number}: {error}")
