"""`tunerun compare`: the comparison of one or several sweeps, and the opening of the test set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunerun.cli.options import ConfigDir, Json, Overrides, SweepIds
from tunerun.cli.printing import print_json
from tunerun.cli.sweep_choice import chosen_sweep
from tunerun.errors import InputError

if TYPE_CHECKING:
    from tunerun.ledger import Opening


def compare(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    sweep: SweepIds = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Folder for report.html, plots, and the results as JSON, Markdown, CSV and LaTeX.",
        ),
    ] = None,
    final: Annotated[
        bool,
        typer.Option(
            "--final", help="Open the test set for the advised point and all baselines; each opening is recorded."
        ),
    ] = False,
    json_: Json = False,
) -> None:
    """Compare the trials of sweeps on held-out examples.

    The sweep is the one that the overrides compose, or the newest one, unless --sweep names others.
    """
    from tunerun.cli import tables
    from tunerun.comparison.renderers import write_files
    from tunerun.compose import places
    from tunerun.engine.base_model import cache_folder
    from tunerun.runner.final import on_test_set, open_test

    with chosen_sweep(overrides or [], config_dir, sweep, to_write=final, as_frozen=final, asks_judges=True) as (
        ledger,
        result,
    ):
        earlier: Sequence[Opening] = ()
        if final:
            tested, *others = result.verdict.sweeps
            if others:
                raise InputError("--final: opens the test set of one sweep; name one with --sweep")
            cache = cache_folder(places(overrides or [], config_dir)[0].cache)
            with tables.progress_on_stderr() as progress:
                earlier = open_test(ledger, tested, cache=cache, progress=progress)
            result = on_test_set(ledger, result)
        if output is not None:
            for file in write_files(result.table, ledger, output):
                tables.err.print(f"wrote {file}")  # on stderr: stdout may be the JSON document
        if json_:
            openings = [{"sweep": o.sweep, "at": o.opened_at, "trials": list(o.points)} for o in earlier]
            print_json({**result.to_json(), **({"opened_before": openings} if final else {})})
        else:
            tables.result_table(result)
            tables.earlier_openings(earlier, result.verdict)
            tables.result_sentence(result)
