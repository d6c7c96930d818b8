"""The comparison as a LaTeX table with booktabs' rules."""

from __future__ import annotations

from collections.abc import Mapping

from tunerun.comparison.columns import ColumnKind
from tunerun.comparison.table import ComparisonTable, RowKind
from tunerun.ledger import Ledger

FILE = "results.tex"

MOST_RANK = 5
"""Columns of this rank or a larger one are left out, because a page is narrow."""

_ESCAPES = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "$": r"\$",
        "&": r"\&",
        "#": r"\#",
        "%": r"\%",
        "_": r"\_",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        '"': r"\textquotedbl{}",  # needs the T1 encoding: OT1, TeX's default, has no straight double quote
        "±": r"$\pm$",
    }
)


def render(table: ComparisonTable) -> str:
    r"""Write a `table` environment with the sentence as its caption; its first line names the packages it needs."""
    narrow = table.without(column.key for column in table.columns if column.rank >= MOST_RANK)
    is_left = [column.kind.is_text or column.kind is ColumnKind.LABEL for column in narrow.columns]
    alignment = "".join("l" if left else "r" for left in is_left)
    # A label is not printed, and LaTeX reads a _ or a # in it as more than a letter.
    label = "".join(c if c.isascii() and c.isalnum() else "-" for c in table.verdict.sweep.experiment)
    lines = [
        "% Written by: tunerun compare. Needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}.",
        r"\begin{table}",
        r"  \centering",
        f"  \\caption{{{escaped(narrow.sentence)}}}",
        f"  \\label{{tab:{label}}}",
        f"  \\begin{{tabular}}{{{alignment}}}",
        r"    \toprule",
        _line([escaped(column.title) for column in narrow.columns]),
        r"    \midrule",
    ]
    for position, row in enumerate(narrow.rows):
        if position and row.kind is RowKind.BASELINE and narrow.rows[position - 1].kind is RowKind.POINT:
            lines.append(r"    \midrule")
        cells = [escaped(text) for text in narrow.texts(row)]
        cells[0] = f"{row.mark} {cells[0]}".strip()
        lines.append(_line([f"\\textbf{{{cell}}}" if row.is_advised and cell else cell for cell in cells]))
    lines += [r"    \bottomrule", r"  \end{tabular}"]
    if narrow.legend:
        lines += [r"  \par\smallskip", rf"  {{\footnotesize {escaped(' '.join(narrow.legend))}}}"]
    lines.append(r"\end{table}")
    return "\n".join(lines) + "\n"


def files(table: ComparisonTable, _ledger: Ledger) -> Mapping[str, bytes]:
    """Return the file `results.tex`."""
    return {FILE: render(table).encode()}


def escaped(text: str) -> str:
    """Escape text from outside, so that LaTeX prints it unchanged."""
    return " ".join(text.split()).translate(_ESCAPES)


def _line(cells: list[str]) -> str:
    return f"    {' & '.join(cells)} \\\\"
