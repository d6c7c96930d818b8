"""Examples that are longer than the base model takes: refused or skipped as other bad rows are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tunerun.dataset.rendered_rows import RenderedRows, examples_of
from tunerun.dataset.rows import Findings
from tunerun.job import Example

_BYTES_PER_CHARACTER = 4  # of UTF-8, at most


@dataclass(frozen=True)
class TokenLimit:
    """How many tokens an example may have.

    Attributes:
        most: what the base model takes, prompt and answer together.
        exact: whether its own tokenizer counts; else it is an estimate, and only warns.
        count_all: returns the tokens of each example.
    """

    most: int
    exact: bool
    count_all: Callable[[Sequence[Example]], Sequence[int]]


def short_enough(rendered: RenderedRows, limit: TokenLimit, findings: Findings) -> RenderedRows:
    """Return the rows that fit the base model; what does not is added to `findings`.

    A token has a byte or more, so only rows of many bytes are counted.
    """
    room = limit.most - limit.count_all([Example("", "")])[0]  # the chat format takes the rest
    long = [
        (position, Example(*texts))
        for position, texts in enumerate(examples_of(rendered))
        if not _is_surely_short(*texts, room)
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


def _is_surely_short(text_input: str, output: str, room: int) -> bool:
    characters = len(text_input) + len(output)
    if characters * _BYTES_PER_CHARACTER <= room:
        return True
    return characters <= room and len(text_input.encode()) + len(output.encode()) <= room
