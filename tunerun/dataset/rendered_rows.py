"""Rows with their rendered texts, stored by column."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from tunerun.dataset.rows import ABSENT, Rows
from tunerun.examples import Conversation, Example, Turn
from tunerun.template import PromptTemplate
from tunerun.template.absent_cells import is_null
from tunerun.template.json_text import to_json

PARTS = ("text_input", "output")
"""The parts of a template that are rendered for each turn."""

_BETWEEN = "\n"

_NOTHING = "\x00"
"""Stands for an absent cell in keys and digests, where an empty text would be another row."""


@dataclass(frozen=True, slots=True)
class RenderedTurn:
    """A turn before the last one of its row.

    Attributes:
        position: of the row.
        number: of the turn, from 0.
        turn: as rendered.
    """

    position: int
    number: int
    turn: Turn


@dataclass(frozen=True, eq=False)
class RenderedRows:
    """Rows of a file with the rendered texts of their last turn; each row gives one example.

    What ends in `_of_rows`, `same_inputs` and `contents` are made from the cells, as they were read; the rest from the
    rendered texts. Checks for duplicates compare the cells, because every prompt repeats the template's own text.

    Attributes:
        rows: as they were read, and the columns that a conversation gives.
        read: the names of the file's own columns.
        text_inputs, outputs: rendered texts of the last turn, in the order of the rows.
        template: the template that rendered them.
        systems: the rendered system messages, empty for a row without one; None: no row has one.
        earlier: the rendered turns before the last one; None: no row has any.
    """

    rows: Rows
    read: Sequence[str]
    text_inputs: Sequence[str]
    outputs: Sequence[str]
    template: PromptTemplate
    systems: Sequence[str] | None = None
    earlier: Sequence[tuple[Turn, ...]] | None = None

    def __len__(self) -> int:
        return len(self.text_inputs)

    def take(self, positions: Sequence[int]) -> RenderedRows:
        """Return the rows at these positions, in this order."""
        if positions == range(len(self)):  # no row was left out: millions of texts are not copied
            return self
        return replace(
            self,
            rows=self.rows.take(positions),
            text_inputs=[self.text_inputs[position] for position in positions],
            outputs=[self.outputs[position] for position in positions],
            systems=None if self.systems is None else [self.systems[position] for position in positions],
            earlier=None if self.earlier is None else [self.earlier[position] for position in positions],
        )

    def place(self, position: int) -> str:
        """Return a row's place for messages, such as `train.csv:12`."""
        return self.rows.place(position)

    @property
    def examples(self) -> Iterator[Example]:
        """Yield the example of each row, in the order of the rows."""
        return itertools.starmap(Example, zip(self.text_inputs, self.outputs, *self._before, strict=True))

    @property
    def inputs(self) -> Sequence[Hashable]:
        """A hashable value for each row's input, equal if the model gets the same input."""
        # Most files have no conversations: their texts are the values themselves.
        if self.systems is None and self.earlier is None:
            return self.text_inputs
        rows = zip(self.text_inputs, *self._before, strict=True)
        return [(text, system, earlier) if system or earlier else text for text, system, earlier in rows]

    @property
    def _before(self) -> tuple[Sequence[str], Sequence[tuple[Turn, ...]]]:
        return self.systems or [""] * len(self), self.earlier or [()] * len(self)

    @property
    def learned_outputs_of_rows(self) -> Sequence[str]:
        """The learned answers of all rows, from their cells alone, without the template's own text."""
        return [*self.outputs_of_rows, *(each.turn.output for each in self.turns_of_rows if each.turn.is_learned)]

    @cached_property
    def turns(self) -> tuple[RenderedTurn, ...]:
        """The rendered turns before the last one, of all rows."""
        return tuple(
            RenderedTurn(position, number, turn)
            for position, turns in enumerate(self.earlier or ())
            for number, turn in enumerate(turns)
        )

    @cached_property
    def turns_of_rows(self) -> tuple[RenderedTurn, ...]:
        """The turns before the last one, of all rows, as they were read, without the template's own text."""
        return tuple(
            RenderedTurn(position, number, turn)
            for position, before in enumerate(self.conversations_of_rows)
            if before is not None
            for number, turn in enumerate(before.earlier)
        )

    def place_of_turn(self, position: int, number: int | None, part: str) -> str:
        """Return the place of a message of a conversation, as findings name it.

        Args:
            number: of the turn; None: the last one.
            part: text_input, output or system.
        """
        conversation = None if self.rows.conversations is None else self.rows.conversations[position]
        if conversation is None or part not in PARTS:
            return self.place(position)
        message = conversation.messages[-1 if number is None else number][PARTS.index(part)]
        return f"{self.place(position)}: {message}" if message else self.place(position)

    @cached_property
    def conversations_of_rows(self) -> Sequence[Conversation | None]:
        """The conversation of each row up to its last input, as it was read; None for a row without one."""
        return [None if each is None else each.conversation for each in self.rows.conversations or [None] * len(self)]

    @cached_property
    def last_inputs_of_rows(self) -> Sequence[str]:
        """The cells of each row that the prompt of its last turn uses, without the template's own text."""
        return _joined(self._cells("text_input", "output") or [self.text_inputs], _BETWEEN)

    @cached_property
    def inputs_of_rows(self) -> Sequence[str]:
        """The cells of each row that its prompt uses, earlier turns included, without the template's own text."""
        # System messages are left out: rows that share one are not similar for that.
        if self.rows.conversations is None:
            return self.last_inputs_of_rows
        pairs = zip(self.conversations_of_rows, self.last_inputs_of_rows, strict=True)
        return [_BETWEEN.join([*_texts_of_turns(before), text]) for before, text in pairs]

    @cached_property
    def outputs_of_rows(self) -> Sequence[str]:
        """The cells of each row that its answer uses, without the template's own text."""
        return _joined(self._cells("output", "text_input") or [self.outputs], _BETWEEN)

    @cached_property
    def same_inputs(self) -> Sequence[str]:
        """A key for each row's input, equal for inputs that differ at most in capitals and white space."""
        columns = self._cells("text_input", "output") or [self.text_inputs]
        last = _joined([list(map(_folded, cells)) for cells in columns], _NOTHING)
        if self.rows.conversations is None:
            return last
        return [
            text if before is None else _NOTHING.join(map(_folded, (text, *_texts_of_turns(before), before.system)))
            for before, text in zip(self.conversations_of_rows, last, strict=True)
        ]

    @cached_property
    def contents(self) -> Sequence[bytes]:
        """A digest of each row's cells, independent of the template."""
        # By name, so that columns in another order, or a file of another format, are split in the same way.
        names = sorted(name for name in self.read if name in self.rows.columns)
        columns = [_as_text(self.rows.columns[name]) for name in names]
        rows = _joined(columns, "\x1f") if columns else [""] * len(self)
        # A column that the template does not use may hold an unpaired surrogate.
        return [hashlib.blake2b(row.encode("utf-8", "surrogatepass"), digest_size=16).digest() for row in rows]

    def _cells(self, part: str, other: str) -> list[Sequence[str]]:
        """Return the cells of the columns that `part` uses and `other` does not; none if both use the whole row."""
        others = self.template.used(other, self.rows.columns)
        own = [name for name in self.template.used(part, self.rows.columns) if name not in others]
        return [_as_text(self.rows.columns[name], nothing="") for name in own]


def _joined(columns: Sequence[Sequence[str]], between: str) -> Sequence[str]:
    return columns[0] if len(columns) == 1 else [between.join(cells) for cells in zip(*columns, strict=True)]


def _as_text(cells: Sequence[Any], nothing: str = _NOTHING) -> Sequence[str]:
    def text_of(cell: Any) -> str:
        if isinstance(cell, str):
            return cell
        if cell is ABSENT or is_null(cell):
            return nothing
        if isinstance(cell, bool):
            return "true" if cell else "false"
        if isinstance(cell, Mapping | list | tuple):
            try:
                return to_json(cell)
            except (TypeError, ValueError):  # bytes or an infinity inside, which a template may leave out
                return repr(cell)
        return str(cell)

    return cells if set(map(type, cells)) == {str} else list(map(text_of, cells))


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _texts_of_turns(before: Conversation | None) -> list[str]:
    return [] if before is None else [text for turn in before.earlier for text in (turn.text_input, turn.output)]
