"""`tunerun diff`: what differs between two runs, sweeps or bundles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunerun.cli.options import Json, Runs, TrackingUri
from tunerun.cli.printing import print_json

if TYPE_CHECKING:
    from tunerun.record.difference import SideBySide

_MOST_VALUES = 40
"""Values that are printed of one section."""

_MOST_BESIDE = 70
"""Characters of a value in a column; values with a longer text are printed below each other."""

_MOST_BELOW = 500
"""Characters of a value on a line of its own; `--json` has all of them."""


def diff(
    a: Annotated[
        str,
        typer.Argument(
            metavar="A",
            help="Sweep id, experiment name (its newest sweep), tunedModels/NAME, MLflow run id or bundle file.",
        ),
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="What A is compared with, named in the same way.")],
    runs: Runs = Path("runs"),
    tracking_uri: TrackingUri = None,
    json_: Json = False,
) -> None:
    """Show what differs between two trials or two sweeps.

    Compared are values of the config, rows, template, base model, YAML files, code, environment and results; the last
    line says what of it is in the key. Exit code 0, also when they differ; 2 if A or B does not exist.
    """
    from tunerun.cli.tables import out, say
    from tunerun.record import open_record
    from tunerun.record.difference import difference
    from tunerun.schema import Tracking

    tracking = Tracking(uri=tracking_uri) if tracking_uri else None
    with (
        open_record(a, runs=runs, tracking=tracking) as first,
        open_record(b, runs=runs, tracking=tracking) as second,
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
            continue
        out.print(f"[bold]{section.title}[/]")
        long = [value for value in section.values if _is_long(value.a) or _is_long(value.b)]
        _print_columns([value for value in section.values if value not in long])
        for value in long:
            where = f" ({value.where})" if value.where else ""
            note = f" [{value.note}]" if value.note else ""
            say(f"  {value.name}{where}{note}")
            say(f"    A {_text(value.a, most=_MOST_BELOW)}")
            say(f"    B {_text(value.b, most=_MOST_BELOW)}")
        for line in (*section.lines, *filter(None, [section.unknown])):
            say(f"  {line}")
    say("")
    say(compared.key_sentence)


def _print_columns(values: list[SideBySide]) -> None:
    """Print short values in columns, or below each other if the terminal is too narrow."""
    from tunerun.cli.tables import out, say
    from tunerun.record.difference.sections import one_line

    if not values:
        return
    rows = [("", "A", "B", "")]
    for value in values[:_MOST_VALUES]:
        note = ", ".join(filter(None, (value.note, value.where)))
        rows.append((one_line(value.name), _text(value.a), _text(value.b), note))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    # 8: the indent, and two spaces between columns.
    if sum(widths) + max(len(row[3]) for row in rows) + 8 <= out.width:
        for row in rows:
            # Not the last column, which ends the line.
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
            say(f"  {'  '.join(cells)}  {row[3]}".rstrip())
    else:
        for name, before, after, note in rows[1:]:
            say(f"  {name}{f'  ({note})' if note else ''}")
            say(f"    A {before}")
            say(f"    B {after}")
    if len(values) > _MOST_VALUES:
        say(f"  ... and {len(values) - _MOST_VALUES} more; --json has all of them")


def _is_long(value: object) -> bool:
    return isinstance(value, str) and len(value) > _MOST_BESIDE


def _text(value: object, most: int = _MOST_BESIDE) -> str:
    from tunerun.record.difference.sections import formatted, one_line

    if value is None:
        return "-"
    return one_line(value, most) if isinstance(value, str) and _is_long(value) else formatted(value)
