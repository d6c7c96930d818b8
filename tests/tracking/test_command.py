"""The commands beside a real MLflow server: what they print, and where the link leads."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tracking.content import content
from tests.tracking.served import free_port, server
from tests.tracking.sweeps import Lab, complete
from tunerun.cli.run import print_mlflow_link
from tunerun.runner import result_of
from tunerun.tracking import Tracker


def tunerun(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "tunerun", *arguments],
        capture_output=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_json_is_all_there_is_on_stdout_beside_a_server(lab: Lab, uri: str) -> None:
    """With an http tracking URI stdout holds the document alone, whatever its encoding, and every run arrives."""
    # Lists the fonts once for all processes: where that takes more than 5 s, Matplotlib says so on stderr.
    importlib.import_module("matplotlib.font_manager")
    with server(uri, port := free_port()):
        for trial, encoding in enumerate(("utf-8", "ascii")):
            lab.finish(trial)
            places = [f"paths.runs={lab.ledger.path.parent}", f"tracking.uri=http://127.0.0.1:{port}"]
            done = tunerun("sync", "--json", *places, PYTHONIOENCODING=encoding)
            assert (done.returncode, done.stderr) == (0, b""), encoding
            assert set(json.loads(done.stdout)) == {"sweeps", "runs", "points"}
        stored = content(f"http://127.0.0.1:{port}", files=False)
    assert [stored[lab.sweep.id, "trial", str(trial)]["state"] for trial in range(2)] == ["FINISHED"] * 2


def test_ui_starts_on_a_store_that_was_damaged(lab: Lab, uri: str) -> None:
    """The page comes up with all that the ledger holds, what was interrupted closed, and a message says so."""
    complete(lab)
    Path(uri.removeprefix("sqlite:///")).write_bytes(b"SQLite format 3\0 and then noise" * 100)
    with server(uri, port := free_port(), f"paths.runs={lab.ledger.path.parent}") as process:
        stored = content(f"http://127.0.0.1:{port}", files=False)
        assert process.stderr is not None
        assert "made again, the old file kept as mlflow.db.replaced-" in process.stderr.readline()
    assert len(stored) == 5
    assert {run["state"] for run in stored.values()} == {"FINISHED", "FAILED"}


def test_the_link_leads_to_the_server_in_use(lab: Lab, uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is printed after a run opens on the tracking server, without its password, in the sweep's own view."""
    complete(lab)
    synced = Tracker(lab.ledger.path, uri)
    synced.sync()
    for subject, mark in lab.ledger.marks(synced.name, "").items():
        lab.ledger.set_mark("http://127.0.0.1:9", subject, mark)
    served = result_of(lab.ledger, [lab.sweep], Tracker(lab.ledger.path, "http://ada:planted@127.0.0.1:9/"))
    runs = lab.ledger.path.parent
    print_mlflow_link(served, [], None, runs)
    path = f"#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey={lab.sweep.id}"
    assert capsys.readouterr().out == f"The runs in MLflow: http://127.0.0.1:9/{path}\n"
    own = result_of(lab.ledger, [lab.sweep], synced)
    print_mlflow_link(own, [f"paths.runs={runs}"], None, runs)
    assert f" ui paths.runs={runs}   then open http://127.0.0.1:5000/{path}" in capsys.readouterr().out
    print_mlflow_link(own, ["debug=tiny"], None, runs / "debug")  # whatever set the folder, `ui` is given it
    assert f" ui paths.runs={os.path.relpath(runs / 'debug')}   then open" in capsys.readouterr().out
