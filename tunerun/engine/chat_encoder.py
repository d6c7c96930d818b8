"""Encodes texts in the chat format as tokens and decodes answers. Needs only the library `tokenizers`.

Text of rows is data: if a row contains the text of a control token (`<|im_end|>`), it is encoded as plain characters.
Otherwise text is encoded together with the chat format around it, so that the tokens are those of transformers'
`apply_chat_template`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from tokenizers import Tokenizer

from tunerun.engine.chat_format import ChatFormat, EarlierTurns
from tunerun.examples import Conversation, Example, Input, as_conversation, behind_examples
from tunerun.generation import TokenScore

_BREAK = "\n"
"""The text put before a text that is encoded separately: no tokenizer joins it with a word or adds a space after it."""

_ANSWERED = "a"
"""The text put before format text if no control token ends an answer: no tokenizer joins a letter with the format."""


@dataclass(frozen=True)
class EncodedPrompt:
    """The tokens of a prompt.

    Attributes:
        ids: all tokens.
        answers: the span (start, stop) of each earlier answer in `ids`.
    """

    ids: list[int]
    answers: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class _Piece:
    """A part of a conversation that is encoded separately.

    Attributes:
        follows: the text before it, from the last control token on.
        texts: alternately text of the format and text of rows; the first and the last are of the format.
        is_answer: whether it is an earlier answer, including its end token.
    """

    follows: str
    texts: tuple[str, ...]
    is_answer: bool = False


_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
"""A single byte in SentencePiece's vocabularies."""


def _byte_characters() -> dict[str, int]:
    """Return the byte of each character in byte-level vocabularies such as GPT-2's.

    Printable bytes of Latin-1 are written as they are, the others as the characters from 256 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTES = _byte_characters()


class ChatEncoder:
    """Encodes and decodes with one tokenizer and one chat format.

    Args:
        tokenizer: the base model's; padding and truncation are switched off.
        chat: the chat format of the last turn.
        turns: the chat format of a system message and earlier turns; None: unknown.

    Attributes:
        end_text: the chat format's text between an answer and its end token.
    """

    def __init__(self, tokenizer: Tokenizer, chat: ChatFormat, turns: EarlierTurns | None = None) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self._chat = chat
        self._turns = turns or EarlierTurns(problem="what its chat template writes around them is not known")
        self._control_tokens = _control_tokens(tokenizer, chat)
        self._controls = re.compile("|".join(map(re.escape, self._control_tokens)) or r"(?!)")
        self._token_texts: dict[int, tuple[str, tuple[int, ...]]] = {}
        self.end_text = chat.end[: self._last_control(chat.end)]
        # A tokenizer cuts a text at control tokens before anything else. So the format's text beyond the control tokens
        # next to a row's text has the same tokens in every example, and is encoded once.
        first = self._controls.search(chat.suffix)
        self._before = chat.prefix[self._last_control(chat.prefix) :]
        self._after = chat.suffix if first is None else chat.suffix[: first.end()]
        prefix, before, after, self._suffix = self._ids([chat.prefix, self._before, self._after, chat.suffix])
        self._opening, self._closing = prefix[: len(prefix) - len(before)], self._suffix[len(after) :]
        self._answer_follows = chat.suffix[self._last_control(chat.suffix) :]

    def prompts(self, inputs: Sequence[Input], examples: Sequence[Example] = ()) -> list[list[int]]:
        """Return the tokens of the prompt for each input.

        Args:
            inputs: texts or conversations.
            examples: earlier turns to put before those of every input.

        Raises:
            NoTurnsError: there is a system message or an earlier turn, which the chat format does not support.
        """
        return [prompt.ids for prompt in self.conversations([behind_examples(each, examples) for each in inputs])]

    def conversations(self, inputs: Sequence[Input]) -> list[EncodedPrompt]:
        """Return the prompt for each input, with the positions of earlier answers.

        Raises:
            NoTurnsError: as in `prompts`.
        """
        long = {
            place: self._pieces(each)
            for place, each in enumerate(inputs)
            if isinstance(each, Conversation) and (each.system or each.earlier)
        }
        short = [as_conversation(each).text_input for place, each in enumerate(inputs) if place not in long]
        of_short = iter(self._single_turns(short))
        ids_of = self._encoded({piece for pieces in long.values() for piece in pieces})

        prompts = []
        for place in range(len(inputs)):
            if place not in long:
                prompts.append(EncodedPrompt(next(of_short)))
                continue
            ids: list[int] = []
            answers: list[tuple[int, int]] = []
            for piece in long[place]:
                start = len(ids)
                ids += ids_of[piece]
                if piece.is_answer:
                    answers.append((start, len(ids)))
            prompts.append(EncodedPrompt(ids, tuple(answers)))
        return prompts

    def _single_turns(self, inputs: Sequence[str]) -> list[list[int]]:
        """Return the tokens of prompts without a system message and earlier turns."""
        texts = [f"{self._before}{text}{self._after}" for text in inputs]
        encoded = self._ids(texts)
        own = self._count(self._before + self._after)
        for position, text in enumerate(texts):
            if self._count(text) != own:
                encoded[position] = self._continued(self._ids([self._before])[0], (inputs[position], self._after))
        return [[*self._opening, *ids, *self._closing] for ids in encoded]

    def _pieces(self, conversation: Conversation) -> list[_Piece]:
        """Split a conversation before and after each earlier answer, like prompt and target.

        So each answer consists of whole tokens, which are the same wherever the answer is in a conversation.
        """
        around = self._turns
        pieces: list[_Piece] = []
        follows = ""
        opening: tuple[str, ...] = (around.prefix,)
        if conversation.earlier:
            around.check()
        if conversation.system:
            around.system.check()
            before, after = around.system.before, around.system.after
            cut = self._controls.search(after)
            if cut is None:
                opening = (before, conversation.system, after)
            else:  # a tokenizer cuts a text there, so a system message can be encoded once for all inputs
                pieces.append(_Piece("", (before, conversation.system, after[: cut.end()])))
                follows, opening = cut[0], (after[cut.end() :],)
        suffix = around.suffix[: len(around.suffix) - len(around.start)]
        answer_follows = suffix[self._last_control(suffix) :]
        for turn in conversation.earlier:
            pieces.append(_Piece(follows, (*opening, turn.text_input, suffix)))
            pieces.append(_Piece(answer_follows, ("", f"{around.start}{turn.output}", around.end), is_answer=True))
            follows = around.end[self._last_control(around.end) :] or _ANSWERED
            opening = (around.between[len(around.end) :],)
        return [*pieces, _Piece(follows, (*opening, conversation.text_input, self._chat.suffix))]

    def _encoded(self, pieces: Collection[_Piece]) -> dict[_Piece, list[int]]:
        """Return the tokens of each piece after the text that it follows."""
        ids_of: dict[_Piece, list[int]] = {}
        plain: dict[str, dict[_Piece, str]] = {}
        for piece in pieces:
            text = "".join(piece.texts)
            if self._count(text) == sum(map(self._count, piece.texts[::2])):  # no control tokens in texts of rows
                plain.setdefault(piece.follows, {})[piece] = text
            else:
                first, *rest = piece.texts
                ids_of[piece] = self._continued(self._following(piece.follows, [first])[0], rest)
        for follows, texts in plain.items():
            ids_of |= zip(texts, self._following(follows, [*texts.values()]), strict=True)
        return ids_of

    def _continued(self, ids: list[int], texts: Sequence[str]) -> list[int]:
        """Return tokens followed by those of more texts, in which texts of rows may contain control tokens.

        Args:
            ids: the tokens before.
            texts: alternately a text of a row and a text of the format.
        """
        for number, text in enumerate(texts):
            ids = ids + (self._as_text(text) if number % 2 == 0 else self._following(_BREAK, [text])[0])
        return ids

    def targets(self, outputs: Sequence[str]) -> list[list[int]]:
        """Return the tokens that the model learns to generate for each output, after a prompt."""
        start, end = self._chat.start, self._chat.end
        distinct = list(dict.fromkeys(outputs))  # in classification the same few labels repeat
        texts = [f"{start}{output}{end}" for output in distinct]
        encoded = self._following(self._answer_follows, texts)
        own = self._count(end)
        for position, text in enumerate(texts):
            if self._count(text) != own:
                encoded[position] = self._continued(self._ids([""])[0], (start + distinct[position], end))
        by_output = dict(zip(distinct, encoded, strict=True))
        return [by_output[output] for output in outputs]

    def text(self, ids: Sequence[int], *, has_end: bool) -> str:
        """Return the text of an answer.

        Args:
            ids: the answer's tokens without the end token. A control token among them becomes its text.
            has_end: whether the model ended the answer; then the chat format's text before the end token is removed.
        """
        before = self._decode(self._suffix)
        text = self._decode([*self._suffix, *ids])
        # Decoded after the suffix, because some tokenizers drop the space of the first token of a text.
        text = text[len(before) :] if text.startswith(before) else self._decode(ids)
        text = text.removeprefix(self._chat.start)
        return text.removesuffix(self.end_text) if has_end else text

    @cached_property
    def start_ids(self) -> list[int]:
        """The tokens of the chat format's text between a prompt and an answer; often none."""
        return self._following(self._answer_follows, [self._chat.start])[0] if self._chat.start else []

    def score(self, number: int, logprob: float) -> TokenScore:
        """Return the score of a token, with its text after other text.

        Args:
            number: the token's id.
            logprob: its log probability.
        """
        if number not in self._token_texts:
            before, text = self._decode(self._suffix), self._decode([*self._suffix, number])
            text = text[len(before) :] if text.startswith(before) else self._decode([number])
            content: Iterable[int] = text.encode()
            if "\ufffd" in text:  # a part of a character: its bytes follow from the vocabulary's spelling, if at all
                written = self._tokenizer.id_to_token(number) or ""
                byte = _BYTE_TOKEN.fullmatch(written)
                if byte is not None:
                    content = (int(byte[1], 16),)
                else:
                    content = map(_BYTES.__getitem__, written) if _BYTES.keys() >= set(written) else ()
            self._token_texts[number] = text, tuple(content)
        return TokenScore(*self._token_texts[number], logprob)

    def control_tokens_in(self, text: str) -> list[str]:
        """Return the control tokens of the base model whose text occurs in a text, each once."""
        return list(dict.fromkeys(self._controls.findall(text)))

    def begins_with_control_token(self, text: str) -> bool:
        """Whether a text begins with a control token, so that a tokenizer cuts it off from the text before it."""
        return self._controls.match(text) is not None

    def _last_control(self, text: str) -> int:
        """Return where the last control token begins; 0 if there is none."""
        return max((match.start() for match in self._controls.finditer(text)), default=0)

    def _count(self, text: str) -> int:
        return len(self._controls.findall(text))

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def _following(self, before: str, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of texts after another text.

        If both would share a token (such as two line breaks), the text is encoded alone: in generation the tokens of
        the text before are already fixed.
        """
        (head,) = self._ids([before])
        encoded = self._ids([before + text for text in texts])
        alone = [position for position, ids in enumerate(encoded) if ids[: len(head)] != head]
        encoded = [ids[len(head) :] for ids in encoded]
        for position, ids in zip(alone, self._ids([texts[position] for position in alone]), strict=True):
            encoded[position] = ids
        return encoded

    def _as_text(self, text: str) -> list[int]:
        """Return the tokens of a text after a line break, with the text of control tokens as plain characters."""
        ids = self._plain_ids(text)
        numbers = {self._tokenizer.token_to_id(token) for token in self._control_tokens}
        if numbers.isdisjoint(ids):
            return ids
        # A Unigram vocabulary contains `</s>` as an ordinary word too, so the text is cut after its first character.
        cuts = [0, *(match.start() + 1 for match in self._controls.finditer(text)), len(text)]
        return [number for start, end in pairwise(cuts) for number in self._plain_ids(text[start:end])]

    def _plain_ids(self, text: str) -> list[int]:
        head, joined, alone = (
            self._plain.encode(one, add_special_tokens=False).ids for one in (_BREAK, _BREAK + text, text)
        )
        return joined[len(head) :] if joined[: len(head)] == head else alone

    @cached_property
    def _plain(self) -> Tokenizer:
        """The tokenizer without control tokens."""
        content = json.loads(self._tokenizer.to_str())
        for token in content["added_tokens"]:
            token["special"] = token["content"] in self._control_tokens
        plain = Tokenizer.from_str(json.dumps(content))
        plain.encode_special_tokens = True
        return plain

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))


def _control_tokens(tokenizer: Tokenizer, chat: ChatFormat) -> tuple[str, ...]:
    """Return the special tokens, and the added tokens of the vocabulary that the chat format contains.

    Qwen3's `<think>`, for one, is not marked as special. White space is not a control token, because Gemma adds line
    breaks to its vocabulary. transformers decides in the same way (`_get_control_tokens`, 5.23).
    """
    written = f"{chat.prefix}\0{chat.suffix}\0{chat.end}"
    added = [
        token.content
        for token in tokenizer.get_added_tokens_decoder().values()
        if token.special or (token.content in written and not token.content.isspace())
    ]
    return tuple(sorted(added, key=len, reverse=True))  # the longer of two with a common prefix wins, as in tokenizers
