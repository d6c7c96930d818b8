"""Arguments and options that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

from tunerun.cli.completion import complete_override

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Overrides of the config.", autocompletion=complete_override),
]
ConfigDir = Annotated[
    list[str] | None,
    typer.Option("--config-dir", "-cd", help="Directory of YAML files, searched first; may be repeated."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else there.")]
Multirun = Annotated[bool, typer.Option("--multirun", "-m", help="Accepted as Hydra's; sweeps need no flag here.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Run every trial again, also those that have succeeded.")]
SweepId = Annotated[str | None, typer.Option("--sweep", help="Id of a sweep, as `status` lists them.")]
SweepIds = Annotated[
    list[str] | None, typer.Option("--sweep", help="Id of a sweep, or an experiment's newest; several at once.")
]
TrackingUri = Annotated[
    str | None,
    typer.Option("--tracking-uri", envvar="MLFLOW_TRACKING_URI", help="MLflow, searched for what the ledger lacks."),
]
Runs = Annotated[str, typer.Option("--runs", help="Folder of the ledger and the tuned models.")]

UI_PORT = 5000
"""Port of `tunerun ui` on 127.0.0.1 if none is given."""
