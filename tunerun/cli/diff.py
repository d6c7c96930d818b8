"""`tunerun diff`: what differs between two runs, sweeps or bundles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunerun.cli.options import Json, Runs, TrackingUri
from tunerun.cli.printing import print_json

if TYPE_CHECKING:
    from tunerun.record.difference import DifferenceSection, RecordDifference, SideBySide

_ABSENT = "-"

_MOST_VALUES = 40
"""Values of one section that are printed; most differ in many trials alike and are one line."""

_MOST_BESIDE = 70
"""Characters of a value beside another one; a sentence is printed below it."""


def diff(
    a: Annotated[
        str, typer.Argument(metavar="A", help="A sweep's id, an experiment, a tuned model, a run id, a bundle.")
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="What it is compared with.")],
    runs: Runs = "runs",
    tracking_uri: TrackingUri = None,
    json_: Json = False,
) -> None:
    """Show what differs between two trials or two sweeps, and what of it is in the key.

    Values of the config, rows, template, base model, YAML files, code, environment, results. Exit code 0, also when
    they differ; 2: a reference is wrong.
    """
    from tunerun.record import open_record
    from tunerun.record.difference import difference
    from tunerun.schema import Tracking

    tracking = Tracking(uri=tracking_uri) if tracking_uri else None
    with (
        open_record(a, runs=Path(runs), tracking=tracking) as first,
        open_record(b, runs=Path(runs), tracking=tracking) as second,
    ):
        found = difference(first, second)
    if json_:
        print_json(found.to_json())
    else:
        _print(found)


def _print(found: RecordDifference) -> None:
    from tunerun.cli.tables import out, plain

    for name, origin in (("A", found.a), ("B", found.b)):
        out.print(plain(f"{name}: {origin}"), soft_wrap=True)
    for section in found.sections:
        _print_section(section)
    out.print()
    out.print(plain(found.key_sentence), soft_wrap=True)


def _print_section(section: DifferenceSection) -> None:
    from tunerun.cli.tables import out, plain

    if section.is_same:
        out.print(plain(section.summary), soft_wrap=True)
        return
    out.print(f"[bold]{section.title}[/]")
    long = [value for value in section.values if _is_long(value)]
    short = [value for value in section.values if not _is_long(value)]
    if short:
        _print_values(short)
    for value in long:
        where = f" ({value.where})" if value.where else ""
        note = f" [{value.note}]" if value.note else ""
        out.print(plain(f"  {value.name}{where}{note}"), soft_wrap=True)
        for side, text in (("A", value.a), ("B", value.b)):
            out.print(plain(f"    {side} {_text(text, most=500)}"), soft_wrap=True)
    for line in (*section.lines, *filter(None, [section.unknown])):
        out.print(plain(f"  {line}"), soft_wrap=True)


def _print_values(values: list[SideBySide]) -> None:
    """Values in four columns; where the terminal is too narrow, below each other."""
    from tunerun.cli.tables import out, plain
    from tunerun.record.difference.sections import one_line

    rows = [("", "A", "B", "")]
    for value in values[:_MOST_VALUES]:
        note = ", ".join(filter(None, (value.note, value.where)))
        rows.append((one_line(value.name), _text(value.a), _text(value.b), note))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    if sum(widths) + max(len(row[3]) for row in rows) + 8 <= out.width:
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
            out.print(plain(f"  {'  '.join(cells)}  {row[3]}".rstrip()), soft_wrap=True)
        rows = []
    for name, before, after, note in rows[1:]:
        out.print(plain(f"  {name}{f'  ({note})' if note else ''}"), soft_wrap=True)
        out.print(plain(f"    A {before}"), soft_wrap=True)
        out.print(plain(f"    B {after}"), soft_wrap=True)
    if len(values) > _MOST_VALUES:
        out.print(f"  ... and {len(values) - _MOST_VALUES} more; --json has all of them")


def _is_long(value: SideBySide) -> bool:
    return any(isinstance(side, str) and len(side) > _MOST_BESIDE for side in (value.a, value.b))


def _text(value: object, most: int = _MOST_BESIDE) -> str:
    from tunerun.record.difference.sections import one_line, shown

    if value is None:
        return _ABSENT
    return one_line(value, most) if isinstance(value, str) and len(value) > _MOST_BESIDE else shown(value)
