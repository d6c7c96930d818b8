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
        str, typer.Argument(metavar="REF", help="tunedModels/NAME, an MLflow run id, or a bundle of one trial.")
    ] = "",
    target: Annotated[Path | None, typer.Argument(metavar="DIR", help="A new folder, or a .gguf file.")] = None,
    to: Annotated[str, typer.Option("--to", help="merged, adapter or gguf.")] = "",
    best: Annotated[
        str, typer.Option("--best", metavar="SWEEP", help="Instead of REF: the advised point of a sweep or a bundle.")
    ] = "",
    quantization: Annotated[str | None, typer.Option("--quantization", help="Of gguf: f16 (default) or q8_0.")] = None,
    runs: Runs = "runs",
    json_: Json = False,
) -> None:
    """Write a tuned model for other programs: merged for transformers, an adapter for PEFT, a GGUF file."""
    from tunerun.cli import tables
    from tunerun.engine.process import ENVIRONMENT
    from tunerun.export.exporting import best_trial, named_trial
    from tunerun.export.exporting import export as write
    from tunerun.record import open_record

    if best and target is None:  # export --best SWEEP DIR: the only argument is the folder
        reference, target = "", Path(reference) if reference else None
    if bool(best) == bool(reference):
        raise InputError("give either a tuned model's name or --best SWEEP")
    if not to:
        raise InputError("--to is missing; give merged (transformers), adapter (PEFT) or gguf (llama.cpp)")
    if target is None:
        raise InputError("the folder to write is missing: tunerun export tunedModels/NAME --to merged DIR")
    # Both are read when torch and tqdm are imported, which happens in this process.
    os.environ |= {"TQDM_DISABLE": "1"} | ENVIRONMENT | dict(os.environ)
    with open_record(best or reference, runs=Path(runs)) as record:
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
