"""Every check of a data set, in one table: what is an error, what is worth a warning, and why.

The errors are found where rows become examples (`checks.py`); nothing is tuned with them. The warnings are found here,
among examples that can be used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tunerun.dataset.advice import MOST_PLACES, contradictions, exact_duplicates, leaks
from tunerun.dataset.characters import wrong_characters
from tunerun.dataset.checks import RenderedRow
from tunerun.dataset.labels import imbalance, label_counts, typing_errors
from tunerun.dataset.near_duplicates import near_duplicates
from tunerun.dataset.secrets import EMAIL, secrets_in


class Severity(StrEnum):
    """What becomes of a finding."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Check:
    """One kind of finding, as the table in README has it."""

    name: str
    severity: Severity
    meaning: str


@dataclass(frozen=True)
class Finding:
    """What a check has found, in one line with places."""

    check: str
    severity: Severity
    text: str


ERROR, WARNING = Severity.ERROR, Severity.WARNING

CHECKS = (
    Check("file", ERROR, "a file that is missing, is not what its ending says, is broken, or is not UTF-8"),
    Check("column", ERROR, "a column that the template prints and a row does not have"),
    Check("cell", ERROR, "an empty cell (null) or bytes that the template prints"),
    Check("blank", ERROR, "a text_input or an output that is blank after the template"),
    Check("long", ERROR, "more characters than the backend takes"),
    Check("context", ERROR, "more tokens than the base model takes; a warning where they are estimated"),
    Check("duplicate", WARNING, "an example that stands twice: it weighs twice as much"),
    Check("near duplicate", WARNING, "two inputs that differ in a few letters: often one row, pasted and edited"),
    Check("contradiction", WARNING, "one input with different outputs: it cannot be learned"),
    Check("leak", WARNING, "an example that is trained on and held out: the comparison flatters"),
    Check("near leak", WARNING, "a held-out input that differs from a training input in a few letters"),
    Check("imbalance", WARNING, "a label at least 20 times rarer than another: it may never be answered"),
    Check("label typo", WARNING, "a rare label that looks like a common one, or differs from it in case alone"),
    Check("braces", WARNING, "`{{`, `}}` or `{%` in a rendered text: a template inside the data"),
    Check("spaces", WARNING, "white space around an output: it is learned, and exact match fails without it"),
    Check("characters", WARNING, "U+FFFD, NUL, a byte order mark or mojibake (`Ã©`) in a text: it was decoded wrongly"),
    Check("secret", WARNING, "a key or a password, by its shape; the model may repeat it. It is never shown"),
    Check("e-mail", WARNING, "an e-mail address: personal data that the model may repeat"),
)
"""The table; errors first. A check of no other kind exists."""

_SEVERITIES = {check.name: check.severity for check in CHECKS}
_BRACES = ("{{", "}}", "{%")


def inspect(
    training: Sequence[RenderedRow],
    held_out: Mapping[str, Sequence[RenderedRow]],
    most: int = MOST_PLACES,
) -> Iterator[Finding]:
    """Yield a finding for each check that has something to say, in the table's order.

    Args:
        training: rows to train on.
        held_out: `validation` and `test` rows, by name.
        most: places that one finding names.
    """
    everything = [*training, *(row for rows in held_out.values() for row in rows)]
    for name, lines in (
        ("duplicate", exact_duplicates(training, most)),
        ("near duplicate", _near_duplicates(training, most)),
        ("contradiction", contradictions(training, most)),
        ("leak", leaks(training, held_out, most)),
        ("near leak", _near_leaks(training, held_out, most)),
        ("imbalance", _imbalance(training)),
        ("label typo", _label_typos(everything, most)),
        ("braces", _braces(everything, most)),
        ("spaces", _spaces(everything, most)),
        ("characters", _characters(everything, most)),
        ("secret", _secrets(everything, most)),
        ("e-mail", _emails(everything, most)),
    ):
        for line in lines:
            yield Finding(name, _SEVERITIES[name], line)


def places(rows: Sequence[RenderedRow], most: int) -> str:
    """Where rows stand: the first few, and how many more there are."""
    told = ", ".join(row.row.place for row in rows[:most])
    return told + (f" and {len(rows) - most:,} more" if len(rows) > most else "")


def _near_duplicates(training: Sequence[RenderedRow], most: int) -> Iterator[str]:
    pairs = list(near_duplicates([row.example.text_input for row in training]))
    if pairs:
        told = _told([(training[first], training[second]) for first, second in pairs], most)
        yield f"near duplicates among the training inputs ({len(pairs):,}): {told}; keep one of each"


def _near_leaks(
    training: Sequence[RenderedRow], held_out: Mapping[str, Sequence[RenderedRow]], most: int
) -> Iterator[str]:
    for name, rows in held_out.items():
        texts = [row.example.text_input for row in (*training, *rows)]
        both = [*training, *rows]
        pairs = [(both[a], both[b]) for a, b in near_duplicates(texts) if a < len(training) <= b]
        if pairs:
            yield (
                f"near duplicates of training inputs among the {name} inputs ({len(pairs):,}): {_told(pairs, most)}; "
                "remove one of each, or the comparison flatters"
            )


def _told(pairs: Sequence[tuple[RenderedRow, RenderedRow]], most: int) -> str:
    told = ", ".join(f"{first.row.place} and {second.row.place}" for first, second in pairs[:most])
    return told + (", ..." if len(pairs) > most else "")


def _imbalance(training: Sequence[RenderedRow]) -> Iterator[str]:
    found = imbalance(label_counts([row.example.output for row in training]))
    if found is not None:
        (common, often), (rare, seldom) = found
        yield (
            f"{training[0].row.file}: the output {rare!r} stands in {seldom:,} training examples and {common!r} in "
            f"{often:,}; add examples of the rare one"
        )


def _label_typos(rows: Sequence[RenderedRow], most: int) -> Iterator[str]:
    counts = label_counts([row.example.output for row in rows])
    for label, intended in typing_errors(counts):
        found = [row for row in rows if row.example.output == label]
        yield (
            f"{places(found, most)}: the output {label!r} looks like {intended!r}, which stands {counts[intended]:,} "
            "times; write one of them"
        )


def _braces(rows: Sequence[RenderedRow], most: int) -> Iterator[str]:
    found = [row for row in rows if any(brace in text for text in _texts(row) for brace in _BRACES)]
    if found:
        where = places(found, most)
        yield f"{where}: template braces are left in the text; render the rows once, or escape what is meant"


def _spaces(rows: Sequence[RenderedRow], most: int) -> Iterator[str]:
    found = [row for row in rows if row.example.output != row.example.output.strip()]
    if found:
        yield (
            f"{places(found, most)}: white space around the output is learned too; "
            "write {{ output | trim }} in template.output, or take it away"
        )


def _characters(rows: Sequence[RenderedRow], most: int) -> Iterator[str]:
    found: dict[str, list[RenderedRow]] = {}
    for row in rows:
        for kind in dict.fromkeys(kind for text in _texts(row) for kind in wrong_characters(text)):
            found.setdefault(kind, []).append(row)
    for kind, holders in found.items():
        yield f"{places(holders, most)}: holds {kind}; write the file again as UTF-8 from its source"


def _secrets(rows: Sequence[RenderedRow], most: int) -> Iterator[str]:
    found: dict[str, list[RenderedRow]] = {}
    for row in rows:
        for kind in dict.fromkeys(kind for text in _texts(row) for kind in secrets_in(text)):
            found.setdefault(kind, []).append(row)
    for kind, holders in found.items():
        yield f"{places(holders, most)}: looks like {kind}; take it out, and revoke it if it is real"


def _emails(rows: Sequence[RenderedRow], most: int) -> Iterator[str]:
    found = [row for row in rows if any("@" in text and EMAIL.search(text) for text in _texts(row))]
    if found:
        yield f"{places(found, most)}: an e-mail address; replace it with one at example.com unless it must be learned"


def _texts(row: RenderedRow) -> tuple[str, str]:
    return row.example.text_input, row.example.output
