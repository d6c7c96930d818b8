"""Shell completion knows groups, choices and keys, as Hydra's does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tunerun.compose import completions

TEMPLATES = ["bank_intents", "bank_question", "plain", "question_context"]
"""The shipped ones."""


@pytest.mark.process
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("templ", ["template.", "template="]),
        ("template=", [f"template={name}" for name in TEMPLATES]),
        ("template=plain,", [f"template=plain,{name}" for name in TEMPLATES]),
        ("template=q", ["template=question_context"]),
        ("template.", ["template.output=", "template.system=", "template.text_input="]),
        ("hyperparameters.ep", ["hyperparameters.epoch_count=", "hyperparameters.epoch_count=5"]),
        ("backend.base", ["backend.base_url="]),
        ("backend.device=c", ["backend.device=cpu", "backend.device=cuda"]),
        ("backend.oauth=", ["backend.oauth=true", "backend.oauth=false"]),
        ("dataset.validation.", ["dataset.validation.fraction=", "dataset.validation.path="]),
        ("exper", ["experiment=", "experiment=banking_intents", "experiment=next_number", "experiment=mine"]),
        ("+experiment=mi", ["+experiment=mine"]),
        ("~tem", ["~template", "~template."]),
        ("nothing_like_it", []),
        ("nothing=", []),
        ("point", []),
    ],
)
def test_an_override_is_completed(typed: str, expected: list[str]) -> None:
    """Groups and keys complete level by level, choices after `=` and commas, including those of the user's conf."""
    Path("conf/experiment").mkdir(parents=True)
    Path("conf/experiment/mine.yaml").write_text("# @package _global_\nname: mine\n")
    assert sorted(completions(typed)) == sorted(expected)


def test_the_top_level_has_every_group_and_key() -> None:
    """An empty word completes to every group and key."""
    first = completions("")
    assert {"seed=", "name=", "dataset=", "dataset.", "experiment=", "budget.", "sweep.", "debug="} <= set(first)
    assert not [each for each in first if each.startswith(("points", "pins", "notes", "hydra"))]


@pytest.mark.process
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["plan", "templ"], ["template.", "template="]),
        (["plan", "template", "="], TEMPLATES),
        (["plan", "template", "=", "pl"], ["plain"]),
        (["run", "seed=1", "backend.device", "=", "c"], ["cpu", "cuda"]),
    ],
)
def test_bash_gets_the_word_that_it_completes(words: list[str], expected: list[str]) -> None:
    """Bash splits an override into three words: the key, the `=` and the value."""
    environment = {
        "_TUNERUN_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["tunerun", *words]),
        "COMP_CWORD": str(len(words)),
    }
    program = "import sys; sys.argv = ['tunerun']; from tunerun.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    assert sorted(done.stdout.split()) == expected, done.stderr
