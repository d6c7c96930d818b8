"""A trial's key: what changes it, and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.experiments import ROWS, planned
from tunerun.errors import InputError

EPOCHS, RATE = "hyperparameters.epoch_count", "hyperparameters.learning_rate"


def key(folder: Path, *more: str) -> str:
    return planned(folder, *more).trials[0].key


@pytest.mark.thorough
@pytest.mark.parametrize(
    "change",
    [
        "seed=1",
        f"{EPOCHS}=4",
        f"{RATE}=0.002",
        "hyperparameters.batch_size=2",
        "hyperparameters.adapter_rank=4",
        "hyperparameters.adapter_alpha=8",
        "hyperparameters.keep=best",
        "hyperparameters.average_last=2",
        "hyperparameters.max_grad_norm=1",
        "hyperparameters.schedule=cosine",
        "hyperparameters.warmup_fraction=0.1",
        "hyperparameters.target_modules=[q_proj,v_proj]",
        "template.output='{{ output }}.'",
        "dataset.limit=20",
    ],
)
def test_what_can_change_the_result_changes_the_key(tmp_path: Path, change: str) -> None:
    """Hyperparameters, seed, template and examples are part of the key."""
    assert key(tmp_path) != key(tmp_path, change)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "change",
    [
        "name=other",
        "paths.runs=elsewhere",
        "tracking=mlflow",
        "evaluation=none",
        f"{EPOCHS}=5,10",
        "model.name=called-otherwise",
        "dataset.format=jsonl",
        "backend.packing=4",
        "backend.precision=fp32",
    ],
)
def test_what_cannot_change_the_result_leaves_the_key(tmp_path: Path, change: str) -> None:
    """Names, paths, tracking, evaluation and the sweep around a trial are not part of its key."""
    assert key(tmp_path) == key(tmp_path, change)


def test_the_number_format_is_in_the_keys_of_trials_and_baselines(tmp_path: Path) -> None:
    """A base model in bf16 gives other answers, with and without adapters; 4 bits are refused where they cannot be."""
    whole, half = planned(tmp_path, "backend.device=cpu", "backend.precision=fp32,bf16").trials
    assert (whole.ingredients["precision"], half.ingredients["precision"]) == ("float32", "bfloat16")
    assert whole.key != half.key
    assert not set(whole.baselines[:2]) & set(half.baselines[:2])
    assert [trial.request().precision for trial in (whole, half)] == ["float32", "bfloat16"]
    with pytest.raises(InputError, match=r"quantization: 4bit needs a CUDA device, and device is cpu"):
        planned(tmp_path, "backend.device=cpu", "backend.quantization=4bit")


def test_keys_are_those_of_earlier_versions(tmp_path: Path) -> None:
    """A config without the hyperparameters that were added later has the key that it had before them, to the digit."""
    hosted = ["backend=gemini", "backend.base_url=http://127.0.0.1:1"]
    assert key(tmp_path) == "55aae0001726561c9cba033b6fcfe4b004ba0c8e84421b5d6e68a1fe94fddeba"
    assert key(tmp_path, *hosted) == "55db6c2fc87262f149e3cbb5ff6acbdba886a43d07395321ba5375dafb484ac4"
    baselines = planned(tmp_path).trials[0].baselines
    assert baselines[0] == "73ddc53f2b90db8d8e87649ca5dde2de46715c9d961de18a8d0982ebf88f7af1"


def test_a_key_depends_on_content_and_not_on_the_file(tmp_path: Path) -> None:
    """The same rows in another file, of another format, give the same key."""
    other = tmp_path / "rows.csv"
    other.write_text("text_input,output\n" + "".join(f"{row['text_input']},{row['output']}\n" for row in ROWS))
    assert key(tmp_path) == key(tmp_path, f"dataset.path={other}")


def test_the_order_of_axes_does_not_change_keys(tmp_path: Path) -> None:
    """The same points in another order have the same keys."""
    one = planned(tmp_path, f"{EPOCHS}=1,2", f"{RATE}=0.1,0.2")
    two = planned(tmp_path, f"{RATE}=0.1,0.2", f"{EPOCHS}=1,2")
    assert {t.key for t in one.trials} == {t.key for t in two.trials}


def test_a_multiplier_is_the_learning_rate_it_gives(tmp_path: Path) -> None:
    """A multiplier of 2 is a learning rate of 0.002: the base value is 0.001."""
    multiplied = key(tmp_path, f"{RATE}=null", "hyperparameters.learning_rate_multiplier=2")
    assert multiplied == key(tmp_path, f"{RATE}=0.002")
