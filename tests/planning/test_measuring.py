"""How the models of a plan are measured: metrics with code, choices, and what a backend cannot do."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.experiments import overrides, planned, write_rows
from tunerun.compose import load
from tunerun.errors import InputError
from tunerun.ledger import LOSSES
from tunerun.planning import plan

LABELS = [{"text_input": f"{n}", "output": "even" if n % 2 == 0 else "odd"} for n in range(20)]
HOSTED = ["backend=gemini", "model=gemini-1.5-flash-001-tuning", "hyperparameters.batch_size=4"]


def labels(folder: Path, *more: str, rows: list[dict[str, str]] | None = None) -> list[str]:
    """An experiment on rows with labels, four of them held out."""
    written = write_rows(folder / "labels.jsonl", rows or LABELS)
    split = ["dataset.validation.path=null", "dataset.validation.fraction=0.2"]
    return [*overrides(folder), f"dataset.path={written}", *split, *more]


def test_the_users_file_is_named_hashed_and_not_run(tmp_path: Path) -> None:
    """A metric's file is found beside the YAML that names it, frozen by its hash, and named as code that will run."""
    source = f"open({str(tmp_path / 'ran')!r}, 'w')\ndef score(expected, answer): return expected == answer\n"
    conf = tmp_path / "project" / "conf" / "evaluation"
    conf.mkdir(parents=True)
    (conf / "metrics.py").write_text(source)
    (conf / "mine.yaml").write_text("metrics:\n  - exact_match\n  - {name: mine, python: 'metrics.py:score'}\n")
    made = plan(load(overrides(tmp_path, "evaluation=mine"), config_dir=str(conf.parent)))
    sha256 = hashlib.sha256(source.encode()).hexdigest()
    assert made.document["metrics"] == {"mine": {"python": f"{conf / 'metrics.py'}:score", "sha256": sha256}}
    assert f"evaluation.metrics: metrics.py (sha256 {sha256[:12]}) is code that runs here" in made.warnings
    assert not (tmp_path / "ran").exists()


@pytest.mark.process
def test_a_users_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    """The error names the file."""
    with pytest.raises(InputError, match=r"evaluation\.metrics\.mine: .*gone\.py: No such file"):
        planned(tmp_path, "evaluation.metrics=[{name: mine, python: 'gone.py:score'}]")


@pytest.mark.process
def test_a_metric_with_options_can_be_typed(tmp_path: Path) -> None:
    """The command line takes mappings as YAML does; a new metric changes neither keys nor what models are asked."""
    plain, other = planned(tmp_path), planned(tmp_path, "evaluation.metrics=[{name: numeric, tolerance: 0.5}, chrf]")
    assert [t.key for t in plain.trials] == [t.key for t in other.trials]
    assert [t.answer_method for t in plain.trials] == [t.answer_method for t in other.trials]
    assert other.trials[0].record().config["evaluation"]["metrics"] == [{"name": "numeric", "tolerance": 0.5}, "chrf"]


@pytest.mark.process
def test_choices_are_the_outputs_of_the_training_examples(tmp_path: Path) -> None:
    """auto takes the labels, and the plan says that nothing is generated."""
    made = plan(load(labels(tmp_path, "evaluation.choices=auto")))
    assert made.trials[0].choices == ("even", "odd")
    assert made.trials[0].answer_method != planned(tmp_path).trials[0].answer_method
    assert any("the likeliest of 2 different outputs of the training examples; nothing is" in w for w in made.warnings)
    listed = plan(load(labels(tmp_path, "evaluation.choices=[even,odd]")))
    assert listed.trials[0].answer_method == made.trials[0].answer_method


@pytest.mark.parametrize(
    ("more", "rows", "message"),
    [
        (
            ["evaluation.choices=auto"],
            [{"text_input": f"{n}", "output": "x"} for n in range(20)],
            "the same output in all",
        ),
        (
            ["evaluation.choices=auto"],
            [{"text_input": f"q{n}", "output": f"answer {n}"} for n in range(300)],
            r"evaluation.choices: auto finds 240 different outputs in the training examples, and accepts 200 at most",
        ),
    ],
)
def test_outputs_that_cannot_be_labels_are_refused(
    tmp_path: Path, more: list[str], rows: list[dict[str, str]], message: str
) -> None:
    """One output leaves no choice, and hundreds are not labels."""
    with pytest.raises(InputError, match=message):
        plan(load(labels(tmp_path, *more, rows=rows)))


def test_held_out_labels_outside_the_choices_are_counted(tmp_path: Path) -> None:
    """A row that no choice can answer right is named in the plan."""
    made = plan(load(labels(tmp_path, "evaluation.choices=[even,neither]")))
    assert any("held-out outputs are not among the choices; no model can get them right" in w for w in made.warnings)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("evaluation.metrics=[answer_loss]", "answer_loss needs the loss of expected answers, and the backend gemini"),
        ("evaluation.choices=auto", "evaluation.choices: the backend gemini cannot score the likelihood of an answer"),
    ],
)
def test_a_backend_without_likelihoods_is_refused(tmp_path: Path, more: str, message: str) -> None:
    """What only likelihoods can give is refused before anything runs, with what to do."""
    with pytest.raises(InputError, match=message):
        plan(load(labels(tmp_path, *HOSTED, more)))


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("metrics", "methods"),
    [("[exact_match]", 1), ("[answer_loss]", 1), ("[answer_loss,exact_match]", 2), ("[]", 0)],
)
def test_models_give_the_answers_that_metrics_need(tmp_path: Path, metrics: str, methods: int) -> None:
    """Losses, texts, both or nothing."""
    (trial,) = planned(tmp_path, f"evaluation.metrics={metrics}").trials
    assert len(trial.methods) == methods
    assert (LOSSES in trial.methods) == ("answer_loss" in metrics)
    assert (trial.answer_method in trial.methods) == ("exact_match" in metrics)


def test_outputs_that_a_metric_cannot_score_are_counted(tmp_path: Path) -> None:
    """Expected answers that no answer can match are named with the first row and the reason."""
    made = plan(load(labels(tmp_path, "evaluation.metrics=[json_fields,numeric]")))
    assert any(
        "json_fields cannot score 4 of 4 held-out outputs; they count as wrong; held-out example 1 is not JSON" in w
        for w in made.warnings
    )
    assert any("numeric cannot score 4 of 4" in w for w in made.warnings)
