"""`tunerun bundle`: a sweep as one file that can be run again elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunerun.cli.options import Json, Runs
from tunerun.cli.printing import print_json
from tunerun.errors import InputError


def bundle(
    sweep: Annotated[
        str,
        typer.Argument(metavar="SWEEP", help="Sweep id, experiment name (its newest sweep) or MLflow run id."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="File to write; SWEEP.zip in this folder if not given."),
    ] = None,
    no_models: Annotated[bool, typer.Option("--no-models", help="Omit the adapters of the tuned models.")] = False,
    author: Annotated[
        list[str] | None, typer.Option("--author", metavar="NAME", help="Author of the study; may be repeated.")
    ] = None,
    affiliation: Annotated[
        list[str] | None,
        typer.Option("--affiliation", metavar="NAME", help="Authors' organisation: one for all, or one for each."),
    ] = None,
    runs: Runs = Path("runs"),
    json_: Json = False,
) -> None:
    """Write a sweep to one file that can be run again elsewhere.

    The file is an RO-Crate. Running it again needs neither this machine nor MLflow.
    """
    from tunerun.cli.tables import note, say
    from tunerun.compose import places
    from tunerun.record import open_record
    from tunerun.record.bundle.crate import Author
    from tunerun.record.bundle.writing import write_bundle

    names = author or []
    organisations: list[str | None] = [*(affiliation or [])]
    if len(organisations) < 2:  # one for all authors, or none
        organisations = (organisations or [None]) * len(names)
    if len(organisations) != len(names):
        raise InputError(
            f"--affiliation: given {len(organisations)} times for {len(names)} --author; give one for all, or one for "
            "each"
        )
    authors = [Author(name, organisation) for name, organisation in zip(names, organisations, strict=True)]

    # A run id that the ledger lacks is searched for in MLflow: in the store that the config of this folder names.
    _, tracking = places([])
    with open_record(sweep, runs=runs, tracking=tracking) as record:
        target = output or Path(f"{record.sweep.id}.zip")
        written = write_bundle(record, target, with_models=not no_models, authors=authors)

    for text in written.notes:
        note(text)
    if json_:
        print_json(
            {
                "bundle": str(written.path),
                "files": written.files,
                "bytes": written.bytes,
                "tuned_models": written.tuned_models,
                "notes": list(written.notes),
            }
        )
        return
    adapters = "no adapters" if not written.tuned_models else f"{written.tuned_models} adapters"
    say(f"wrote {written.path}: {written.bytes / 1e6:.1f} MB, {written.files} files, {adapters}")
    say(f"To check it anywhere: tunerun verify {written.path}")
