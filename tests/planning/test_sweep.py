"""An Experiment becomes a Plan."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.experiments import HELD_OUT, ROWS, overrides, planned, write_rows
from tunerun.compose import load
from tunerun.errors import InputError
from tunerun.planning import plan, tuned_model_id
from tunerun.schema import Experiment, Sweep

EPOCHS, RATE = "hyperparameters.epoch_count", "hyperparameters.learning_rate"


def test_a_plan_counts_examples_tokens_and_steps(tmp_path: Path) -> None:
    """Thirty examples in batches of four for five epochs are forty steps; tokens grow with the epochs."""
    five, ten = planned(tmp_path, f"{EPOCHS}=5,10").trials
    assert (len(five.training.examples), five.steps, ten.steps) == (30, 40, 80)
    assert ten.tokens == 2 * five.tokens > 0


def test_planning_writes_nothing(tmp_path: Path) -> None:
    """A plan leaves no folder behind."""
    planned(tmp_path)
    assert not (tmp_path / "runs").exists()


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("average_last", "2"),
        ("max_grad_norm", "1"),
        ("schedule", "constant,cosine"),
        ("warmup_fraction", "0.1"),
        ("target_modules", "[q_proj]"),
        ("target_modules", "null,q_proj+v_proj"),
    ],
)
def test_a_service_refuses_hyperparameters_that_it_would_ignore(tmp_path: Path, name: str, values: str) -> None:
    """A value that is not the default is an error where the backend does not take it, swept or not."""
    hosted = ["backend=gemini", "backend.base_url=http://127.0.0.1:1"]
    with pytest.raises(InputError, match=rf"hyperparameters\.{name}: the backend gemini does not take it; leave it"):
        planned(tmp_path, *hosted, f"hyperparameters.{name}={values}")


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("average_last=6", "average_last: 6 is more than the 5 epochs of epoch_count; set it to 5 or less"),
        ("average_last=2 hyperparameters.keep=best", "average_last: 2 and keep: best exclude each other"),
        ("max_grad_norm=0", "max_grad_norm: must be greater than 0, not 0"),
        ("schedule=linaer", "schedule: must be one of 'constant', 'linear' or 'cosine'; did you mean 'linear'"),
        ("warmup_fraction=1", "warmup_fraction: must be less than 1, not 1"),
        ("target_modules=[q_proj,q_proj]", "target_modules: must name one layer or more, each once"),
        ("target_modules=3", r"target_modules: must be null, a list of names, or names as one text such as q_proj\+v"),
        (
            "target_modules=q_prj+lm_head+self_attn.v_proj",
            r"target_modules: no layer of .* is called q_prj, lm_head; there are .*k_proj.*; did you mean q_proj\?; cho",
        ),
    ],
)
def test_later_hyperparameters_are_checked(tmp_path: Path, change: str, message: str) -> None:
    """Values out of range, and those that contradict each other, are refused with what is allowed."""
    with pytest.raises(InputError, match=message):
        planned(tmp_path, *f"hyperparameters.{change}".split(" "))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("packing=0", "packing: must be auto, off, or a whole number of 1 or more"),
        ("packing=on", "packing: must be auto, off, or a whole number of 1 or more"),
        ("micro_batch=0", "micro_batch: must be 1 or more, not 0"),
        ("precision=fp16", "precision: must be one of 'auto', 'fp32' or 'bf16'"),
    ],
)
def test_engine_settings_are_checked(tmp_path: Path, change: str, message: str) -> None:
    """An unknown setting of the embedded engine is refused with what is allowed."""
    with pytest.raises(InputError, match=f"backend.{message}"):
        planned(tmp_path, f"backend.{change}")


def test_the_best_epoch_is_kept_where_it_can_be_known(tmp_path: Path) -> None:
    """It needs held-out examples and a backend that measures them after each epoch."""
    best = "hyperparameters.keep=best"
    assert "keep" not in planned(tmp_path).trials[0].ingredients
    assert [trial.prefix_of for trial in planned(tmp_path, f"{EPOCHS}=1,2").trials] == [1, None]
    assert [trial.prefix_of for trial in planned(tmp_path, f"{EPOCHS}=1,2", best).trials] == [1, None]
    falling = "hyperparameters.schedule=linear"
    assert [trial.prefix_of for trial in planned(tmp_path, f"{EPOCHS}=1,2", falling).trials] == [None, None]
    nothing = "dataset.validation={path: null, fraction: 0.0}"
    hosted = ["backend=gemini", "backend.base_url=http://127.0.0.1:1"]
    with pytest.raises(InputError, match=r"best needs held-out examples; set dataset\.validation\.path"):
        planned(tmp_path, nothing, best)
    with pytest.raises(InputError, match="which the backend gemini does not measure; set it to last"):
        planned(tmp_path, *hosted, best)
    assert any("does not measure the validation loss after" in text for text in planned(tmp_path, *hosted).warnings)


def test_every_trial_is_measured_on_the_same_rows(tmp_path: Path) -> None:
    """Neither a trial's seed nor its template changes what is held out; another split_seed does."""
    split = ["dataset.validation={path: null, fraction: 0.2}", "seed=0,1"]
    made = planned(tmp_path, *split, "template.text_input='{{text_input}}','Q: {{text_input}}'")
    assert len({trial.validation.rows for trial in made.trials if trial.validation}) == 1
    assert not [warning for warning in made.warnings if "different held-out rows" in warning]
    other = planned(tmp_path, *split[:1], "dataset.split_seed=0,1")
    assert [warning for warning in other.warnings if "different held-out rows" in warning]


def test_trials_with_equal_keys_are_one_job(tmp_path: Path) -> None:
    """A second trial of the same key names the first."""
    trials = planned(tmp_path, "model.name=a,b").trials
    assert [t.same_as for t in trials] == [None, 0]


def test_more_examples_in_a_batch_than_there_are_is_an_error(tmp_path: Path) -> None:
    """The batch size is checked against the examples, and the error says how many there are."""
    with pytest.raises(
        InputError, match=r"hyperparameters.batch_size: 64 is more than the 30 examples .* set it to 30 or less"
    ):
        planned(tmp_path, "hyperparameters.batch_size=64")


def test_the_problems_of_all_trials_are_reported_at_once(tmp_path: Path) -> None:
    """A template that does not fit and a batch that is too large are two problems of one plan."""
    with pytest.raises(InputError, match="batch_size") as caught:
        planned(tmp_path, "template=plain,question_context", "hyperparameters.batch_size=4,64")
    text = str(caught.value)
    assert "64 is more than the 30 examples" in text
    assert "'context'" in text


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("rows", "change", "warning"),
    [
        (ROWS[:15], "seed=0", "at least 20"),
        (ROWS, "seed=0", "100"),
        (ROWS, "seed=0", "advises a smaller value than 0.001 for a small set"),
        (ROWS, "dataset.validation.path=null", "nothing is held out, so the trials cannot be compared"),
    ],
)
def test_the_advice_of_the_gemini_guide_is_given_where_it_applies(
    tmp_path: Path, rows: list[dict[str, str]], change: str, warning: str
) -> None:
    """A plan warns of small sets, large learning rates and of nothing being held out."""
    options = overrides(tmp_path, change)
    write_rows(tmp_path / "rows.jsonl", rows)
    assert any(warning in text for text in plan(load(options)).warnings)


def test_an_example_in_both_sets_is_named(tmp_path: Path) -> None:
    """A held-out example that is also in the training file is reported with file and line."""
    options = overrides(tmp_path)
    write_rows(tmp_path / "held_out.jsonl", [*HELD_OUT, ROWS[3]])
    assert any("held_out.jsonl:11" in text and "rows.jsonl:4" in text for text in plan(load(options)).warnings)


def test_a_base_model_that_cannot_be_found_is_an_error(tmp_path: Path) -> None:
    """A folder that is not there, and a hub name while offline, are refused with what was looked for."""
    with pytest.raises(InputError, match=re.escape("./nowhere")):
        planned(tmp_path, "model=huggingface", "model.name=./nowhere")
    with pytest.raises(InputError, match="someone/no-such-model"):
        planned(tmp_path, "model=huggingface", "model.name=someone/no-such-model")


def test_an_experiment_made_by_hand_is_one_trial(tmp_path: Path) -> None:
    """The Python API takes an Experiment that was not composed, if it sweeps nothing."""
    loaded = load(overrides(tmp_path))
    fields = {
        name: getattr(loaded, name) for name in Experiment.model_fields if name not in ("points", "pins", "sweep")
    }
    assert len(plan(Experiment(**fields)).trials) == 1
    with pytest.raises(InputError, match=r"only tunerun.load expands a sweep"):
        plan(Experiment(**fields, sweep=Sweep(axes={"seed": "1,2"})))


@pytest.mark.parametrize("name", ["next_number", "a", "x" * 60, "a--b__c-", "z9"])
def test_a_tuned_models_id_fits_the_gemini_api(name: str) -> None:
    """Ids have at most 40 characters and the form that the API asks for."""
    assert re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", tuned_model_id(name, "0123456789ab" * 5))


def test_passwords_are_left_out_of_what_is_frozen(tmp_path: Path) -> None:
    """A tracking URI is frozen without its user and password, and so is the command that held it."""
    made = planned(tmp_path, "tracking={kind: mlflow, uri: 'http://me:planted@localhost:9'}")
    assert made.trials[0].record().config["tracking"]["uri"] == "http://***@localhost:9"
    assert "planted" not in str(made.sweep_record("tunerun run tracking.uri=http://me:planted@localhost:9").document)


def test_the_plan_says_what_the_environment_chooses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If MLFLOW_... variables decide, the plan says so and freezes the MLflow experiment; without tracking it does not."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:planted@localhost:9")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "shared")
    made = planned(tmp_path, "tracking=mlflow")
    assert made.document["mlflow_experiment"] == "shared"
    assert made.to_json()["tracking"] == [
        "MLFLOW_TRACKING_URI of the environment: the runs are shown in MLflow at http://localhost:9",
        "MLFLOW_EXPERIMENT_NAME of the environment: they are in the MLflow experiment shared",
    ]
    assert planned(tmp_path, "tracking=none").to_json()["tracking"] == []


@pytest.mark.process
@pytest.mark.parametrize(
    "command",
    [
        ["--help"],
        ["plan", "experiment=next_number", "evaluation.metrics=[exact_match,macro_f1,chrf,rouge_l]"],
        ["config", "experiment=next_number"],
    ],
)
def test_light_commands_load_nothing_heavy(command: list[str]) -> None:
    """Help, plan and config import neither mlflow nor torch nor transformers, nor what computes metrics."""
    code = (
        "import sys; from tunerun.cli import app\n"
        f"try: app({command!r})\nexcept SystemExit as stop: assert stop.code in (0, None), stop.code\n"
        "heavy = {'mlflow', 'torch', 'transformers', 'pandas', 'peft', 'sklearn', 'sacrebleu', 'rouge_score', 'nltk', "
        "'rocrate', 'ray', 'submitit'}\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
