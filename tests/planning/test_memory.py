"""The memory that a plan estimates for this machine, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.engine.published import CONFIGS
from tests.experiments import planned
from tunerun.engine import model_shape
from tunerun.engine.memory import GIB, Workload
from tunerun.errors import LimitError
from tunerun.planning.memory import PlannedMemory


def memory_of(name: str, gib: float, device: str = "cuda") -> PlannedMemory:
    shape = model_shape.of_config(CONFIGS[name])
    work = Workload(device=device)
    return PlannedMemory(name, (0, 1), device, int(gib * GIB), 1, shape, work, 2)


def test_a_plan_says_what_one_trial_needs_and_how_many_share_a_pass(tmp_path: Path) -> None:
    """Trials that differ in epochs alone are one training run, and so one member of a pass."""
    made = planned(tmp_path, "sweep.axes={hyperparameters.epoch_count: '1,2', seed: '0,1,2'}")
    (memory,) = made.memory
    assert str(memory).startswith("memory (")
    assert "for one trial of smollm2-135m, 0.5 GiB of it for the base model's weights; 3 training runs share" in str(
        memory
    )
    document = made.to_json()["memory"][0]
    assert document["training_runs_in_a_pass"] == 3
    assert document["one_trial"]["weights"] == pytest.approx(135e6 * 4, rel=0.01)
    assert made.to_json()["refused"] == []


def test_a_trial_that_cannot_fit_is_refused(tmp_path: Path) -> None:
    """By `run` before the first job, and in the plan's JSON; the model is small, so a huge adapter exceeds the memory."""
    made = planned(tmp_path, "hyperparameters.adapter_rank=1000000")
    assert made.to_json()["refused"][0].startswith("memory: one trial of smollm2-135m needs about ")
    with pytest.raises(LimitError, match=r"and this machine has .* GiB \(\w+\): it cannot fit; choose a smaller base"):
        made.check()


@pytest.mark.parametrize(
    ("name", "gib", "advice"),
    [
        ("qwen3-4b", 20, "set backend.gradient_checkpointing=true"),
        ("qwen3-8b", 24, "set backend.micro_batch=1 backend.gradient_checkpointing=true backend.precision=bf16"),
        ("qwen3-8b", 6, "choose a smaller base model, or a machine with more memory"),
    ],
)
def test_a_refusal_says_what_fits(name: str, gib: float, advice: str) -> None:
    """The first single change that is enough, else several together, else another model."""
    assert (memory_of(name, gib).refusal() or "").endswith(f": it cannot fit; {advice}")


def test_a_trial_that_may_not_fit_is_warned_of() -> None:
    """Between what is certain and what the allocator may take; with enough memory, or if it is not known, there is no warning."""
    close = memory_of("smollm2-135m", 2.4, device="cpu")
    assert close.refusal() is None
    assert "it may not fit; if it does not, set backend.micro_batch=1" in (close.warning() or "")
    busy = replace(close, available=100 * GIB, free=GIB)
    assert "leave 1.0 GiB of it free; close them before the run" in (busy.warning() or "")
    assert (busy.refusal(), busy.members) == (None, 0)
    for calm in (memory_of("smollm2-135m", 200), replace(close, available=None), replace(close, shape=None)):
        assert (calm.refusal(), calm.warning()) == (None, None)
    assert str(replace(close, shape=None)).startswith("memory: not estimated for smollm2-135m: its files are not")
