"""Small experiments for tests of the layers above the engine."""

from __future__ import annotations

import json
from pathlib import Path

from tunerun.compose import load
from tunerun.planning import Plan, plan

ROWS = [{"text_input": str(n), "output": str(n + 1)} for n in range(0, 60, 2)]
HELD_OUT = [{"text_input": str(n), "output": str(n + 1)} for n in range(101, 111)]


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def overrides(folder: Path, *more: str) -> list[str]:
    """An experiment on thirty examples with ten held out, runs in the folder, no tracker."""
    return [
        "name=numbers",
        f"dataset.path={write_rows(folder / 'rows.jsonl', ROWS)}",
        f"dataset.validation.path={write_rows(folder / 'held_out.jsonl', HELD_OUT)}",
        f"paths.runs={folder / 'runs'}",
        f"paths.cache={folder / 'cache'}",
        "tracking=none",
        "runner.backoff_s=0",
        *more,
    ]


def planned(folder: Path, *more: str) -> Plan:
    return plan(load(overrides(folder, *more)))
