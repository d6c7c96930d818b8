"""Examples as tokens, and batches of them as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from tunerun.engine.chat import ChatFormat, EarlierTurns
from tunerun.engine.chat_encoder import ChatEncoder
from tunerun.job import Example

NOT_LEARNED = -100
"""The label of a token that does not count in the loss: torch's cross_entropy ignores it by default."""


@dataclass(frozen=True)
class EncodedExample:
    """An example's token ids; prompt and target are tokenised apart, so the prompt is what generation sends.

    Attributes:
        earlier: the places in the prompt of earlier answers that are learned too, in their order.
    """

    prompt: list[int]
    target: list[int]
    earlier: tuple[tuple[int, int], ...] = ()

    def __len__(self) -> int:
        return len(self.prompt) + len(self.target)

    @property
    def first(self) -> int:
        """The place of the first token that is learned."""
        return self.earlier[0][0] if self.earlier else len(self.prompt)

    @property
    def learned(self) -> int:
        """How many tokens are learned."""
        return sum(stop - start for start, stop in self.earlier) + len(self.target)

    def labels(self, first: int) -> list[int]:
        """Return the tokens from a place on, with NOT_LEARNED for those that do not count."""
        labels = [NOT_LEARNED] * len(self.prompt)
        for start, stop in self.earlier:
            labels[start:stop] = self.prompt[start:stop]
        return labels[first:] + self.target

    def without(self, tokens: int) -> EncodedExample:
        """Return what follows its first tokens, of which none is learned."""
        earlier = tuple((start - tokens, stop - tokens) for start, stop in self.earlier)
        return EncodedExample(self.prompt[tokens:], self.target, earlier)


@dataclass(frozen=True)
class Batch:
    """Examples side by side, padded on the right.

    Padding needs no attention mask there: attention looks back only, and nothing real is behind the padding.

    Attributes:
        tokens: [rows, time] without each longest row's last token, which nothing follows.
        labels: [rows, kept] the token that follows each of the last `kept` positions; NOT_LEARNED where it is not of
            an answer that is learned.
        learned: how many labels count.
    """

    tokens: torch.Tensor
    labels: torch.Tensor
    learned: int

    @property
    def kept(self) -> int:
        """For how many of the last positions logits are needed."""
        return self.labels.shape[1]


def encode_examples(
    tokenizer: Tokenizer, chat: ChatFormat, examples: Sequence[Example], turns: EarlierTurns | None = None
) -> list[EncodedExample]:
    """Tokenise examples with the chat format around them.

    Args:
        turns: what is around the texts before the last input; None: that is not known.

    Raises:
        NoTurnsError: an example has a system message or earlier turns, and the chat format has no place for them.
    """
    encoder = ChatEncoder(tokenizer, chat, turns)
    prompts = encoder.conversations([example.input for example in examples])
    targets = encoder.targets([example.output for example in examples])
    return [
        EncodedExample(
            prompt.ids,
            target,
            tuple(place for place, turn in zip(prompt.answers, example.earlier, strict=True) if turn.is_learned),
        )
        for example, prompt, target in zip(examples, prompts, targets, strict=True)
    ]


def collate(examples: Sequence[EncodedExample], pad_id: int, device: torch.device) -> Batch:
    """Put examples side by side; logits are needed from the token before the first learned one on."""
    time = max(len(example) for example in examples) - 1
    first = min(example.first for example in examples)
    tokens, labels = [], []
    for example in examples:
        ids = example.prompt + example.target
        behind = time + 1 - len(ids)
        tokens.append((ids + [pad_id] * behind)[:time])
        labels.append(example.labels(first) + [NOT_LEARNED] * behind)
    return Batch(
        tokens=torch.tensor(tokens, device=device),
        labels=torch.tensor(labels, device=device),
        learned=sum(example.learned for example in examples),
    )
