"""The table of docs/memory.md, computed: `python -m tests.engine.memory_table` writes it again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.engine.published import CONFIGS
from tunerun.engine import memory, model_shape
from tunerun.engine.memory import GIB, Workload
from tunerun.engine.precision import BFLOAT16, FLOAT32

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "memory.md"
BEGIN, END = "<!-- computed: python -m tests.engine.memory_table -->\n", "<!-- end -->"

MODELS = ("smollm2-135m", "qwen3-0.6b", "llama-3.2-1b", "qwen3-4b", "qwen3-8b")
MEMBERS = (1, 4, 12)
COLUMNS = {
    "fp32, CPU": Workload(FLOAT32, device="cpu"),
    "fp32, CUDA": Workload(FLOAT32, device="cuda"),
    "bf16, CUDA": Workload(BFLOAT16, device="cuda"),
    "4bit, CUDA": Workload(BFLOAT16, is_quantised=True, device="cuda"),
}


def table() -> str:
    """Return the rows of the table in Markdown."""
    lines = [
        f"| base model | trials in a pass | {' | '.join(COLUMNS)} |",
        f"| --- | --- |{' --- |' * len(COLUMNS)}",
    ]
    for name in MODELS:
        shape = model_shape.of_config(CONFIGS[name])
        assert shape is not None
        for members in MEMBERS:
            cells = [_cell(shape, work, members) for work in COLUMNS.values()]
            lines.append(f"| {name} ({shape.parameters / 1e9:.2g} B) | {members} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(shape: model_shape.ModelShape, work: Workload, members: int) -> str:
    both = (work, replace(work, gradient_checkpointing=True))
    return " / ".join(f"{memory.estimate(shape, each, members).total / GIB:.1f}" for each in both)


def section(begin: str) -> str:
    """Return what the document has between a comment and the next end."""
    return DOCUMENT.read_text(encoding="utf-8").partition(begin)[2].partition(END)[0]


def replaced(begin: str, content: str) -> str:
    """Return the document with other content there."""
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(begin)
    return f"{before}{begin}{content}{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    DOCUMENT.write_text(replaced(BEGIN, table()), encoding="utf-8")
