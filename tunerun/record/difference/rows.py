"""Examples that were added, removed or changed between two sets: their numbers, and the first few of each.

100,000 rows a side take half a second, because rows are counted and looked up, never compared pair by pair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tunerun.comparison.numbers import counted
from tunerun.examples import ExampleSet, as_text
from tunerun.ledger import Ledger
from tunerun.record.difference.pairs import TrialPair
from tunerun.record.difference.sections import DifferenceSection, listed, one_line

_MOST_SHOWN = 3
"""Rows of each kind in the text output."""

_MOST_IN_DOCUMENT = 100
"""Rows of each kind in `--json`: a set may be private, and the counts are complete."""

_SETS = ("training", "validation", "test")

Row = tuple[str, str]
"""Input and output."""


@dataclass(frozen=True)
class RowsDifference:
    """The difference of two example sets.

    Attributes:
        a, b: number of rows of each.
        same: number of rows in both.
        added, removed: rows that only B has, and rows that only A has.
        changed: input, output in A and output in B of rows with the same input and another output.
        is_reordered: whether the rows in both have another order.
        is_rendered: whether all outputs are the same in the same order, and no input is: another template.
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
        """Compare the rows of two sets; a row that occurs twice counts twice."""
        in_a, in_b = Counter(a), Counter(b)
        common = in_a & in_b
        removed, added = list(_only(a, in_a - common)), list(_only(b, in_b - common))
        # No row in common and every output the same, in order: another template, which is one difference and not
        # thousands of added and removed rows.
        is_rendered = len(a) == len(b) and not common and [out for _, out in a] == [out for _, out in b]
        changed: list[tuple[str, str, str]] = []
        if not is_rendered:
            # A removed and an added row with the same input are one changed row.
            outputs: dict[str, list[str]] = {}
            for text_input, output in added:
                outputs.setdefault(text_input, []).append(output)
            only_removed = []
            for text_input, output in removed:
                if waiting := outputs.get(text_input):
                    changed.append((text_input, output, waiting.pop(0)))
                else:
                    only_removed.append((text_input, output))
            left = Counter((text_input, output) for text_input, waiting in outputs.items() for output in waiting)
            removed, added = only_removed, list(_only(added, left))
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
        """The number of changes of each kind, in words."""
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
        """The first rows of each kind, one line each."""
        if self.is_rendered:  # one row is enough to see what the other template does
            (before, output), (after, _) = self.removed[0], self.added[0]
            yield f"  A {_row(before, output)}"
            yield f"  B {_row(after, output)}"
            return
        for text_input, old, new in self.changed[:_MOST_SHOWN]:
            yield f"  ! {one_line(text_input)} -> {one_line(old)} | {one_line(new)}"
        yield from _more(len(self.changed), "changed")
        for rows, sign, what in ((self.removed, "-", "removed"), (self.added, "+", "added")):
            for text_input, output in rows[:_MOST_SHOWN]:
                yield f"  {sign} {_row(text_input, output)}"
            yield from _more(len(rows), what)

    def to_json(self) -> dict[str, Any]:
        """The numbers and the first rows of each kind, as `diff --json` prints them."""
        return {
            "a": self.a,
            "b": self.b,
            "same": self.same,
            "added": len(self.added),
            "removed": len(self.removed),
            "changed": len(self.changed),
            "reordered": self.is_reordered,
            "rendered_otherwise": self.is_rendered,
            "first_added": [_example(*row) for row in islice(self.added, _MOST_IN_DOCUMENT)],
            "first_removed": [_example(*row) for row in islice(self.removed, _MOST_IN_DOCUMENT)],
            "first_changed": [
                {"text_input": text_input, "a": old, "b": new}
                for text_input, old, new in islice(self.changed, _MOST_IN_DOCUMENT)
            ],
        }


def rows_section(a: Ledger, b: Ledger, pairs: Sequence[TrialPair]) -> DifferenceSection:
    """Compare the training, validation and test rows of paired trials; sets that several trials share only once.

    Args:
        a, b: the ledgers of the two records.
        pairs: of their trials.
    """
    # A sweep of a thousand trials has few sets: each pair of digests is compared once, whichever trials have it.
    lines: list[str] = []
    documents: list[dict[str, Any]] = []
    for name in _SETS:
        places: dict[tuple[str | None, str | None], list[str]] = {}
        for pair in pairs:
            digest_a, digest_b = (
                trial.training if name == "training" else trial.held_out.get(name) for trial in (pair.a, pair.b)
            )
            places.setdefault((digest_a, digest_b), []).append(pair.name)
        for (digest_a, digest_b), trials in places.items():
            if digest_a == digest_b:
                continue
            compared = RowsDifference.of(_rows(a, digest_a), _rows(b, digest_b))
            where = "" if len(trials) == len(pairs) else f" ({listed(trials)})"
            lines += [f"{name}{where}: {compared.summary}", *compared.lines]
            documents.append({"set": name, "trials": trials, **compared.to_json()})
    return DifferenceSection("rows", lines=tuple(lines), document={"sets": documents})


def rows_of(examples: ExampleSet) -> list[Row]:
    """Return the rows of a set as pairs of texts, the input of a conversation as one text."""
    # Tuples of texts are hashed and counted in a tenth of the time that examples take.
    return [(as_text(each.input), each.output) for each in examples.examples]


def _rows(ledger: Ledger, digest: str | None) -> list[Row]:
    return [] if digest is None else rows_of(ledger.example_set(digest))


def _only(rows: Sequence[Row], wanted: Counter[Row]) -> Iterator[Row]:
    """Yield the rows that a counter contains, in the order of `rows` and as often as the counter says."""
    left = Counter(wanted)  # a copy, which is counted down
    for row in rows:
        if left[row] > 0:
            left[row] -= 1
            yield row


def _row(text_input: str, output: str) -> str:
    return f"{one_line(text_input)} -> {one_line(output)}"


def _example(text_input: str, output: str) -> dict[str, str]:
    return {"text_input": text_input, "output": output}


def _more(count: int, what: str) -> Iterator[str]:
    if count > _MOST_SHOWN:
        yield f"    ... and {count - _MOST_SHOWN:,} more {what}"
