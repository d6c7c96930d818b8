"""Examples that are longer than the base model takes: refused or skipped as other bad rows are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tunerun.dataset.checks import RenderedRow
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


def short_enough(rendered: Sequence[RenderedRow], limit: TokenLimit, findings: Findings) -> list[RenderedRow]:
    """Return the rows that fit the base model; what does not is added to `findings`.

    A token has a byte or more, so only rows of many bytes are counted.
    """
    room = limit.most - limit.count_all([Example("", "")])[0]  # the chat format takes the rest
    long = [each for each in rendered if not _is_surely_short(each.example, room)]
    counts = limit.count_all([each.example for each in long]) if long else ()
    too_long = {id(each): count for each, count in zip(long, counts, strict=True) if count > limit.most}
    for each in long:
        if id(each) in too_long and limit.exact:
            what = f"{too_long[id(each)]:,} tokens, and the base model takes {limit.most:,}"
            findings.add_row("context", each.row.place, f"{what}; shorten the row or the template")
        elif id(each) in too_long:
            what = f"about {too_long[id(each)]:,} tokens, and the base model takes {limit.most:,}"
            findings.warn("context", f"{each.row.place}: {what}; `run` counts exactly before it submits anything")
    return [each for each in rendered if id(each) not in too_long] if limit.exact else list(rendered)


def _is_surely_short(example: Example, room: int) -> bool:
    characters = len(example.text_input) + len(example.output)
    if characters * _BYTES_PER_CHARACTER <= room:
        return True
    return characters <= room and len(example.text_input.encode()) + len(example.output.encode()) <= room
