"""Projects with ledgers and tuned models as earlier versions really wrote them.

`formats/ledger-N.sql` are dumps of the files that commits cdc7db3^ (format 1) and bdb077e (format 2) wrote: the sweep of
`OVERRIDES` with `seed=0,1`, then with `seed=0,1,2`, interrupted after the third trial's second step. The tuned models
are those of format 1.
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


def write_project(folder: Path, format_: int) -> Path:
    """Write the project with a ledger of a format, and return its runs folder."""
    for name in ("rows.jsonl", "held_out.jsonl"):
        shutil.copy(FORMATS / name, folder / name)
    tiny_model.build(folder / "tiny")
    runs = folder / "runs"
    shutil.copytree(FORMATS / "tuned_models-1", runs / "tuned_models")
    write_ledger(runs / "ledger.db", format_)
    return runs


def write_ledger(path: Path, format_: int) -> None:
    """Write the project's ledger; the current format by migrating the last one that is kept."""
    kept = format_ if format_ < SCHEMA_VERSION else SCHEMA_VERSION - 1
    if not (FORMATS / f"ledger-{kept}.sql").exists():
        kept = format_
    raw = sqlite3.connect(path)
    raw.execute("PRAGMA journal_mode = WAL")
    raw.executescript((FORMATS / f"ledger-{kept}.sql").read_text())
    raw.close()
    if kept != format_:
        Ledger(path).close()
