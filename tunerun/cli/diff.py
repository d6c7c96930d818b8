"""`tunerun diff`: what differs between two runs, sweeps or bundles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunerun.cli.options import Json, Runs, TrackingUri
from tunerun.cli.printing import print_json

if TYPE_CHECKING:
    from tunerun.record.difference import DifferenceSection, SideBySide

_ABSENT = "-"

_MOST_VALUES = 40
"""Values that are printed of one section."""

_MOST_BESIDE = 70
"""Characters of a value in a column; values with a longer text are printed below each other."""


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
    from tunerun.cli.tables import say
    from tunerun.record import open_record
    from tunerun.record.difference import difference
    from tunerun.schema import Tracking

    tracking = Tracking(uri=tracking_uri) if tracking_uri else None
    with (
        open_record(a, runs=Path(runs), tracking=tracking) as first,
        open_record(b, runs=Path(runs), tracking=tracking) as second,
    ):
        compared = difference(first, second)
    if json_:
        print_json(compared.to_json())
        return
    say(f"A: {compared.a}")
    say(f"B: {compared.b}")
    for section in compared.sections:
        if section.is_same:
            say(section.summary)
        else:
            _print_section(section)
    say("")
    say(compared.key_sentence)


def _print_section(section: DifferenceSection) -> None:
    from tunerun.cli.tables import out, say

    out.print(f"[bold]{section.title}[/]")
    long = [
        value
        for value in section.values
        if any(isinstance(side, str) and len(side) > _MOST_BESIDE for side in (value.a, value.b))
    ]
    short = [value for value in section.values if value not in long]
    if short:
        _print_values(short)
    for value in long:
        where = f" ({value.where})" if value.where else ""
        note = f" [{value.note}]" if value.note else ""
        say(f"  {value.name}{where}{note}")
        say(f"    A {_text(value.a, most=500)}")
        say(f"    B {_text(value.b, most=500)}")
    for line in (*section.lines, *filter(None, [section.unknown])):
        say(f"  {line}")


def _print_values(values: list[SideBySide]) -> None:
    """Print values in four columns, or below each other if the terminal is too narrow."""
    from tunerun.cli.tables import out, say
    from tunerun.record.difference.sections import one_line

    rows = [("", "A", "B", "")]
    for value in values[:_MOST_VALUES]:
        note = ", ".join(filter(None, (value.note, value.where)))
        rows.append((one_line(value.name), _text(value.a), _text(value.b), note))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    if sum(widths) + max(len(row[3]) for row in rows) + 8 <= out.width:
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
            say(f"  {'  '.join(cells)}  {row[3]}".rstrip())
    else:
        for name, before, after, note in rows[1:]:
            say(f"  {name}{f'  ({note})' if note else ''}")
            say(f"    A {before}")
            say(f"    B {after}")
    if len(values) > _MOST_VALUES:
        say(f"  ... and {len(values) - _MOST_VALUES} more; --json has all of them")


def _text(value: object, most: int = _MOST_BESIDE) -> str:
    """Format a value on one line.

    Args:
        value: a JSON value.
        most: characters of a text.
    """
    from tunerun.record.difference.sections import one_line, shown

    if value is None:
        return _ABSENT
    return one_line(value, most) if isinstance(value, str) and len(value) > _MOST_BESIDE else shown(value)
