"""Rows and the texts that the template makes of them, by column."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tunerun.dataset.rows import ABSENT, Rows
from tunerun.template import PromptTemplate
from tunerun.template.absent import is_null
from tunerun.template.json_text import to_json

PARTS = ("text_input", "output")
"""The two texts that a template makes of a row."""

_BETWEEN = "\n"
_NOTHING = "\x00"


@dataclass(frozen=True, eq=False)
class RenderedRows:
    """The rows of a file that make an example, with their two texts.

    What is the row's and what is the template's are kept apart: an instruction that every prompt repeats makes no two
    rows alike.

    Attributes:
        rows: as they were read, and the columns that a conversation gives.
        read: the names of the columns that the file has.
        text_inputs, outputs: after the template, in the order of the rows.
        template: what made them.
    """

    rows: Rows
    read: Sequence[str]
    text_inputs: Sequence[str]
    outputs: Sequence[str]
    template: PromptTemplate

    def __len__(self) -> int:
        return len(self.text_inputs)

    def take(self, positions: Sequence[int]) -> RenderedRows:
        """Return the rows at these positions, in this order."""
        if positions == range(len(self)):
            return self
        return RenderedRows(
            self.rows.take(positions),
            self.read,
            [self.text_inputs[position] for position in positions],
            [self.outputs[position] for position in positions],
            self.template,
        )

    def place(self, position: int) -> str:
        """Where a row is."""
        return self.rows.place(position)

    @cached_property
    def inputs_of_rows(self) -> Sequence[str]:
        """What each row gives the prompt, without the template's own words."""
        return _joined(self._cells("text_input", "output") or [self.text_inputs], _BETWEEN)

    @cached_property
    def outputs_of_rows(self) -> Sequence[str]:
        """What each row gives the answer, without the template's own words."""
        return _joined(self._cells("output", "text_input") or [self.outputs], _BETWEEN)

    @cached_property
    def same_inputs(self) -> Sequence[str]:
        """What is equal for inputs that differ at most in capitals and white space."""
        columns = self._cells("text_input", "output") or [self.text_inputs]
        return _joined([[" ".join(text.casefold().split()) for text in cells] for cells in columns], _NOTHING)

    @cached_property
    def contents(self) -> Sequence[bytes]:
        """A digest of what each row holds, whatever the template makes of it."""
        names = sorted(name for name in self.read if name in self.rows.columns)
        columns = [_as_text(self.rows.columns[name]) for name in names]
        rows = _joined(columns, "\x1f") if columns else [""] * len(self)
        return [hashlib.blake2b(row.encode("utf-8", "surrogatepass"), digest_size=16).digest() for row in rows]

    def _cells(self, part: str, other: str) -> list[Sequence[str]]:
        """The cells that only `part` uses, by column; a whole conversation or row that both use is not told apart."""
        others = self.template.used(other, self.rows.columns)
        own = [name for name in self.template.used(part, self.rows.columns) if name not in others]
        return [_as_text(self.rows.columns[name], nothing="") for name in own]


def _joined(columns: Sequence[Sequence[str]], between: str) -> Sequence[str]:
    return columns[0] if len(columns) == 1 else [between.join(cells) for cells in zip(*columns, strict=True)]


def _as_text(cells: Sequence[Any], nothing: str = _NOTHING) -> Sequence[str]:
    return cells if set(map(type, cells)) == {str} else [_text_of(cell, nothing) for cell in cells]


def _text_of(cell: Any, nothing: str) -> str:
    if isinstance(cell, str):
        return cell
    if cell is ABSENT or is_null(cell):
        return nothing
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, Mapping | list | tuple):
        try:
            return to_json(cell)
        except (TypeError, ValueError):  # bytes or infinity inside, which a template may leave out
            return repr(cell)
    return str(cell)


def examples_of(rows: RenderedRows) -> Iterator[tuple[str, str]]:
    """Yield the text_input and the output of each row."""
    return zip(rows.text_inputs, rows.outputs, strict=True)
