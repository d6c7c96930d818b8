"""How long the checks of a data set take."""

from __future__ import annotations

import json
import random
import tempfile
import time
from pathlib import Path

from tunerun.dataset import load_examples
from tunerun.schema import DatasetSection, HeldOut, Template
from tunerun.template import PromptTemplate

ROWS = 10_000
WORDS = 12
VOCABULARY = 2_000
LABELS = 77
"""The shape of banking77: questions of a dozen words, and 77 labels."""


def run() -> list[str]:
    """Time reading, rendering and every check of ten thousand rows with a thousand held out."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(VOCABULARY)]

    def row() -> str:
        text = " ".join(draw.choices(words, k=WORDS))
        return json.dumps({"text_input": text, "output": f"label_{words[draw.randrange(LABELS)]}"}) + "\n"

    with tempfile.TemporaryDirectory() as folder:
        training, held_out = Path(folder) / "training.jsonl", Path(folder) / "held_out.jsonl"
        training.write_text("".join(row() for _ in range(ROWS)))
        held_out.write_text("".join(row() for _ in range(ROWS // 10)))
        dataset = DatasetSection(path=str(training), validation=HeldOut(path=str(held_out)))
        start = time.perf_counter()
        load_examples(dataset, PromptTemplate(Template()), max_input_characters=None, max_output_characters=None)
        seconds = time.perf_counter() - start
    return [f"reading, rendering and checking {ROWS:,} rows and {ROWS // 10:,} held out: {seconds:.2f} s (goal 5 s)"]
