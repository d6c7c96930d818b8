"""The answers of a report, made small: each text once for its row, and as many models' as fit into the page."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunerun.comparison.numbers import counted
from tunerun.comparison.report.plots import MarkKind, mark_kind, point_name
from tunerun.comparison.report.sources import ReportSources, ShownAnswers
from tunerun.comparison.results import Verdict
from tunerun.examples import as_text

MAX_PACKED_BYTES = 3_000_000
"""Of the packed answers, in characters of base64: with the library and the tables the page stays under 5 MB."""

MAX_TEXT_CHARACTERS = 2_000
"""Of one text; a longer one is cut, and the cut text says so."""


@dataclass(frozen=True)
class AnswerColumn:
    """The answers of a point or a baseline.

    Attributes:
        name: what the column is called; short: its number or its name alone.
        answers: of each trial of the point; one of a baseline.
    """

    name: str
    short: str
    kind: MarkKind
    is_shown: bool
    answers: tuple[ShownAnswers, ...]


@dataclass(frozen=True)
class PackedAnswers:
    """Answers as the page carries them.

    Attributes:
        document: JSON values; see `document_of`.
        omitted: what did not fit, in one sentence; empty: nothing was omitted.
    """

    document: Mapping[str, Any]
    omitted: str


SHOWN_AT_FIRST = 4
"""Columns of points, beside two baselines, that a page shows until the reader chooses others."""


def columns(verdict: Verdict, sources: ReportSources) -> list[AnswerColumn]:
    """Everything that has answered, in the order in which it is kept where not all fits.

    First the point that the sentence is about, then the baselines (the one that is hardest to beat first), then the
    tied points, then all others.
    """
    hardest = verdict.decision.against
    ranked: list[tuple[int, AnswerColumn]] = []
    shown_baselines = 0
    for baseline in sorted(verdict.baselines, key=lambda b: b.name != hardest):
        if (answered := sources.answers.get(baseline.subject)) is not None:
            is_shown = shown_baselines < 2
            shown_baselines += is_shown
            ranked.append((1, AnswerColumn(baseline.name, baseline.name, MarkKind.BASELINE, is_shown, (answered,))))
    shown_points = 0
    for point in sorted(verdict.points, key=lambda p: not p.is_tied):
        keys = [verdict.trials[number].record.key for number in point.trials]
        answers = tuple(sources.answers[key] for key in keys if key in sources.answers)
        if not answers:
            continue
        kind = mark_kind(verdict, point)
        is_first = point.number in (verdict.decision.advised, verdict.decision.about)
        is_shown = is_first or shown_points < SHOWN_AT_FIRST - 1
        shown_points += is_shown and not is_first
        rank = 0 if is_first else 2 if kind is MarkKind.TIED else 3
        ranked.append((rank, AnswerColumn(point_name(point), f"point {point.number}", kind, is_shown, answers)))
    return [column for _, column in sorted(ranked, key=lambda pair: pair[0])]


def pack_answers(verdict: Verdict, sources: ReportSources, max_bytes: int = MAX_PACKED_BYTES) -> PackedAnswers:
    """Return the answers that fit into a page.

    Args:
        max_bytes: of the packed answers; where not all columns fit, the most important are kept, and where not even
            one does, the first rows of two.
    """
    ordered = columns(verdict, sources)
    rows = len(sources.rows)
    if not ordered or not rows:
        return PackedAnswers({}, "")
    kept = _most(len(ordered), max_bytes, lambda n: _size(document_of(ordered[:n], sources, rows)))
    if kept:
        omitted = ""
        if kept < len(ordered):
            left = len(ordered) - kept
            omitted = (
                f"The answers of {counted(left, 'column')} of {len(ordered)} are omitted, because a page carries at "
                f"most {max_bytes / 1e6:g} MB of answers; those of the advised point, the baselines and the tied "
                "points are kept first. All are in the ledger."
            )
        return PackedAnswers(document_of(ordered[:kept], sources, rows), omitted)
    # Two columns can still be compared, row by row.
    few = ordered[:2]
    kept_rows = _most(rows, max_bytes, lambda n: _size(document_of(few, sources, n)))
    return PackedAnswers(
        document_of(few, sources, kept_rows),
        f"Only the first {counted(kept_rows, 'row')} of {rows:,} and {counted(len(few), 'column')} of {len(ordered)} "
        f"are shown, because a page carries at most {max_bytes / 1e6:g} MB of answers. All are in the ledger.",
    )


def _most(count: int, max_bytes: int, size: Callable[[int], int]) -> int:
    """About the largest number up to a count whose size fits; 0: not even one."""
    # A size is nearly proportional to the number, so with 3 % less than in proportion the next try usually fits.
    # Halving would take eight packings, of seconds each in a large sweep.
    while count and (needed := size(count)) > max_bytes:
        count = int(count * 0.97 * max_bytes / needed)
    return count


def document_of(kept: Sequence[AnswerColumn], sources: ReportSources, rows: int) -> dict[str, Any]:
    """Return the answers as JSON values.

    Args:
        kept: the columns to write.
        rows: number of rows to write, from the first.

    Returns:
        `rows` is a list of [input, expected, texts, right], where `texts` are the different answers of the row and
        `right` is 1 or 0 for each of them; `given` has, for each column and each of its trials, the index of its answer
        in every row. An answer that counts as right for one column and as wrong for another is listed twice.
    """
    # Models of one sweep often give the same answer: each text is written once for its row, and columns are indexes.
    table: list[list[Any]] = []
    indexes_of: list[list[list[int]]] = [[[] for _ in column.answers] for column in kept]
    for row, example in enumerate(sources.rows[:rows]):
        different: dict[tuple[str, bool], int] = {}
        for column, indexes in zip(kept, indexes_of, strict=True):
            for answered, index in zip(column.answers, indexes, strict=True):
                pair = (answered.texts[row], answered.right[row])
                index.append(different.setdefault(pair, len(different)))
        texts, right = [cut(answer) for answer, _ in different], [int(is_right) for _, is_right in different]
        table.append([cut(as_text(example.input)), cut(example.output), texts, right])
    return {
        "columns": [[c.name, c.short, c.kind.value, int(c.is_shown)] for c in kept],
        "rows": table,
        "given": indexes_of,
    }


def cut(text: str) -> str:
    """Return a text that is short enough to be shown; what is cut off is counted."""
    if len(text) <= MAX_TEXT_CHARACTERS:
        return text
    return f"{text[:MAX_TEXT_CHARACTERS]}... ({len(text) - MAX_TEXT_CHARACTERS:,} more characters)"


def pack(document: object) -> str:
    """Return a JSON value as the page carries it: deflated, in base64, the same for the same value."""
    # Base64 has no character that could end the script element which carries it, whatever an answer contains.
    content = json.dumps(document, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode()
    return base64.b64encode(zlib.compress(content, 6)).decode()


def _size(document: object) -> int:
    return len(pack(document))
