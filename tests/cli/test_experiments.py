"""Several experiments in one command, and tables in a narrow terminal or without a column."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import tunerun
from tests.experiments import ROWS, overrides, write_rows
from tests.rigs.gemini_service import GeminiService
from tunerun.ledger import Ledger

pytestmark = pytest.mark.process


def call_tunerun(*arguments: str) -> tuple[int, str, str]:
    """The exit code of a command line, and what it prints on stdout and stderr."""
    finished = tunerun(*arguments)
    return finished.returncode, finished.stdout, finished.stderr


@pytest.fixture
def two_experiments(tmp_path: Path) -> None:
    """`a` and `b` on the same rows, without a tracker."""
    write_rows(tmp_path / "rows.jsonl", ROWS)
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    for name, seed in (("a", 1), ("b", 2)):
        (folder / f"{name}.yaml").write_text(
            f"# @package _global_\ndefaults:\n  - override /tracking: none\n  - override /evaluation: none\nname: {name}\n"
            f"seed: {seed}\ndataset: {{path: rows.jsonl}}\nhyperparameters: {{epoch_count: 1}}\n"
        )


@pytest.mark.usefixtures("two_experiments")
def test_a_plan_of_several_experiments_is_one_document() -> None:
    """Several experiments, by name or glob, are one list; a single one is its own document."""
    code, out, _ = call_tunerun("plan", "--json", "experiment=a,b", "hyperparameters.batch_size=1,2")
    plans = json.loads(out)["experiments"]
    assert code == 0
    assert [(each["experiment"], len(each["trials"])) for each in plans] == [("a", 2), ("b", 2)]
    assert json.loads(call_tunerun("plan", "--json", "experiment=a")[1])["experiment"] == "a"
    assert len(json.loads(call_tunerun("plan", "--json", "experiment=glob(?)")[1])["experiments"]) == 2
    last = call_tunerun("plan", "experiment=a,b")[1].split("2 experiments")[1].split()
    assert last[:6] == ["experiment", "sweep", "trials", "to", "run", "tokens"]
    assert {"a", "b"} < set(last)


@pytest.mark.usefixtures("two_experiments")
def test_a_problem_names_its_experiment() -> None:
    """Problems of all experiments are reported together, and nothing runs."""
    Path("conf/experiment/b.yaml").write_text("# @package _global_\nname: b\ndataset: {path: nowhere.jsonl}\n")
    for command in ("plan", "run"):
        code, _, err = call_tunerun(command, "experiment=b,a", "hyperparameters.batch_size=99")
        assert code == 2
        assert "experiment=a: hyperparameters.batch_size: 99 is more than the 30 examples" in err
        assert "experiment=b: " in err
        assert "experiment=a: experiment=a" not in err
        assert "nowhere.jsonl: the file does not exist" in err
    assert not Path("runs").exists()


@pytest.mark.usefixtures("two_experiments")
def test_several_experiments_run_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a sweep of its own, with the command that resumes it alone; one table of verdicts at the end."""
    monkeypatch.setenv("GEMINI_API_KEY", "planted-key")
    with GeminiService() as service:
        place = ("backend=gemini", f"backend.base_url={service.address}", "backend.poll_interval_s=0")
        code, out, err = call_tunerun("run", "experiment=a,b", *place)
        assert (code, len(service.created)) == (0, 2), err
        last = out[out.index("2 experiments") :]
        assert all(word in last for word in ("experiment", "verdict", "a-", "b-", "1 SUCCEEDED"))
        again = json.loads(call_tunerun("run", "--json", "experiment=a,b", *place)[1])["experiments"]
        assert ([each["experiment"] for each in again], len(service.created)) == (["a", "b"], 2)
    with Ledger.open_read_only(Path("runs/ledger.db")) as ledger:
        (sweep,) = ledger.sweeps("b")
    assert "experiment=b" in sweep.document["command"]
    assert "experiment=a" not in sweep.document["command"]


@pytest.mark.usefixtures("two_experiments")
def test_other_commands_take_one_experiment() -> None:
    """The message names the commands that take several."""
    code, _, err = call_tunerun("config", "experiment=a,b")
    assert code == 2
    assert "experiment=a,b: each choice of experiment is a sweep of its own; only `plan` and `run` take several" in err


@pytest.mark.usefixtures("two_experiments")
def test_a_table_that_would_break_words_is_stacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 40 columns each row is printed as lines of head and cell, none longer than the terminal."""
    from tunerun.cli import tables

    monkeypatch.setattr(tables.out, "width", 40)
    out = call_tunerun("plan", "experiment=a", "hyperparameters.epoch_count=1,2")[1]
    rows = out[: out.index("2 trials to run")].splitlines()
    assert [line for line in rows if line.startswith("trial: ")] == ["trial: 0", "trial: 1"]
    assert "  epoch_count: 2" in rows
    assert max(map(len, rows)) <= 40


def test_a_service_that_measures_no_validation_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the service ignores held-out rows, a line below the table says why the column is empty."""
    monkeypatch.setenv("GEMINI_API_KEY", "planted-key")
    with GeminiService() as service:
        place = ("backend=gemini", f"backend.base_url={service.address}", "backend.poll_interval_s=0")
        code, out, _ = call_tunerun("run", *overrides(tmp_path, *place))
    assert code == 0
    assert "validation loss: -; the service does not measure it" in out
