"""Markdown from values: text from outside made harmless, and the one table.

Renderers, model cards, bundles and the docs pages write the same tables; GitHub, the hub, MLflow and pandoc show them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# An underscore inside a word (`train_loss`) starts no emphasis in CommonMark, and an ampersand is a character reference
# only with a name or number and a semicolon behind it: escaping these too would make plain text hard to read.
_ACTIVE = re.compile(r"[\\`*<>\[\]|~]|(?<!\w)_|_(?!\w)|&(?=[#\w]+;)")


def escaped(text: str) -> str:
    """Escape text from outside, so that Markdown shows it unchanged and on one line."""
    return _ACTIVE.sub(lambda match: f"\\{match[0]}", " ".join(text.split()))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, is_markdown: bool = False) -> str:
    """Write a table.

    Args:
        head: the heading of each column.
        rows: as many cells each.
        is_markdown: whether cells are Markdown already; else they are text from outside and are escaped.

    Returns:
        The lines of the table, without a line break at the end.
    """
    lines = (head, *rows) if is_markdown else ([escaped(cell) for cell in line] for line in (head, *rows))
    first, *others = (f"| {' | '.join(cells)} |" for cells in lines)
    return "\n".join([first, f"| {' | '.join(['---'] * len(head))} |", *others])


def code_block(text: str, language: str = "") -> str:
    """Return a text as a block of code, with a fence that is longer than any in the text.

    Args:
        text: the code.
        language: for highlighting; empty: none.
    """
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"
