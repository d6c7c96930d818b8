"""What a process imports once that others are forked from: everything a run imports, so that each starts at once."""

from __future__ import annotations

import importlib
import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

for _name in (
    "hydra",
    "matplotlib.pyplot",
    "mlflow",
    "mlflow.store.tracking.sqlalchemy_store",
    "pandas",
    "rich.progress",
    "tunerun.cli",
    "tunerun.cli.progress",
    "tunerun.compose",
    "tunerun.planning",
    "tunerun.plots",
    "tunerun.runner",
    "tunerun.tracking.store",
    "tunerun.tracking.writer",
):
    importlib.import_module(_name)
