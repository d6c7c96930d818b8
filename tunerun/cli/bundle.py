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
        str, typer.Argument(metavar="SWEEP", help="Id of a sweep, an experiment (its newest), or an MLflow run id.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; else SWEEP.zip here.")
    ] = None,
    no_models: Annotated[bool, typer.Option("--no-models", help="Leave the adapters out.")] = False,
    author: Annotated[list[str] | None, typer.Option("--author", help="Author of the study; may be repeated.")] = None,
    affiliation: Annotated[
        list[str] | None, typer.Option("--affiliation", help="An author's organisation: one for all, or one for each.")
    ] = None,
    runs: Runs = "runs",
    json_: Json = False,
) -> None:
    """Write a sweep into one file (RO-Crate) that needs neither this machine nor MLflow to be run again."""
    from tunerun.cli.tables import note, say
    from tunerun.compose import places
    from tunerun.record import open_record
    from tunerun.record.bundle.crate import Author
    from tunerun.record.bundle.writing import write_bundle

    names: list[str] = author or []
    affiliations: list[str | None] = [*(affiliation or ())]
    if affiliations and len(affiliations) not in (1, len(names)):
        raise InputError(
            f"--affiliation: given {len(affiliations)} times for {len(names)} --author; give one for all, or one for "
            "each"
        )
    organisations = affiliations if len(affiliations) == len(names) else [*affiliations, None][:1] * len(names)
    authors = [Author(name, organisation) for name, organisation in zip(names, organisations, strict=True)]
    _, tracking = places([])
    with open_record(sweep, runs=Path(runs), tracking=tracking) as record:
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
