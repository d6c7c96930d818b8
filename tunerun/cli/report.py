"""`tunerun report`: the comparison as a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunerun.cli.options import ConfigDir, Json, Overrides, SweepIds
from tunerun.cli.printing import print_json
from tunerun.cli.sweep_choice import chosen_sweep

if TYPE_CHECKING:
    pass


def report(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    sweep: SweepIds = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; else reports/SWEEP.html in paths.runs.")
    ] = None,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
    json_: Json = False,
) -> None:
    """Write the comparison of one or several sweeps as one HTML page, and open it in a browser."""
    from tunerun.cli import tables
    from tunerun.cli.browser import open_in_browser
    from tunerun.comparison.renderers.report import write_page

    with chosen_sweep(overrides or [], config_dir, sweep) as (ledger, result):
        file = write_page(result.table, ledger, output)
    is_open = open_ and not json_ and open_in_browser(file)
    if json_:
        print_json({"report": str(file)})
    else:
        tables.out.print(f"{'opened' if is_open else 'wrote'} {tables.plain(str(file))}", soft_wrap=True)
