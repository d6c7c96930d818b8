"""An appendix as plain values that every renderer can write: sections of paragraphs, lists, tables and code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of text."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A bulleted list."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class CodeBlock:
    """Verbatim text, such as a template or a command."""

    text: str


@dataclass(frozen=True)
class AppendixTable:
    """A table.

    Attributes:
        head: titles of the columns.
        rows: the cells of each row, one for each column.
        wrapped: indices of columns with long text, which share the width that the others leave.
        numbers: indices of right-aligned columns.
        note: printed below the table; empty: none.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    wrapped: tuple[int, ...] = ()
    numbers: tuple[int, ...] = ()
    note: str = ""

    def without_empty_columns(self) -> AppendixTable:
        """Return the table without the columns in which every cell is empty."""
        kept = [place for place in range(len(self.head)) if any(row[place] for row in self.rows)]
        return AppendixTable(
            tuple(self.head[place] for place in kept),
            tuple(tuple(row[place] for place in kept) for row in self.rows),
            tuple(kept.index(place) for place in self.wrapped if place in kept),
            tuple(kept.index(place) for place in self.numbers if place in kept),
            self.note,
        )


Block = Paragraph | Bullets | CodeBlock | AppendixTable


@dataclass(frozen=True)
class AppendixSection:
    """A section with its subsections."""

    title: str
    blocks: tuple[Block, ...] = ()
    sections: tuple[AppendixSection, ...] = ()


@dataclass(frozen=True)
class Topic:
    """What a record says on one subject; the questions of several checklists may refer to it.

    Attributes:
        title: of its section.
        summary: a few sentences with figures, which answers to checklists quote.
        blocks: the whole content of its section.
    """

    title: str
    summary: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Appendix:
    """A reproducibility appendix.

    Attributes:
        title: of the whole appendix.
        sweep: id of the sweep, used in LaTeX labels.
        blocks: the introduction.
        sections: in order.
    """

    title: str
    sweep: str
    blocks: tuple[Block, ...]
    sections: tuple[AppendixSection, ...]

    def to_json(self) -> dict[str, Any]:
        """The appendix as `appendix --json` prints it."""
        return {
            "title": self.title,
            "sweep": self.sweep,
            "blocks": [_block(each) for each in self.blocks],
            "sections": [_section(each) for each in self.sections],
        }


def _section(section: AppendixSection) -> dict[str, Any]:
    return {
        "title": section.title,
        "blocks": [_block(each) for each in section.blocks],
        "sections": [_section(each) for each in section.sections],
    }


def _block(block: Block) -> dict[str, Any]:
    match block:
        case Paragraph(text):
            return {"text": text}
        case CodeBlock(text):
            return {"code": text}
        case Bullets(lines):
            return {"list": list(lines)}
        case AppendixTable():
            return {"head": list(block.head), "rows": [list(row) for row in block.rows], "note": block.note}
