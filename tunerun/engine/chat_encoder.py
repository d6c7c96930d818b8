"""Texts in the chat format as tokens, and answers' tokens as texts. Light: the library `tokenizers` alone.

Text of rows is text: where a row holds what the base model uses as a control token (`<|im_end|>`), it is encoded as
the characters it is written with. Everything else is encoded together with the chat format around it, so that the
tokens are those of transformers' `apply_chat_template`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from tokenizers import Tokenizer

from tunerun.engine.chat import ChatFormat, EarlierTurns
from tunerun.job import Conversation, Example, Input, TokenScore, as_conversation, behind_examples

_BREAK = "\n"
"""What a text follows where it is encoded apart: no tokenizer joins it with a word, and after it none adds a space."""

_ANSWERED = "a"
"""What text of the format follows where no control token ends an answer: a letter, which no tokenizer joins with it."""


@dataclass(frozen=True)
class EncodedPrompt:
    """The tokens that a model is sent.

    Attributes:
        answers: of each earlier answer the places of its tokens, from the first up to the one behind the last.
    """

    ids: list[int]
    answers: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class _Piece:
    """A part of a conversation that is encoded by itself.

    Attributes:
        follows: the text before it, from its last control token on.
        texts: text of the format and text of rows in turns; the format's is first and last.
        is_answer: whether it is an earlier answer, up to the token that ends it.
    """

    follows: str
    texts: tuple[str, ...]
    is_answer: bool = False

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def of_format(self) -> tuple[str, ...]:
        return self.texts[::2]

    @property
    def of_rows(self) -> tuple[str, ...]:
        return self.texts[1::2]


_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
"""How SentencePiece's vocabularies write a byte."""


def _byte_characters() -> dict[str, int]:
    """How vocabularies of GPT-2's kind write bytes: the printable ones of Latin-1 as they are, others above them."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTES = _byte_characters()


class ChatEncoder:
    """Encodes and decodes with one tokenizer and one chat format.

    Args:
        tokenizer: the base model's; padding and truncation are switched off.
        turns: what is around the texts before an input; None: that is not known.
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
        self._end_text = chat.end[: self._last_control(chat.end)]
        (self._suffix,) = self._ids([chat.suffix])
        # What is beyond the control tokens next to a row's text is the same in every example, and is encoded once:
        # a tokenizer cuts a text at them before it does anything else.
        before, after = self._last_control(chat.prefix), self._first_control_end(chat.suffix)
        self._before, self._after = chat.prefix[before:], chat.suffix[:after]
        self._opening, self._closing = self._beyond(chat.prefix, self._before), self._behind(self._after, chat.suffix)
        self._answer_follows = chat.suffix[self._last_control(chat.suffix) :]

    def _beyond(self, whole: str, end: str) -> list[int]:
        ids, of_end = self._ids([whole, end])
        return ids[: len(ids) - len(of_end)]

    def _behind(self, start: str, whole: str) -> list[int]:
        of_start, ids = self._ids([start, whole])
        return ids[len(of_start) :]

    def prompts(self, inputs: Sequence[Input], examples: Sequence[Example] = ()) -> list[list[int]]:
        """Return the tokens that the model is sent for each input.

        Args:
            examples: earlier turns before every input's own.

        Raises:
            NoTurnsError: there is a system message or an earlier turn, and the chat format has no place for it.
        """
        return [prompt.ids for prompt in self.conversations([behind_examples(asked, examples) for asked in inputs])]

    def conversations(self, inputs: Sequence[Input]) -> list[EncodedPrompt]:
        """Return the tokens that the model is sent for each input, and where the earlier answers are among them.

        Raises:
            NoTurnsError: as `prompts`.
        """
        long = {
            place: self._pieces(asked)
            for place, asked in enumerate(inputs)
            if isinstance(asked, Conversation) and (asked.system or asked.earlier)
        }
        short = [as_conversation(asked).text_input for place, asked in enumerate(inputs) if place not in long]
        of_short = iter(self._of_one_input(short))
        ids_of = self._encoded({piece for pieces in long.values() for piece in pieces})
        return [
            _joined([(piece.is_answer, ids_of[piece]) for piece in long[place]])
            if place in long
            else EncodedPrompt(next(of_short))
            for place in range(len(inputs))
        ]

    def _of_one_input(self, inputs: Sequence[str]) -> list[list[int]]:
        texts = [f"{self._before}{text}{self._after}" for text in inputs]
        found = self._ids(texts)
        own = self._count(self._before + self._after)
        for position, text in enumerate(texts):
            if self._count(text) != own:
                found[position] = self._apart(self._before, inputs[position], self._after)
        return [[*self._opening, *ids, *self._closing] for ids in found]

    def _pieces(self, asked: Conversation) -> list[_Piece]:
        """Return a conversation cut before and behind each earlier answer, as prompt and target are.

        So what is learned of it is whole tokens, and an answer is the same tokens wherever it is in a conversation.
        """
        around = self._turns
        found: list[_Piece] = []
        follows = ""
        opening: tuple[str, ...] = (around.prefix,)
        if asked.earlier:
            around.check()
        if asked.system:
            around.system.check()
            before, after = around.system.before, around.system.after
            cut = self._controls.search(after)
            if cut is None:
                opening = (before, asked.system, after)
            else:  # a tokenizer cuts a text there; so a system message is encoded once for all its inputs
                found.append(_Piece("", (before, asked.system, after[: cut.end()])))
                follows, opening = cut[0], (after[cut.end() :],)
        suffix = around.suffix[: len(around.suffix) - len(around.start)]
        answer_follows = suffix[self._last_control(suffix) :]
        for turn in asked.earlier:
            found.append(_Piece(follows, (*opening, turn.text_input, suffix)))
            found.append(_Piece(answer_follows, ("", f"{around.start}{turn.output}", around.end), is_answer=True))
            follows = around.end[self._last_control(around.end) :] or _ANSWERED
            opening = (around.between[len(around.end) :],)
        return [*found, _Piece(follows, (*opening, asked.text_input, self._chat.suffix))]

    def _encoded(self, pieces: Collection[_Piece]) -> dict[_Piece, list[int]]:
        """Return the tokens of pieces as they follow what is before them."""
        found: dict[_Piece, list[int]] = {}
        plain: dict[str, list[_Piece]] = {}
        for piece in pieces:
            if self._count(piece.text) == sum(map(self._count, piece.of_format)):
                plain.setdefault(piece.follows, []).append(piece)
            else:
                found[piece] = self._with_control_tokens(piece)
        for follows, some in plain.items():
            found |= zip(some, self._following(follows, [piece.text for piece in some]), strict=True)
        return found

    def targets(self, outputs: Sequence[str]) -> list[list[int]]:
        """Return the tokens that the model learns to answer, as they follow a prompt."""
        start, end = self._chat.start, self._chat.end
        distinct = list(dict.fromkeys(outputs))  # labels repeat
        texts = [f"{start}{output}{end}" for output in distinct]
        found = self._following(self._answer_follows, texts)
        own = self._count(end)
        for position, text in enumerate(texts):
            if self._count(text) != own:
                found[position] = self._apart("", start + distinct[position], end)
        by_output = dict(zip(distinct, found, strict=True))
        return [by_output[output] for output in outputs]

    def _with_control_tokens(self, piece: _Piece) -> list[int]:
        """Return the tokens of a piece in which texts of rows hold control tokens."""
        first, *rest = piece.of_format
        (ids,) = self._following(piece.follows, [first])
        for of_row, of_format in zip(piece.of_rows, rest, strict=True):
            ids = [*ids, *self._as_text(of_row), *self._following(_BREAK, [of_format])[0]]
        return ids

    def _apart(self, before: str, text: str, after: str) -> list[int]:
        """Return the tokens of a text that holds control tokens as text, and of what is around it."""
        return self._ids([before])[0] + self._as_text(text) + self._following(_BREAK, [after])[0]

    def text(self, ids: Sequence[int], *, has_end: bool) -> str:
        """Return the text of an answer.

        Args:
            ids: the answer's tokens without the one that ends it. A control token among them is shown as it is
                written.
            has_end: whether the model ended the answer; then what the chat format writes before its end token is
                taken off.
        """
        before = self._decode(self._suffix)
        text = self._decode([*self._suffix, *ids])
        # Alone, the first token would lose its space with the tokenizers that add one to every text.
        text = text[len(before) :] if text.startswith(before) else self._decode(ids)
        text = text.removeprefix(self._chat.start)
        return text.removesuffix(self._end_text) if has_end else text

    @cached_property
    def start_ids(self) -> list[int]:
        """The tokens of what the chat format writes between a prompt and an answer; often none."""
        return self._following(self._answer_follows, [self._chat.start])[0] if self._chat.start else []

    def score(self, number: int, logprob: float) -> TokenScore:
        """A token's score, with its text as it follows other text."""
        if number not in self._token_texts:
            before, text = self._decode(self._suffix), self._decode([*self._suffix, number])
            text = text[len(before) :] if text.startswith(before) else self._decode([number])
            self._token_texts[number] = text, self._bytes(number, text)
        text, content = self._token_texts[number]
        return TokenScore(text, content, logprob)

    def _bytes(self, number: int, text: str) -> tuple[int, ...]:
        """The bytes of a token; of a part of a character those that the vocabulary writes, as far as it says them."""
        if "\ufffd" not in text:
            return tuple(text.encode())
        written = self._tokenizer.id_to_token(number) or ""
        if (found := _BYTE_TOKEN.fullmatch(written)) is not None:
            return (int(found[1], 16),)
        return tuple(_BYTES[each] for each in written) if written and _BYTES.keys() >= set(written) else ()

    @property
    def end_text(self) -> str:
        """What the chat format writes between an answer and the token that ends it."""
        return self._end_text

    def control_tokens_in(self, text: str) -> list[str]:
        """Return which of the base model's control tokens a text holds, each once."""
        return list(dict.fromkeys(self._controls.findall(text)))

    def begins_with_control_token(self, text: str) -> bool:
        """Whether a text of the chat format is cut off from what is before it."""
        return self._controls.match(text) is not None

    def _last_control(self, text: str) -> int:
        """Return where the last control token begins; 0 if there is none."""
        return max((match.start() for match in self._controls.finditer(text)), default=0)

    def _first_control_end(self, text: str) -> int:
        """Return where the first control token ends; the text's end if there is none."""
        first = self._controls.search(text)
        return len(text) if first is None else first.end()

    def _count(self, text: str) -> int:
        return len(self._controls.findall(text))

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def _following(self, before: str, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of texts as they follow another text.

        Where the two would share a token (a line break and the next one), the texts are encoded alone: generation has
        no choice, as it sends what is before.
        """
        (head,) = self._ids([before])
        found = self._ids([before + text for text in texts])
        alone = [position for position, ids in enumerate(found) if ids[: len(head)] != head]
        found = [ids[len(head) :] for ids in found]
        for position, ids in zip(alone, self._ids([texts[position] for position in alone]), strict=True):
            found[position] = ids
        return found

    def _as_text(self, text: str) -> list[int]:
        """Return the tokens of a text as it follows a line break, with control tokens as the characters they have."""
        ids = self._plain_ids(text)
        numbers = {self._tokenizer.token_to_id(token) for token in self._control_tokens}
        if numbers.isdisjoint(ids):
            return ids
        # Unigram's vocabulary holds `</s>` as a word like any other: it is cut behind its first character.
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


def _joined(parts: Sequence[tuple[bool, list[int]]]) -> EncodedPrompt:
    ids: list[int] = []
    answers: list[tuple[int, int]] = []
    for is_answer, of_part in parts:
        if is_answer:
            answers.append((len(ids), len(ids) + len(of_part)))
        ids += of_part
    return EncodedPrompt(ids, tuple(answers))


def _control_tokens(tokenizer: Tokenizer, chat: ChatFormat) -> tuple[str, ...]:
    """Return the special tokens, and the tokens added to the vocabulary that the chat format is made of.

    Qwen3's `<think>`, for one, is not marked as special. White space is no control token: Gemma
    adds line breaks to its vocabulary. transformers draws the same line (`_get_control_tokens`, 5.23).
    """
    written = f"{chat.prefix}\0{chat.suffix}\0{chat.end}"
    added = [
        token.content
        for token in tokenizer.get_added_tokens_decoder().values()
        if token.special or (token.content in written and not token.content.isspace())
    ]
    return tuple(sorted(added, key=len, reverse=True))  # of two that begin alike the longer one, as the tokenizer
