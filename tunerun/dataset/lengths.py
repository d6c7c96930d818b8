"""Examples that exceed the base model's context: refused or skipped like other bad rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tunerun.dataset.rendered_rows import RenderedRows
from tunerun.dataset.rows import Findings
from tunerun.job import Example, Turn, texts_of

_BYTES_PER_CHARACTER = 4  # of UTF-8, at most


@dataclass(frozen=True)
class TokenLimit:
    """How many tokens an example may have.

    Attributes:
        most: of prompt and answer together, the base model's context length.
        exact: whether the base model's own tokenizer counts; else counts are estimates, which only give a warning.
        count_all: returns the number of tokens of each example.
    """

    most: int
    exact: bool
    count_all: Callable[[Sequence[Example]], Sequence[int]]


def short_enough(rendered: RenderedRows, limit: TokenLimit, findings: Findings) -> RenderedRows:
    """Return the rows that fit the base model's context; the others are added to `findings`.

    A token has at least one byte, so only rows with more bytes than `limit.most` need to be counted.
    """
    takes = _Format(rendered, limit)
    long = [
        (position, example)
        for position, example in enumerate(rendered.examples)
        if not _is_surely_short(example, limit.most - takes.tokens_of(example))
    ]
    counts = limit.count_all([example for _, example in long]) if long else ()
    too_long = {position: count for (position, _), count in zip(long, counts, strict=True) if count > limit.most}
    for position, count in too_long.items():
        if limit.exact:
            what = f"{count:,} tokens, and the base model takes {limit.most:,}"
            findings.add_row("context", rendered.place(position), f"{what}; shorten the row or the template")
        else:
            what = f"about {count:,} tokens, and the base model takes {limit.most:,}"
            findings.warn(
                "context", f"{rendered.place(position)}: {what}; `run` counts exactly before it submits anything"
            )
    if not too_long or not limit.exact:
        return rendered
    return rendered.take([position for position in range(len(rendered)) if position not in too_long])


class _Format:
    """How many tokens the chat format adds to the texts."""

    def __init__(self, rendered: RenderedRows, limit: TokenLimit) -> None:
        (self._empty,) = limit.count_all([Example("", "")])
        self._turn = self._system = 0
        # Measured one by one: a chat format may support only one of them.
        if rendered.earlier is not None:
            self._turn = limit.count_all([Example("", "", earlier=(Turn("", ""),))])[0] - self._empty
        if rendered.systems is not None:
            # One letter is at least a token: the estimate errs towards too little room for the texts.
            self._system = limit.count_all([Example("", "", system="s")])[0] - self._empty

    def tokens_of(self, example: Example) -> int:
        return self._empty + len(example.earlier) * self._turn + bool(example.system) * self._system


def _is_surely_short(example: Example, room: int) -> bool:
    texts = [*texts_of(example.input), example.output]
    characters = sum(map(len, texts))
    if characters * _BYTES_PER_CHARACTER <= room:
        return True
    return characters <= room and sum(len(text.encode()) for text in texts) <= room
