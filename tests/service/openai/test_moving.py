"""The program of docs/moving-off-openai-fine-tuning.md runs, and its figures are those of the files that it names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.engine.tiny_model import EXAMPLES
from tests.rigs.running_service import RunningService
from tunerun.service.openai import hyperparameters

GUIDE = (REPOSITORY / "docs/moving-off-openai-fine-tuning.md").read_text(encoding="utf-8")
BANKING = REPOSITORY / "experiments/banking_intents/results.json"


@pytest.mark.usefixtures("sdk")  # deletes what the program has made
def test_the_program_runs_as_printed(
    running: RunningService, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It tunes, and prints events, a checkpoint for each epoch, and an answer.

    Address and base model are replaced by those of the test's service.
    """
    (program,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    rows = [
        [{"role": "user", "content": one.text_input}, {"role": "assistant", "content": one.output}] for one in EXAMPLES
    ]
    Path("train.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    monkeypatch.setenv("TUNERUN_API_KEY", running.key.secret)
    program = program.replace("http://127.0.0.1:8000", running.address).replace("smollm2-135m", "tiny")
    exec(program, {})  # noqa: S102 - what a user would paste
    printed = capsys.readouterr().out
    assert "The job has successfully completed" in printed
    epochs = 100 // len(EXAMPLES)  # what `auto` is for so few
    assert len(re.findall(r"^\d+ ft:tiny:tunerun:router:", printed, re.MULTILINE)) == epochs


def test_the_figures_are_those_of_the_experiment() -> None:
    """Every share of correct answers in the guide is in the results that it links to."""
    results: dict[str, Any] = json.loads(BANKING.read_text())
    points = {
        point["overrides"]["dataset.limit"]: point["estimates"]["eval/accuracy"]
        for point in results["points"]
        if point["overrides"]["template"] == "bank_question"
    }
    for examples, found in points.items():
        row = f"| tuned on {examples} examples | {100 * found['value']:.0f} ± {100 * found['spread']:.0f} % |"
        assert row in GUIDE
    assert "61 percentage points (95 % interval 46 to 76" in GUIDE
    assert "+61 points, 95 % interval 46 to 76" in results["verdict"]


def test_the_table_of_hyperparameters_is_that_of_the_code() -> None:
    """The meaning of `auto` in the guide is that of the module."""
    page = (REPOSITORY / "docs/serve.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"\| examples \| n_epochs.*?\n\n", page, re.DOTALL)
    assert table in str(hyperparameters.__doc__)
