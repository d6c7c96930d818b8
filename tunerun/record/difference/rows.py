"""Examples that were added, removed or changed between two sets, counted, with the first few of each.

100,000 rows a side take half a second: rows are counted and looked up, never compared with each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tunerun.comparison.numbers import counted
from tunerun.job import ExampleSet, as_text
from tunerun.ledger import Ledger, TrialRecord
from tunerun.record.difference.pairs import TrialPair
from tunerun.record.difference.sections import DifferenceSection, listed, one_line

MOST_SHOWN = 3
"""Rows of a kind that people see."""

MOST_IN_DOCUMENT = 100
"""Rows of a kind that `--json` lists; a set may be private, and its counts say the rest."""

_SETS = ("training", "validation", "test")

Row = tuple[str, str]
"""Input and output."""


@dataclass(frozen=True)
class RowsDifference:
    """Two example sets.

    Attributes:
        a, b: how many rows each has. same: how many are in both.
        added, removed: rows that only B, or only A, has.
        changed: the same input with another output: input, output in A, output in B.
        is_reordered: whether the rows that both have are in another order.
        is_rendered: whether no input is the same, but all outputs are, in their order: another template.
    """

    a: int
    b: int
    same: int
    added: tuple[Row, ...]
    removed: tuple[Row, ...]
    changed: tuple[tuple[str, str, str], ...]
    is_reordered: bool
    is_rendered: bool

    @classmethod
    def of(cls, a: Sequence[Row], b: Sequence[Row]) -> RowsDifference:
        """Compare the rows of two sets; a row that is there twice counts twice."""
        in_a, in_b = Counter(a), Counter(b)
        common = in_a & in_b
        removed, added = list(_only(a, in_a - common)), list(_only(b, in_b - common))
        is_rendered = len(a) == len(b) and not common and [out for _, out in a] == [out for _, out in b]
        changed: list[tuple[str, str, str]] = []
        if not is_rendered:
            removed, added, changed = _with_other_outputs(removed, added)
        return cls(
            a=len(a),
            b=len(b),
            same=common.total(),
            added=tuple(added),
            removed=tuple(removed),
            changed=tuple(changed),
            is_reordered=list(_only(a, common)) != list(_only(b, common)),
            is_rendered=is_rendered,
        )

    @property
    def summary(self) -> str:
        """The counts of changes in words."""
        if self.is_rendered:
            return f"all {counted(self.a, 'row')} have another input (by the template) and the same output"
        parts = [
            f"{len(rows):,} {what}"
            for rows, what in ((self.added, "added"), (self.removed, "removed"), (self.changed, "changed"))
            if rows
        ]
        parts.append(f"{self.same:,} the same{' in another order' if self.is_reordered else ''}")
        sizes = f"{self.a:,} rows" if self.a == self.b else f"{self.a:,} and {self.b:,} rows"
        return f"{sizes}: {', '.join(parts)}"

    @property
    def lines(self) -> Iterator[str]:
        """The first rows of each kind."""
        if self.is_rendered:
            (before, output), (after, _) = self.removed[0], self.added[0]
            yield f"  A {_row(before, output)}"
            yield f"  B {_row(after, output)}"
            return
        for text_input, old, new in self.changed[:MOST_SHOWN]:
            yield f"  ! {one_line(text_input)} -> {one_line(old)} | {one_line(new)}"
        yield from _more(len(self.changed), "changed")
        for rows, sign, what in ((self.removed, "-", "removed"), (self.added, "+", "added")):
            for text_input, output in rows[:MOST_SHOWN]:
                yield f"  {sign} {_row(text_input, output)}"
            yield from _more(len(rows), what)

    def to_json(self) -> dict[str, Any]:
        """The counts, and the first rows of each kind."""
        return {
            "a": self.a,
            "b": self.b,
            "same": self.same,
            "added": len(self.added),
            "removed": len(self.removed),
            "changed": len(self.changed),
            "reordered": self.is_reordered,
            "rendered_otherwise": self.is_rendered,
            "first_added": [_example(*row) for row in islice(self.added, MOST_IN_DOCUMENT)],
            "first_removed": [_example(*row) for row in islice(self.removed, MOST_IN_DOCUMENT)],
            "first_changed": [
                {"text_input": text_input, "a": old, "b": new}
                for text_input, old, new in islice(self.changed, MOST_IN_DOCUMENT)
            ],
        }


def rows_section(a: Ledger, b: Ledger, pairs: Sequence[TrialPair]) -> DifferenceSection:
    """The training, validation and test rows of paired trials; sets that several share are compared once."""
    lines: list[str] = []
    documents: list[dict[str, Any]] = []
    for name in _SETS:
        places: dict[tuple[str | None, str | None], list[str]] = {}
        for pair in pairs:
            places.setdefault((digest_of(pair.a, name), digest_of(pair.b, name)), []).append(pair.name)
        for (digest_a, digest_b), trials in places.items():
            if digest_a == digest_b:
                continue
            found = RowsDifference.of(_rows(a, digest_a), _rows(b, digest_b))
            where = "" if len(trials) == len(pairs) else f" ({listed(trials)})"
            lines += [f"{name}{where}: {found.summary}", *found.lines]
            documents.append({"set": name, "trials": trials, **found.to_json()})
    return DifferenceSection("rows", lines=tuple(lines), document={"sets": documents})


def digest_of(trial: TrialRecord, name: str) -> str | None:
    """The digest of one of a trial's sets; None: it has none."""
    return trial.training if name == "training" else trial.held_out.get(name)


def rows_of(examples: ExampleSet) -> list[Row]:
    """The rows of a set as pairs of texts, a conversation's input as one: these are counted in a tenth of the time."""
    return [(as_text(each.input), each.output) for each in examples.examples]


def _rows(ledger: Ledger, digest: str | None) -> list[Row]:
    return [] if digest is None else rows_of(ledger.example_set(digest))


def _only(rows: Sequence[Row], wanted: Counter[Row]) -> Iterator[Row]:
    """The rows of a sequence that are counted, in their order, each as often as it is counted."""
    left = Counter(wanted)
    for row in rows:
        if left[row] > 0:
            left[row] -= 1
            yield row


def _with_other_outputs(
    removed: Sequence[Row], added: Sequence[Row]
) -> tuple[list[Row], list[Row], list[tuple[str, str, str]]]:
    """Of rows that were removed and added, those that have the same input are changed ones."""
    outputs: dict[str, list[str]] = {}
    for text_input, output in added:
        outputs.setdefault(text_input, []).append(output)
    changed, gone = [], []
    for text_input, output in removed:
        if waiting := outputs.get(text_input):
            changed.append((text_input, output, waiting.pop(0)))
        else:
            gone.append((text_input, output))
    new = list(_only(added, Counter((text, output) for text, left in outputs.items() for output in left)))
    return gone, new, changed


def _row(text_input: str, output: str) -> str:
    return f"{one_line(text_input)} -> {one_line(output)}"


def _example(text_input: str, output: str) -> dict[str, str]:
    return {"text_input": text_input, "output": output}


def _more(count: int, what: str) -> Iterator[str]:
    if count > MOST_SHOWN:
        yield f"    ... and {count - MOST_SHOWN:,} more {what}"
