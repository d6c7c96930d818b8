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
    from tunerun.ledger import Ledger, Opening
    from tunerun.runner import SweepResult


def compare(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    sweep: SweepIds = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for report.html, results.* and plots."),
    ] = None,
    final: Annotated[
        bool, typer.Option("--final", help="Open the test set for the advised point and all baselines; recorded.")
    ] = False,
    json_: Json = False,
) -> None:
    """Compare the trials of one or several sweeps on held-out examples; write the results to files with --output."""
    from tunerun.cli import tables
    from tunerun.comparison.renderers import write_files

    with chosen_sweep(overrides or [], config_dir, sweep, to_write=final, as_frozen=final, asks_judges=True) as (
        ledger,
        result,
    ):
        earlier: Sequence[Opening] = ()
        if final:
            result, earlier = _opened(ledger, result, config_dir)
        if output is not None:
            for file in write_files(result.table, ledger, output):
                tables.err.print(f"wrote {file}")
        if json_:
            openings = [{"sweep": o.sweep, "at": o.opened_at, "trials": list(o.points)} for o in earlier]
            print_json({**result.to_json(), **({"opened_before": openings} if final else {})})
        else:
            tables.result_table(result)
            tables.earlier_openings(earlier, result.verdict)
            tables.result_sentence(result)


def _opened(ledger: Ledger, result: SweepResult, config_dir: list[str] | None) -> tuple[SweepResult, Sequence[Opening]]:
    """Open the test set of a sweep; return the comparison on it, and its earlier openings."""
    from tunerun.cli.progress import progress_on_stderr
    from tunerun.compose import places
    from tunerun.engine.base_model import cache_folder
    from tunerun.runner.final import on_test_set, open_test

    sweep, *others = result.verdict.sweeps
    if others:
        raise InputError("--final: opens the test set of one sweep; name one with --sweep")
    with progress_on_stderr() as progress:
        earlier = open_test(ledger, sweep, cache=cache_folder(places([], config_dir)[0].cache), progress=progress)
    return on_test_set(ledger, result), earlier
