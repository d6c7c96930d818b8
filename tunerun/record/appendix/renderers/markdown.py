"""An appendix as Markdown for GitHub and pandoc."""

from __future__ import annotations

from collections.abc import Iterator

from tunerun.markdown import code_block, escaped, table
from tunerun.record.appendix.document import (
    Appendix,
    AppendixSection,
    AppendixTable,
    Block,
    Bullets,
    CodeBlock,
    Paragraph,
)

_HEAD = "<!-- Written by: tunerun appendix. -->"


def render(appendix: Appendix) -> str:
    """Return the appendix with headings, paragraphs, lists, pipe tables and fenced code."""
    parts = [_HEAD, f"# {escaped(appendix.title)}", *map(_block, appendix.blocks)]
    for section in appendix.sections:
        parts += _section(section, 2)
    return "\n\n".join(parts) + "\n"


def _section(section: AppendixSection, level: int) -> Iterator[str]:
    yield f"{'#' * level} {escaped(section.title)}"
    yield from map(_block, section.blocks)
    for each in section.sections:
        yield from _section(each, level + 1)


def _block(block: Block) -> str:
    match block:
        case Paragraph(text):
            return escaped(text)
        case Bullets(lines):
            return "\n".join(f"- {escaped(line)}" for line in lines)
        case CodeBlock(text):
            return code_block(text)
        case AppendixTable():
            written = table(block.head, block.rows)
            return f"{written}\n\n{escaped(block.note)}" if block.note else written
