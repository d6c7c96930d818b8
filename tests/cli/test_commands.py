"""Whole command lines: what is printed, the exit codes, and that bad input starts nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from tests.commands import tunerun
from tests.experiments import overrides
from tunerun.cli import app


def refused(*arguments: str) -> list[str]:
    """Run a command that is refused with exit code 2, prints nothing on stdout and writes nothing; its problems."""
    finished = tunerun(*arguments)
    assert (finished.returncode, finished.stdout) == (2, ""), finished.stdout + finished.stderr
    assert "Traceback" not in finished.stderr
    assert not Path("runs").exists()
    return finished.stderr.strip().splitlines()


@pytest.mark.process
def test_help_names_every_command_in_a_line_each() -> None:
    """`--help`, in a process of its own, has for each command a sentence that fits into a terminal of 80 columns."""
    text = subprocess.run(
        [sys.executable, "-m", "tunerun", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "80"},
    ).stdout
    listed = text.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert {line.split()[0] for line in listed} == set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert all(line.startswith("  ") and line.endswith(".") and not line.endswith("...") for line in listed)


def test_a_plan_as_json_is_one_document(tmp_path: Path) -> None:
    """`plan --json` prints the documented fields and nothing else on stdout."""
    finished = tunerun("plan", "--json", *overrides(tmp_path, "hyperparameters.epoch_count=1,2"))
    document = json.loads(finished.stdout)
    assert finished.returncode == 0
    assert [t["overrides"] for t in document["trials"]] == [{"hyperparameters.epoch_count": n} for n in (1, 2)]
    assert {"number", "key", "overrides", "examples", "tokens", "steps", "done"} <= document["trials"][0].keys()
    assert (document["experiment"], document["trials"][1]["done"]) == ("numbers", False)
    assert document["warnings"]


def test_a_plan_for_people_shows_trials_pins_effort_and_warnings(tmp_path: Path) -> None:
    """The output has the table, pinned values, tokens, steps and the guide's advice."""
    finished = tunerun("plan", "experiment=next_number", "hyperparameters.epoch_count=3", "-m")
    assert "pinned by the command line: hyperparameters.epoch_count = 3" in finished.stdout
    assert "2 trials to run:" in finished.stdout
    assert "24 steps" in finished.stdout
    assert "warning: " in finished.stderr
    assert not Path("runs").exists()


def test_the_shipped_experiment_plans_from_any_directory() -> None:
    """Its examples are found beside the YAML that names them."""
    document = json.loads(tunerun("plan", "--json", "experiment=next_number").stdout)
    assert len(document["trials"]) >= 4
    assert document["trials"][0]["examples"] == 15


def test_config_prints_explains_and_describes(tmp_path: Path) -> None:
    """The composed YAML, one key's meaning, and the JSON Schema."""
    assert "name: next_number" in tunerun("config", "experiment=next_number").stdout
    assert "Passes over the training examples" in tunerun("config", "--explain", "hyperparameters.epoch_count").stdout
    assert json.loads(tunerun("config", "--schema").stdout)["properties"]["seed"]["description"]


def test_init_writes_a_project_that_plans(tmp_path: Path) -> None:
    """The project that `init` writes can be planned, and a second `init` does not overwrite it."""
    assert tunerun("init", "mine").returncode == 0
    os.chdir("mine")
    document = json.loads(tunerun("plan", "--json", "experiment=support").stdout)
    assert [trial["examples"] for trial in document["trials"]] == [32, 32]
    os.chdir("..")
    finished = tunerun("init", "mine")
    assert finished.returncode == 2
    assert "exists already; choose another folder" in finished.stderr


ROW = '{"text_input": "1", "output": "2"}\n'


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "content", "more", "problem"),
    [
        ("rows.jsonl", ROW, ["hyperparameters.epoch_cuont=3"], "hyperparameters.epoch_cuont: unknown key 'epoch_cuont'; did you mean 'epoch_count'?"),
        ("rows.jsonl", ROW, ["model=huggingface", "model.name=./nowhere"], "./nowhere"),
        ("rows.jsonl", ROW, ["model=huggingface", "model.name=nobody/nothing"], "nobody/nothing"),
        ("rows.jsonl", ROW, ["tracking.uri=file:///tmp/mlruns"], "sqlite:"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_starts_nothing(
    name: str, content: str | bytes, more: list[str], problem: str
) -> None:
    """Exit code 2, one line that names the problem, and no file; `test_bad_input` has the other mistakes."""
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    sized = [] if any("batch_size" in m for m in more) else ["hyperparameters.batch_size=1"]
    lines = refused("run", "name=x", "dataset.path=rows.jsonl", *sized, *more)
    assert any(problem in line for line in lines), lines


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["predict", "text_input=1"], "--run is missing"),
        (["predict", "--run", "tunedModels/x", "text_input=1"], "no ledger"),
        (
            ["predict", "--run", "x"],
            "give one row as COLUMN=VALUE, or rows with --file, or start a conversation with --chat",
        ),
        (
            ["predict", "--run", "x", "--system", "s"],
            "--system and --base are for --chat; a row of messages has its own system message",
        ),
        (
            ["predict", "--run", "x", "--chat", "--json"],
            "--chat: reads messages from standard input and prints answers; omit --file and --json",
        ),
        (["status"], "no ledger; nothing has run yet, or paths.runs is another folder"),
        (["sync"], "no ledger"),
        (["sync", "tracking=none"], "tracking: none; choose tracking=mlflow"),
        (["ui", "tracking=none"], "there is nothing to look at"),
        (["plan", "--config-dir", "nowhere"], "--config-dir: nowhere: no such directory"),
        (["plan", "hydra/launcher=ray", "name=x"], "choose where to run with backend=..."),
        (["run", "=3"], "this is not an override in Hydra's grammar; write key=value"),
        (["config", "--explain", "seeed"], "seeed: no such key; did you mean 'seed'?"),
        (
            ["config", "--explain", "epoch_count"],
            "epoch_count: no such key; did you mean 'hyperparameters.epoch_count'?",
        ),
        (["rnu"], "No such command 'rnu'"),
        (["plan", "--jsn"], "No such option"),
    ],
)
def test_wrong_command_lines_are_refused(arguments: list[str], problem: str) -> None:
    """The message names the missing argument, and the exit code is 2."""
    assert any(problem in line for line in refused(*arguments))


def test_all_problems_of_a_command_are_counted(examples_file: Path) -> None:
    """Three mistakes are three lines below a line with their number."""
    lines = refused("plan", "name=x", "sed=1", "seed=-1", "backend.device=gpu")
    assert lines[0] == "4 problems:"


def test_a_planted_key_is_never_printed(examples_file: Path) -> None:
    """A secret in the wrong option is not printed."""
    finished = tunerun("run", "name=x", "backend.api_key=sk-planted-1", "seed=sk-planted-2")
    assert "sk-planted" not in finished.stdout + finished.stderr


@pytest.mark.thorough
def test_every_command_with_output_prints_json(tmp_path: Path) -> None:
    """stdout has one JSON document and nothing else."""
    options = overrides(tmp_path, "tracking=none")
    documents = {
        "config": tunerun("config", "--json", *options),
        "explain": tunerun("config", "--json", "--explain", "seed", *options),
        "export": tunerun("data", "export", "--json", *options),
        "init": tunerun("init", "mine", "--json"),
    }
    printed = {name: json.loads(finished.stdout) for name, finished in documents.items()}
    assert printed["config"]["hyperparameters"]["epoch_count"] >= 1
    assert printed["explain"]["key"] == "seed"
    assert [Path(file).name for file in printed["export"]["files"]] == ["training.jsonl", "validation.jsonl"]
    assert any(file.endswith("support.yaml") for file in printed["init"]["files"])


@pytest.mark.process
@pytest.mark.parametrize(("thread", "is_unloaded"), [("tunerun-tracker", False), ("another", True)])
def test_a_busy_tracker_is_not_unloaded_beneath_its_thread(thread: str, is_unloaded: bool) -> None:
    """The process keeps its exit code and skips Python's finalization, which once crashed in a C library."""
    source = (
        "import atexit, sys, threading\n"
        "from tunerun.cli import program\n"
        "atexit.register(print, 'unloaded')\n"
        f"threading.Thread(target=threading.Event().wait, name={thread!r}, daemon=True).start()\n"
        "sys.argv = ['tunerun', 'no-such-command']\n"
        "program()\n"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert ("unloaded" in done.stdout) is is_unloaded
