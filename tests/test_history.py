"""A plan and the earlier sweeps of its name: what may change, and what is new."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.experiments import overrides, planned
from tests.scripted import run_on
from tunerun.compose import load
from tunerun.errors import ConfigError
from tunerun.job import Failure, FailureKind
from tunerun.planning import Plan, Trial, plan
from tunerun.runner.progress import Progress
from tunerun.testing.scripted import ScriptedService


@pytest.fixture
def service() -> ScriptedService:
    return ScriptedService()


def rewrite(tmp_path: Path) -> None:
    rows = (tmp_path / "rows.jsonl").read_text().splitlines()
    (tmp_path / "rows.jsonl").write_text("\n".join([*rows[:-1], '{"text_input": "x", "output": "y"}']) + "\n")


def replanned(tmp_path: Path, *more: str, fresh: bool = False) -> Plan:
    """A plan of the files as they are now."""
    kept = (tmp_path / "rows.jsonl").read_bytes()
    made = overrides(tmp_path, *more)
    (tmp_path / "rows.jsonl").write_bytes(kept)
    return plan(load(made), fresh=fresh)


@pytest.mark.slow
def test_changed_data_is_refused_under_the_same_name(tmp_path: Path, service: ScriptedService) -> None:
    """The error says what changed and names both remedies; nothing is submitted."""
    run_on(service, planned(tmp_path))
    rewrite(tmp_path)
    plan = replanned(tmp_path)
    with pytest.raises(
        ConfigError, match=r"the examples changed: 40 different examples of rows.jsonl and held_out.jsonl \(\w{8}\) -> "
    ) as caught:
        run_on(service, plan)
    assert "the config is the same, the content is not" in str(caught.value)
    assert "name=numbers-2, or start again under this one with run --fresh" in str(caught.value)
    assert len(service.submitted) == 1
    assert run_on(service, replanned(tmp_path, "name=other")).exit_code == 0
    assert run_on(service, replanned(tmp_path, fresh=True)).exit_code == 0
    assert run_on(service, replanned(tmp_path)).exit_code == 0
    assert len(service.submitted) == 3 - (planned(tmp_path).trials[0].key in service.submitted[1:])


@pytest.mark.thorough
@pytest.mark.parametrize(
    "change", ["template.output='{{ output }}!'", "dataset.limit=20", "model={name: m, source: ./elsewhere}"]
)
def test_a_changed_config_is_refused_with_both_values(tmp_path: Path, service: ScriptedService, change: str) -> None:
    """The error has the dotted key, the old value and the new one."""
    run_on(service, planned(tmp_path))
    if change.startswith("model"):
        (tmp_path / "elsewhere.gguf").write_bytes(b"GGUF\3" + b"\0" * 64)
        change = f"model={{name: m, source: {tmp_path}/elsewhere.gguf, package: null}}"
    plan = planned(tmp_path, change)
    assert plan.incomparable
    assert re.search(r"in the config (template.output|dataset.limit|model.name): .* -> ", plan.incomparable[0])


@pytest.mark.thorough
@pytest.mark.parametrize("change", ["seed=4", "hyperparameters.epoch_count=7", "evaluation=none", "seed=0,1,2"])
def test_what_a_sweep_explores_may_change(tmp_path: Path, service: ScriptedService, change: str) -> None:
    """Sweeps of one name may differ in hyperparameters, seeds, axes and metrics."""
    run_on(service, planned(tmp_path, "seed=0,1"))
    assert run_on(service, planned(tmp_path, change)).exit_code == 0


def test_a_plan_explains_why_a_trial_is_new(tmp_path: Path, service: ScriptedService) -> None:
    """By its difference from the most similar trial of the last sweep."""
    run_on(service, planned(tmp_path, "seed=0,1"))
    plan = planned(tmp_path, "seed=1,2", "hyperparameters.epoch_count=5")
    (change,) = plan.changes
    assert (change.number, change.earlier) == (1, 0)
    assert [str(difference) for difference in change.differences] == ["seed: 0 -> 2"]
    assert plan.to_json()["changes"][0]["differences"] == [{"name": "seed", "old": 0, "new": 2}]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("change", "differences"),
    [
        ("template.output='{{ output }}!'", ["template.output: '{{ output }}' -> '{{ output }}!'"]),
        ("dataset.limit=20", ["dataset.limit: null -> 20"]),
        ("dataset.limit=20,25", ["dataset.limit: null -> 20"]),
    ],
)
def test_the_explanation_has_values_rather_than_digests(
    tmp_path: Path, service: ScriptedService, change: str, differences: list[str]
) -> None:
    """It names the config value that selects the rows, not the digest of the rows."""
    run_on(service, planned(tmp_path, "seed=0,1"))
    found = planned(tmp_path, "seed=1", change, "name=numbers").changes[0]
    assert (found.earlier, [str(each) for each in found.differences]) == (1, differences)


def test_the_explanation_names_a_file_with_other_content(tmp_path: Path, service: ScriptedService) -> None:
    """The config is the same."""
    run_on(service, planned(tmp_path))
    rewrite(tmp_path)
    (change,) = replanned(tmp_path).changes
    assert [str(each) for each in change.differences] == ["content of rows.jsonl: old -> new"]


def test_the_nearest_trial_is_the_one_with_the_fewest_differences(tmp_path: Path, service: ScriptedService) -> None:
    """Counted in config values, not in digests."""
    run_on(service, planned(tmp_path, "seed=0,1", "dataset.limit=10"))
    found = planned(tmp_path, "seed=1", "dataset.limit=12", "template.output='{{ output }}!'").changes[0]
    assert found.earlier == 1
    assert [each.name for each in found.differences] == ["dataset.limit", "template.output"]


def test_changed_data_is_accepted_where_nothing_has_succeeded(tmp_path: Path) -> None:
    """After a sweep of failures the data may be corrected under the same name."""
    crashed = Failure(FailureKind.CRASHED, "no")
    run_on(ScriptedService(outcome=lambda _: crashed), planned(tmp_path, "seed=0,1"))
    rewrite(tmp_path)
    assert replanned(tmp_path, "seed=0,1").incomparable == ()


def test_changed_data_is_compared_with_the_newest_sweep_that_has_results(
    tmp_path: Path, service: ScriptedService
) -> None:
    """A sweep of failures in between does not hide the one with results."""
    run_on(service, planned(tmp_path))
    crashed = Failure(FailureKind.CRASHED, "no")
    run_on(ScriptedService(outcome=lambda _: crashed), planned(tmp_path, "seed=5"))
    rewrite(tmp_path)
    assert "the examples changed" in replanned(tmp_path).incomparable[0]


def test_a_trial_with_fewer_epochs_is_a_prefix(tmp_path: Path) -> None:
    """Trials that differ in their epochs only are the first epochs of the longest one."""
    plan = planned(tmp_path, "hyperparameters.epoch_count=2,5,3", "seed=0,1")
    assert [trial.prefix_of for trial in plan.trials] == [2, 3, None, None, 2, 3]


def test_fresh_runs_everything_again_and_can_be_resumed(tmp_path: Path, service: ScriptedService) -> None:
    """Every trial gets a new key; the same command resumes; a plain run afterwards has nothing to do."""
    run_on(service, planned(tmp_path, "seed=0,1"))
    fresh = replanned(tmp_path, "seed=0,1", fresh=True)
    assert not any(trial.done for trial in fresh.trials)

    class Interrupts(Progress):
        def started(self, trial: Trial) -> None:
            if trial.number == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_on(service, fresh, progress=Interrupts())
    again = replanned(tmp_path, "seed=0,1", fresh=True)
    assert again.sweep == fresh.sweep
    assert run_on(service, again).exit_code == 0
    assert all(trial.done for trial in replanned(tmp_path, "seed=0,1").trials)
    assert len(service.submitted) == len(set(service.submitted)) == 4
    assert replanned(tmp_path, "seed=0,1", fresh=True).sweep != fresh.sweep
