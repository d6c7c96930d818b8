"""`tunerun appendix`: what reviewers' checklists ask of a sweep, from its record."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tunerun.cli.options import Json, Runs, TrackingUri
from tunerun.cli.printing import print_json
from tunerun.errors import InputError


def appendix(
    sweep: Annotated[
        str,
        typer.Argument(
            metavar="SWEEP",
            help="Sweep id, experiment name (its newest sweep), MLflow run id or bundle file.",
        ),
    ],
    format_: Annotated[str, typer.Option("--format", metavar="FORMAT", help="markdown or latex.")] = "markdown",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="File to write; stdout if not given.")
    ] = None,
    runs: Runs = Path("runs"),
    tracking_uri: TrackingUri = None,
    json_: Json = False,
) -> None:
    """Write a reproducibility appendix from a sweep's record.

    It answers the questions of NeurIPS' checklist and of REFORMS, claims nothing beyond the record, and lists the
    questions that a record cannot answer.
    """
    from tunerun.record import open_record
    from tunerun.record.appendix import appendix as appendix_of
    from tunerun.record.appendix.renderers import renderer
    from tunerun.schema import Tracking

    chosen = renderer(format_)
    tracking = Tracking(uri=tracking_uri) if tracking_uri else None
    with open_record(sweep, runs=runs, tracking=tracking) as record:
        described = appendix_of(record)
    if json_:
        print_json(described.to_json())
        return
    text = chosen.render(described)
    if output is None:
        sys.stdout.write(text)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"--output {output}: {error.strerror}; choose a file that can be written") from error
    sys.stderr.write(f"wrote {output}\n")
