"""`tunerun export`: a tuned model as files for other programs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from tunerun.cli.options import Json, Runs
from tunerun.cli.printing import print_json
from tunerun.errors import InputError


def export(
    reference: Annotated[
        str, typer.Argument(metavar="REF", help="tunedModels/NAME, MLflow run id, or bundle file with one trial.")
    ] = "",
    target: Annotated[
        Path | None, typer.Argument(metavar="TARGET", help="New or empty folder, or with --to gguf a new .gguf file.")
    ] = None,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help="merged: one model for transformers; adapter: for PEFT; gguf: for llama.cpp. Required.",
        ),
    ] = "",
    best: Annotated[
        str,
        typer.Option(
            "--best",
            metavar="SWEEP",
            help="Instead of REF: the advised point of a sweep (id, experiment name or bundle file).",
        ),
    ] = "",
    quantization: Annotated[
        str | None,
        typer.Option("--quantization", metavar="TYPE", help="With --to gguf: f16 (if not given) or q8_0."),
    ] = None,
    runs: Runs = Path("runs"),
    json_: Json = False,
) -> None:
    """Write a tuned model's files for other programs.

    The written model is loaded again and asked held-out rows; the last line says how many answers equal the tuned
    model's.
    """
    from tunerun.cli import tables
    from tunerun.engine.process import ENVIRONMENT
    from tunerun.export.exporting import best_trial, named_trial
    from tunerun.export.exporting import export as write
    from tunerun.export.formats import format_of
    from tunerun.record import open_record

    if best and target is None:  # export --best SWEEP TARGET: the only argument is the target
        reference, target = "", Path(reference) if reference else None
    if bool(best) == bool(reference):
        raise InputError("give either a tuned model's name or --best SWEEP")
    if not to:
        raise InputError("--to is missing; give merged (transformers), adapter (PEFT) or gguf (llama.cpp)")
    format_of(to)
    if target is None:
        raise InputError("the folder to write is missing: tunerun export tunedModels/NAME --to merged FOLDER")

    # Read when torch and tqdm are imported, which here happens in this process, not in an engine's. The user's own
    # values stay.
    os.environ |= {"TQDM_DISABLE": "1"} | ENVIRONMENT | dict(os.environ)
    with open_record(best or reference, runs=runs) as record:
        trial = best_trial(record) if best else named_trial(record)
        exported = write(
            record, trial, to, target, quantization=quantization, say=lambda line: tables.err.print(tables.plain(line))
        )
    if json_:
        print_json(exported.to_json())
        return
    size = f"{exported.bytes / 1e6:,.1f} MB"
    tables.say(f"wrote {exported.path} ({exported.format}, {size})")
    tables.say(exported.check.sentence)
