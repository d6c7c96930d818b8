"""`tunerun init`: a small project to start from."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from tunerun.cli.options import Json
from tunerun.cli.printing import print_json


def init(
    directory: Annotated[Path, typer.Argument(help="A new or empty directory.")] = Path(), json_: Json = False
) -> None:
    """Write a small project to start from: a conf directory, examples, an experiment."""
    from tunerun.cli.tables import out
    from tunerun.scaffold import write_project

    files = write_project(directory)
    if json_:
        print_json({"files": [str(file) for file in files]})
        return
    for file in files:
        out.print(f"wrote {file}")
    prefix = "" if directory == Path() else f"cd {shlex.quote(str(directory))} && "
    out.print(f"Next: {prefix}tunerun plan experiment=support, then tunerun run experiment=support")
