"""The engine's figures, and the machine that they are of: printed, and kept in `experiments/engine_speed/results.json`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from datetime import date

from tests.benchmarks import answers, engine, sweep_cost

OUTPUT = sweep_cost.EXPERIMENTS / "engine_speed" / "results.json"


def run() -> Iterator[str]:
    """Yield the lines of a training step, of twelve trials and of held-out answers; keep them at the end."""
    from tunerun.engine import machine, network

    lines = []
    for part in (engine, sweep_cost, answers):
        for line in part.run():
            lines.append(line)
            yield line
    on = asdict(machine.trained_on(network.choose_device("cpu"), ""))
    place = {name: on[name] for name in ("processor", "instructions", "build", "packages")} | {"cores": os.cpu_count()}
    kept = {"date": date.today().isoformat(), "machine": place, "figures": lines}
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
