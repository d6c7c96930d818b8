"""An appendix as LaTeX, to be included below `\\appendix`: sections, lists, and tables that may span pages."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tunerun.comparison.renderers import latex
from tunerun.record.appendix.document import (
    Appendix,
    AppendixSection,
    AppendixTable,
    Block,
    Bullets,
    CodeBlock,
    Paragraph,
)
from tunerun.record.difference.sections import printable

_HEAD = (
    "% Written by: tunerun appendix. Needs \\usepackage{booktabs,longtable,array} and \\usepackage[T1]{fontenc}.",
    "% Text in other scripts than Latin needs LuaLaTeX or XeLaTeX with a font that has them.",
)

_LEVELS = ("section", "subsection", "subsubsection")

_LINE_CHARACTERS = 72
"""Of a table's line in \\small: a line of LaTeX's article has 345 points, and a letter takes 4.6 on average."""

_GAP_CHARACTERS = 2
_LEAST_WRAPPED = 16
"""Minimal width of a wrapped column, in characters."""

# Digests, paths and keys have no place where TeX would break them, and would run over the margin.
_LONG_WORD = 16
_BREAK_EVERY = 10
_BREAKS_BEHIND = re.compile(rf"([_/=:,.-]+|[^\W_]{{{_BREAK_EVERY}}})(?=[^\W_])")
_BREAK = "\u200b"
"""Marks a possible break in a long word until the text is escaped: `\\allowbreak` would be escaped, too."""

_LIGATURES = {"`": r"\textasciigrave{}", "--": "-{}-", "''": "'{}'", ",,": ",{},"}
"""Characters that TeX would join into another one, and how they are kept apart."""

_QUOTES = {"“": "``", "”": "''"}


def render(appendix: Appendix) -> str:
    """Return a LaTeX fragment that begins with a section; it needs booktabs, longtable and array."""
    # Other characters than these are commands or separators in the name of a label.
    label = "".join(c if c.isascii() and c.isalnum() else "-" for c in appendix.sweep)
    lines = [
        *_HEAD,
        r"\begingroup\sloppy",  # wide gaps rather than lines over the margin, in this group alone
        f"\\{_LEVELS[0]}*{{{escaped(appendix.title)}}}",
        f"\\label{{app:{label}}}",
        "",
    ]
    for block in appendix.blocks:
        lines += [*_block(block), ""]
    for section in appendix.sections:
        lines += _section(section, 1)
    return "\n".join([*lines, r"\par\endgroup"]) + "\n"


def escaped(text: str) -> str:
    """Escape a text so that LaTeX prints it unchanged, without ligatures, and may break its long words."""
    words = (
        _BREAKS_BEHIND.sub(rf"\1{_BREAK}", word) if len(word) > _LONG_WORD else word for word in printable(text).split()
    )
    escaped_text = latex.escaped(" ".join(words))
    # After escaping, which would escape these replacements, too.
    for joined, apart in (*_LIGATURES.items(), *_QUOTES.items()):
        escaped_text = escaped_text.replace(joined, apart)
    return escaped_text.replace(_BREAK, r"\allowbreak{}")


def _section(section: AppendixSection, level: int) -> Iterator[str]:
    yield f"\\{_LEVELS[level]}*{{{escaped(section.title)}}}"
    for block in section.blocks:
        yield from (*_block(block), "")
    for each in section.sections:
        yield from _section(each, min(level + 1, len(_LEVELS) - 1))


def _block(block: Block) -> Iterator[str]:
    match block:
        case Paragraph(text):
            yield escaped(text)
        case Bullets(lines):
            yield r"\begin{itemize}"
            # The braces: a line that begins with a bracket would be the label of its item.
            yield from (f"  \\item {{}}{escaped(line)}" for line in lines)
            yield r"\end{itemize}"
        case CodeBlock(text):
            # Not `verbatim`, which cannot break a long line.
            yield r"\begin{flushleft}"
            yield from (f"  \\texttt{{{escaped(line)}}}\\\\{{}}" for line in text.splitlines() if line.strip())
            yield r"\end{flushleft}"
        case AppendixTable():
            yield from _table(block)


def _table(table: AppendixTable) -> Iterator[str]:
    """One longtable, or several with the same first column if a line has no room for all columns."""
    for columns in _parts(table):
        # Wrapped columns share what the others leave of a line: LaTeX does not find the width of a paragraph itself.
        wrapped = [place for place in columns if place in table.wrapped]
        rest = sum(_width(table, place) for place in columns if place not in wrapped) + _GAP_CHARACTERS * len(wrapped)
        share = max(_LINE_CHARACTERS - rest, _LEAST_WRAPPED * len(wrapped)) / _LINE_CHARACTERS / max(1, len(wrapped))
        paragraph = f">{{\\raggedright\\arraybackslash}}p{{{share:.2f}\\linewidth}}"
        alignment = "".join(paragraph if p in wrapped else "r" if p in table.numbers else "l" for p in columns)
        # A longtable and not a tabular, because a table of a hundred trials has to break over pages.
        yield r"{\small\setlength{\tabcolsep}{4pt}"
        yield f"\\begin{{longtable}}{{@{{}}{alignment}@{{}}}}"
        yield r"  \toprule"
        yield _row([table.head[place] for place in columns])
        yield r"  \midrule"
        yield r"  \endhead"
        yield from (_row([row[place] for place in columns]) for row in table.rows)
        yield r"  \bottomrule"
        yield r"\end{longtable}}"
    if table.note:
        yield f"{{\\footnotesize {escaped(table.note)}\\par}}"


def _width(table: AppendixTable, place: int) -> int:
    """The width of a column and the gap behind it, in characters."""
    widest = max(len(row[place]) for row in (table.head, *table.rows))
    return _GAP_CHARACTERS + (min(widest, _LEAST_WRAPPED) if place in table.wrapped else widest)


def _parts(table: AppendixTable) -> list[list[int]]:
    """Split the columns into parts that fit on a line; each part begins with the first column."""
    parts: list[list[int]] = [[]]
    room = _LINE_CHARACTERS
    for place in range(len(table.head)):
        width = _width(table, place)
        if width > room and len(parts[-1]) > 1:
            parts.append([0])
            room = _LINE_CHARACTERS - _width(table, 0)
        parts[-1].append(place)
        room -= width
    return parts


def _row(cells: Sequence[str]) -> str:
    # LaTeX would read a star or a bracket at the beginning as an argument of the \\ before it: hence the braces.
    return f"  {{}}{' & '.join(escaped(cell) for cell in cells)} \\\\"
