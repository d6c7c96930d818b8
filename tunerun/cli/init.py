"""`tunerun init`: a small project to start from."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from tunerun.cli.options import Json
from tunerun.cli.printing import print_json


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder to write to; this folder if not given.")
    ] = Path(),
    json_: Json = False,
) -> None:
    """Write a small project to start from.

    It has a conf folder with a data set, a template and an experiment, and 40 examples. No file is overwritten.
    """
    from tunerun.cli.tables import out
    from tunerun.scaffold import write_project

    files = write_project(folder)
    if json_:
        print_json({"files": [str(file) for file in files]})
        return
    for file in files:
        out.print(f"wrote {file}")
    prefix = "" if folder == Path() else f"cd {shlex.quote(str(folder))} && "
    out.print(f"Next: {prefix}tunerun plan experiment=support, then tunerun run experiment=support")
