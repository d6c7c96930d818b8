"""`make bench-gpu`, as far as a CPU can run it: with a small shape, so that the script is right where a GPU is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.benchmarks import gpu
from tests.engine import tiny_model
from tunerun.examples import Example
from tunerun.job import BaseModelRef

pytestmark = pytest.mark.engine


class SmallBench(gpu.Bench):
    """With a tokenizer that needs no package."""

    def model(self, name: str) -> BaseModelRef:
        folder = self.folder / name
        return tiny_model.model_of(folder if folder.exists() else tiny_model.build(folder))

    def examples(self) -> tuple[Example, ...]:
        return tiny_model.EXAMPLES[:3]


@pytest.mark.skipif(torch.cuda.is_available(), reason="make bench-gpu runs it here")
def test_the_script_is_right_but_for_what_needs_a_gpu(tmp_path: Path) -> None:
    """On a CPU every check runs and is right, but for 4 bits, which say that they need CUDA."""
    torch.set_num_threads(1)
    found = gpu.run(SmallBench(tmp_path, "cpu", {"small": {}}, rounds=1))
    wrong = {name: check["problem"] for name, check in found["checks"].items() if not check["is_right"]}
    assert set(wrong) == {"four_bits"}, wrong
    assert "4bit needs a CUDA device" in wrong["four_bits"]
    assert found["checks"]["pack_against_peft"]["figures"]["small: ratio"] > 0
    assert found["machine"]["device"] == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="make bench-gpu runs it here")
def test_without_a_gpu_it_is_skipped_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is measured or written, and the command succeeds."""
    assert gpu.main() == 0
    assert capsys.readouterr().out == "bench-gpu: skipped, for this machine has no CUDA device that torch sees\n"
