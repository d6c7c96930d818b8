"""Training examples as token ids, and padded batches of them as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from tunerun.engine.chat_encoder import ChatEncoder
from tunerun.engine.chat_format import ChatFormat, EarlierTurns
from tunerun.examples import Example

NOT_LEARNED = -100
"""The label of a token that does not count in the loss: torch's cross_entropy ignores it by default."""


@dataclass(frozen=True)
class EncodedExample:
    """The token ids of an example.

    Attributes:
        prompt: everything before the last answer, with the chat format.
        target: the last answer and the token that ends it.
        earlier: the spans (start, stop) in the prompt of earlier answers that are learned too, in ascending order.
    """

    prompt: list[int]
    target: list[int]
    earlier: tuple[tuple[int, int], ...] = ()

    def __len__(self) -> int:
        return len(self.prompt) + len(self.target)

    @property
    def first(self) -> int:
        """The index of the first learned token."""
        return self.earlier[0][0] if self.earlier else len(self.prompt)

    @property
    def learned(self) -> int:
        """The number of learned tokens."""
        return sum(stop - start for start, stop in self.earlier) + len(self.target)

    def labels(self, first: int) -> list[int]:
        """Return the labels from index `first` on: the token ids, with NOT_LEARNED for tokens outside the loss."""
        labels = [NOT_LEARNED] * len(self.prompt)
        for start, stop in self.earlier:
            labels[start:stop] = self.prompt[start:stop]
        return labels[first:] + self.target

    def without(self, tokens: int) -> EncodedExample:
        """Return the example without its first `tokens` tokens, none of which may be learned."""
        earlier = tuple((start - tokens, stop - tokens) for start, stop in self.earlier)
        return EncodedExample(self.prompt[tokens:], self.target, earlier)


@dataclass(frozen=True)
class Batch:
    """Examples as the rows of a batch, padded on the right.

    Attributes:
        tokens: input ids, [rows, time]; the last token of the longest row is omitted, as nothing is predicted after it.
        labels: the token after each of the last `kept` positions, [rows, kept]; NOT_LEARNED where that token does not
            belong to a learned answer.
    """

    tokens: torch.Tensor
    labels: torch.Tensor

    @property
    def kept(self) -> int:
        """The number of last positions whose logits are needed."""
        return self.labels.shape[1]


def encode_examples(
    tokenizer: Tokenizer, chat: ChatFormat, examples: Sequence[Example], turns: EarlierTurns | None = None
) -> list[EncodedExample]:
    """Tokenise examples with the chat format around them.

    Args:
        tokenizer: of the base model.
        chat: the chat format.
        examples: with or without system messages and earlier turns.
        turns: the chat format of system messages and earlier turns; None: unknown.

    Returns:
        One encoded example for each example, in order.

    Raises:
        NoTurnsError: an example has a system message or earlier turns, and the chat format does not support them.
    """
    encoder = ChatEncoder(tokenizer, chat, turns)
    # Separately, so that a prompt has the same tokens as in generation, where no target follows.
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
    """Return examples as a padded batch; its labels start at the first token that is learned in any of them.

    Args:
        examples: at least one; the rows of the batch.
        pad_id: the token for padding; its choice changes no result.
        device: where to put the tensors.
    """
    # Padded on the right, which needs no attention mask: attention is causal, and no real token comes after padding.
    time = max(len(example) for example in examples) - 1
    first = min(example.first for example in examples)
    tokens, labels = [], []
    for example in examples:
        ids = example.prompt + example.target
        padding = time + 1 - len(ids)
        tokens.append((ids + [pad_id] * padding)[:time])
        labels.append(example.labels(first) + [NOT_LEARNED] * padding)
    return Batch(
        tokens=torch.tensor(tokens, device=device),
        labels=torch.tensor(labels, device=device),
    )
