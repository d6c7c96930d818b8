"""Finds examples that exceed the base model's context; they are refused or skipped like other bad rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tunerun.dataset.findings import Findings
from tunerun.dataset.rendered_rows import RenderedRows
from tunerun.examples import Example, Turn, texts_of

_BYTES_PER_CHARACTER = 4  # of UTF-8, at most


@dataclass(frozen=True)
class TokenLimit:
    """How many tokens an example may have.

    Attributes:
        most: of prompt and answer together, the base model's context length.
        exact: whether the base model's own tokenizer counts; an estimate only gives a warning.
        count_all: returns the number of tokens of each example.
    """

    most: int
    exact: bool
    count_all: Callable[[Sequence[Example]], Sequence[int]]


def short_enough(rendered: RenderedRows, limit: TokenLimit) -> tuple[RenderedRows, Findings]:
    """Return the rows that fit the base model's context, and findings on the others.

    Args:
        rendered: of one file.
        limit: where it is an estimate, rows beyond it are kept, with a warning.
    """
    # How many tokens the chat format adds, measured one by one: it may support only one of turns and system messages.
    (format_only,) = limit.count_all([Example("", "")])
    of_turn = of_system = 0
    if rendered.earlier is not None:
        of_turn = limit.count_all([Example("", "", earlier=(Turn("", ""),))])[0] - format_only
    if rendered.systems is not None:
        # One letter is at least a token: the estimate errs towards too little room for the texts.
        of_system = limit.count_all([Example("", "", system="s")])[0] - format_only

    # A token has at least one byte, so only rows with more bytes than the limit need to be counted, which is slow.
    long: list[tuple[int, Example]] = []
    for position, example in enumerate(rendered.examples):
        room = limit.most - format_only - len(example.earlier) * of_turn - bool(example.system) * of_system
        texts = [*texts_of(example.input), example.output]
        characters = sum(map(len, texts))
        if characters * _BYTES_PER_CHARACTER > room and sum(len(text.encode()) for text in texts) > room:
            long.append((position, example))
    counts = limit.count_all([example for _, example in long]) if long else ()
    too_long = {position: count for (position, _), count in zip(long, counts, strict=True) if count > limit.most}

    findings = Findings(rendered.rows.file, rendered.rows.counted_in)
    for position, count in too_long.items():
        line, what = rendered.rows.lines[position], f"{count:,} tokens, and the base model takes {limit.most:,}"
        if limit.exact:
            findings.add_row("context", line, f"{what}; shorten the row or the template")
        else:
            findings.warn_row("context", line, f"about {what}; `run` counts exactly before it submits anything")
    if not too_long or not limit.exact:
        return rendered, findings
    return rendered.take([position for position in range(len(rendered)) if position not in too_long]), findings
