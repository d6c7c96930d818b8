"""Examples as tokens, and batches of them as tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from tunerun.engine.chat import ChatFormat
from tunerun.engine.chat_encoder import ChatEncoder
from tunerun.job import Example

NOT_LEARNED = -100
"""The label of a token that does not count in the loss: torch's cross_entropy ignores it by default."""


@dataclass(frozen=True)
class EncodedExample:
    """An example's token ids; prompt and target are tokenised apart, so the prompt is what generation sends."""

    prompt: list[int]
    target: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.target)


@dataclass(frozen=True)
class Batch:
    """Examples side by side, padded on the right.

    Padding needs no attention mask there: attention looks back only, and nothing real stands behind the padding.

    Attributes:
        tokens: [rows, time] without each longest row's last token, which nothing follows.
        labels: [rows, kept] the token that follows each of the last `kept` positions; NOT_LEARNED before the target
            and behind it.
        learned: how many labels count.
    """

    tokens: torch.Tensor
    labels: torch.Tensor
    learned: int

    @property
    def kept(self) -> int:
        """For how many of the last positions logits are needed."""
        return self.labels.shape[1]


def encode_examples(tokenizer: Tokenizer, chat: ChatFormat, examples: Sequence[Example]) -> list[EncodedExample]:
    """Tokenise examples with the chat format around them."""
    encoder = ChatEncoder(tokenizer, chat)
    prompts = encoder.prompts([example.text_input for example in examples])
    targets = encoder.targets([example.output for example in examples])
    return [EncodedExample(prompt, target) for prompt, target in zip(prompts, targets, strict=True)]


def collate(examples: Sequence[EncodedExample], pad_id: int, device: torch.device) -> Batch:
    """Put examples side by side; logits are needed from the last token of the shortest prompt on."""
    time = max(len(example) for example in examples) - 1
    first = min(len(example.prompt) for example in examples) - 1
    tokens, labels = [], []
    for example in examples:
        ids = example.prompt + example.target
        behind = time + 1 - len(ids)
        tokens.append((ids + [pad_id] * behind)[:time])
        unlearned = len(example.prompt) - 1 - first
        labels.append([NOT_LEARNED] * unlearned + example.target + [NOT_LEARNED] * behind)
    return Batch(
        tokens=torch.tensor(tokens, device=device),
        labels=torch.tensor(labels, device=device),
        learned=sum(len(example.target) for example in examples),
    )


def batches_by_length(lengths: Sequence[int], rows: int) -> Iterator[list[int]]:
    """Yield the positions of at most `rows` items of about the same length, the longest first.

    The longest come first so that a batch that does not fit the memory fails at once.
    """
    order = sorted(range(len(lengths)), key=lambda position: -lengths[position])
    for start in range(0, len(order), rows):
        yield order[start : start + rows]
