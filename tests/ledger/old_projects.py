"""Projects with ledgers and tuned models as earlier versions really wrote them.

`formats/ledger-N.sql` are dumps of the files that commits cdc7db3^ (format 1), bdb077e (format 2), f318036 (format 3),
4d478b9 (format 4) and 9f22fec (format 5, with a shorter list of packages) wrote: the sweep of `OVERRIDES` with `seed=0,1`, then with `seed=0,1,2`, interrupted after the third
trial's second step. The tuned models are those of formats 1 and 3.
"""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

from tests.engine import tiny_model
from tunerun.ledger import SCHEMA_VERSION, Ledger

FORMATS = Path(__file__).with_name("formats")
WRITTEN = range(1, SCHEMA_VERSION + 1)
"""Every format so far, the current one included."""

SWEEPS = {
    1: ("old-71eb597b", "old-ff6757db"),
    2: ("old-71eb597b", "old-ff6757db"),
    3: ("old-38b14e13", "old-ff5d96a3"),
    4: ("old-a330ee2b", "old-df585a3b"),
    5: ("old-a330ee2b", "old-df585a3b"),
}
"""The two sweeps of each kept format."""
MODELS = {
    1: "tunedModels/old-f3c99b10e697",
    2: "tunedModels/old-f3c99b10e697",
    3: "tunedModels/old-a508555953ac",
    4: "tunedModels/old-a508555953ac",
    5: "tunedModels/old-a508555953ac",
}
"""The tuned model of the first trial of each."""

OVERRIDES = (
    "name=old",
    "dataset.path=rows.jsonl",
    "dataset.validation.path=held_out.jsonl",
    "tracking=none",
    "model=huggingface",
    "model.name=./tiny",
    "backend.threads=1",
    "backend.device=cpu",
    "hyperparameters.epoch_count=2",
    "hyperparameters.batch_size=2",
    "hyperparameters.learning_rate=0.01",
    "hyperparameters.adapter_rank=1",
    "evaluation.generation.max_output_tokens=4",
    "paths.cache=cache",
)


def kept(format_: int) -> int:
    """The format whose file is kept: the one before for the current format."""
    return min(format_, max(SWEEPS))


def write_project(folder: Path, format_: int) -> Path:
    """Write the project with a ledger of a format, and return its runs folder."""
    for name in ("rows.jsonl", "held_out.jsonl"):
        shutil.copy(FORMATS / name, folder / name)
    tiny_model.build(folder / "tiny")
    runs = folder / "runs"
    shutil.copytree(FORMATS / f"tuned_models-{1 if kept(format_) < 3 else 3}", runs / "tuned_models")
    write_ledger(runs / "ledger.db", format_)
    return runs


def write_ledger(path: Path, format_: int) -> None:
    """Write the project's ledger; the current format by migrating the last one that is kept."""
    raw = sqlite3.connect(path)
    raw.execute("PRAGMA journal_mode = WAL")
    raw.executescript((FORMATS / f"ledger-{kept(format_)}.sql").read_text())
    raw.close()
    if kept(format_) != format_:
        Ledger(path).close()
