"""`tunerun report`: the comparison as a page."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from tunerun.cli.options import ConfigDir, Json, Overrides, SweepIds
from tunerun.cli.printing import print_json
from tunerun.cli.sweep_choice import chosen_sweep


def report(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    sweep: SweepIds = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="File to write; reports/SWEEP.html in paths.runs if not given."
        ),
    ] = None,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
    json_: Json = False,
) -> None:
    """Write the comparison of sweeps as an HTML page, and open it.

    The sweep is the one that the overrides compose, or the newest one, unless --sweep names others.
    """
    from tunerun.cli import tables
    from tunerun.comparison.renderers.report import write_page

    with chosen_sweep(overrides or [], config_dir, sweep) as (ledger, result):
        file = write_page(result.table, ledger, output)
    is_open = open_ and not json_ and _open_in_browser(file)
    if json_:
        print_json({"report": str(file)})
    else:
        tables.say(f"{'opened' if is_open else 'wrote'} {file}")


def _open_in_browser(file: Path) -> bool:
    """Open a file in the user's browser, or in the program that `BROWSER` names; return whether one was started."""
    # Without a display Python chooses a browser for terminals, which shows no plot and takes over the terminal.
    has_display = os.name == "nt" or sys.platform == "darwin"
    if not has_display and not any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")):
        return False
    try:
        return webbrowser.open(file.absolute().as_uri())
    except (webbrowser.Error, OSError):
        return False
