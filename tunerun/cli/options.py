"""Arguments and options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunerun.cli.completion import complete_override

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE", help="Overrides of the config, in Hydra's grammar.", autocompletion=complete_override
    ),
]
ConfigDir = Annotated[
    list[str] | None,
    typer.Option(
        "--config-dir", "-cd", metavar="FOLDER", help="Folder of YAML files, searched before conf/; may be repeated."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else there.")]
Multirun = Annotated[
    bool, typer.Option("--multirun", "-m", help="Changes nothing: a sweep needs no flag. Accepted as Hydra's.")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Run every trial again, also those that have succeeded.")]
SweepId = Annotated[
    str | None,
    typer.Option("--sweep", metavar="SWEEP", help="Sweep id, or experiment name for its newest sweep."),
]
SweepIds = Annotated[
    list[str] | None,
    typer.Option(
        "--sweep", metavar="SWEEP", help="Sweep id, or experiment name for its newest sweep; may be repeated."
    ),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        metavar="URI",
        envvar="MLFLOW_TRACKING_URI",
        help="MLflow store, searched for what the ledger lacks; not searched if not given.",
    ),
]
Runs = Annotated[Path, typer.Option("--runs", metavar="FOLDER", help="Folder of the ledger and the tuned models.")]

UI_PORT = 5000
"""Port of `tunerun ui` on 127.0.0.1 if none is given."""
