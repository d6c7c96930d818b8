"""The tracker's thread, dead and hung addresses, and a real server that comes and goes."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tracking.content import client, content, run_of, runs
from tests.tracking.served import free_port, server
from tests.tracking.sweeps import Lab, complete, freeze
from tunerun.errors import ConfigError
from tunerun.ledger import Ledger
from tunerun.tracking import Tracker, serve_ui

DEADLINE_S = 60


def wait_until(is_so: Callable[[], bool]) -> None:
    """Poll until something is so."""
    deadline = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < deadline, "did not come about in time"
        time.sleep(0.05)


def test_the_thread_shows_a_running_trial_and_its_end(lab: Lab, uri: str) -> None:
    """Points appear while a trial runs, and closing brings the rest."""
    with Tracker(lab.ledger.path, uri, interval_s=0.05) as tracker:
        tracker.start(lab.sweep.id)
        lab.start(0)
        lab.steps(0, 5)
        wait_until(lambda: tracker.run_ids(lab.ledger, lab.sweep.id).get(0) is not None)
        wait_until(lambda: run_of(uri, "trial", 0).data.metrics.get("train/mean_loss") is not None)
        assert run_of(uri, "trial", 0).info.status == "RUNNING"
        lab.succeed(0)
        tracker.close(DEADLINE_S)
    assert tracker.problem is None
    assert run_of(uri, "trial", 0).info.status == "FINISHED"


def test_an_address_without_a_server_stops_nothing(lab: Lab) -> None:
    """A refused connection is one line that hides the password and says what to do, and nothing waits for it."""
    complete(lab)
    started = time.monotonic()
    with Tracker(lab.ledger.path, f"http://ada:planted@127.0.0.1:{free_port()}", interval_s=0.05) as tracker:
        tracker.start(lab.sweep.id)
        wait_until(lambda: tracker.problem is not None)
        tracker.close(DEADLINE_S)
    assert time.monotonic() - started < DEADLINE_S / 2
    assert tracker.problem is not None
    assert "Connection refused" in tracker.problem
    assert "`tunerun sync` brings MLflow up to date" in tracker.problem
    assert "planted" not in tracker.problem + tracker.name
    assert "\n" not in tracker.problem
    assert tracker.sync().problem == tracker.problem


def test_a_fault_of_our_own_ends_no_thread_silently(ledger: Ledger, uri: str) -> None:
    """An unforeseen fault is a problem of one line that names the place."""
    lab = freeze(ledger, "sweep-1", document={"code": "not what was written"})
    lab.start(0)
    with Tracker(ledger.path, uri, interval_s=0.05) as tracker:
        tracker.start(lab.sweep.id)
        wait_until(lambda: tracker.problem is not None)
    assert tracker.problem is not None
    assert re.search(r"by a fault of tunerun or MLflow: TypeError: .* \(\w+\.py:\d+\)", tracker.problem)
    assert "`tunerun sync` brings MLflow up to date" in tracker.problem
    assert "\n" not in tracker.problem


@pytest.mark.slow
def test_a_server_that_never_answers_holds_up_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hung server costs one timeout, and closing waits no longer than its limit."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        report = Tracker(lab.ledger.path, address).sync()
        assert report.problem is not None
        assert "no answer within 1 s" in report.problem
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        tracker = Tracker(lab.ledger.path, address)
        tracker.start(lab.sweep.id)
        started = time.monotonic()
        tracker.close(0.2)
        assert time.monotonic() - started < DEADLINE_S / 4
        assert tracker.problem is not None
        assert "not up to date after 0.2 s" in tracker.problem


def test_a_store_that_cannot_be_written_is_a_problem_of_one_line(lab: Lab, tmp_path: Path) -> None:
    """A file where the store's folder should be is reported, and not raised."""
    (tmp_path / "taken").write_text("")
    report = Tracker(lab.ledger.path, f"sqlite:///{tmp_path}/taken/mlflow.db").sync()
    assert report.problem is not None
    assert "taken" in report.problem


@pytest.mark.process
def test_a_new_store_can_be_opened_by_several_at_once(tmp_path: Path) -> None:
    """Processes that open the same new store together all succeed."""
    for name in ("a", "b"):
        with Ledger(tmp_path / name / "ledger.db") as ledger:
            freeze(ledger, f"sweep-{name}", name=f"of-{name}")
    program = (
        "import sys; from pathlib import Path; from tunerun.tracking import Tracker;"
        "report = Tracker(Path(sys.argv[1]), sys.argv[2]).sync(); sys.exit(report.problem)"
    )
    uri = f"sqlite:///{tmp_path}/store/mlflow.db"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / name / "ledger.db"), uri], stderr=subprocess.PIPE
        )
        for name in ("a", "b")
    ]
    errors = [process.communicate(timeout=DEADLINE_S)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], errors
    assert errors == [b"", b""]
    assert len(runs(uri)) == 2


@pytest.mark.process
def test_a_server_that_dies_and_comes_back_misses_nothing(lab: Lab, uri: str) -> None:
    """What happens while the server is away is shown when it is back, and nothing twice."""
    port = free_port()
    tracker = Tracker(lab.ledger.path, f"http://127.0.0.1:{port}", interval_s=0.05)
    with tracker:
        with server(uri, port):
            tracker.start(lab.sweep.id)
            lab.start(0)
            lab.steps(0, 4)
            wait_until(lambda: tracker.run_ids(lab.ledger, lab.sweep.id).get(0) is not None)
        wait_until(lambda: tracker.problem is not None)
        lab.steps(0, 9)
        lab.succeed(0)
        with server(uri, port) as process:
            wait_until(lambda: tracker.problem is None)
            tracker.close(DEADLINE_S)
            assert tracker.problem is None
            run = run_of(tracker.uri, "trial", 0)
            files = {file.path for file in client(tracker.uri).list_artifacts(run.info.run_id)}
            assert {"experiment.yaml", "loss.png"} <= files
            process.terminate()
            assert process.wait(DEADLINE_S) is not None
    trial = content(uri)[lab.sweep.id, "trial", "0"]
    assert trial["state"] == "FINISHED"
    assert [step for step, _, _ in trial["points"]["train/mean_loss"]] == list(range(1, 13))
    assert len(trial["models"]) == 1


def test_a_server_needs_none_started(capsys: pytest.CaptureFixture[str]) -> None:
    """Of a tracking URI that is a server already only the link is printed, without its password."""
    assert serve_ui("http://ada:planted@127.0.0.1:9", 5000) == 0
    assert capsys.readouterr().out == "MLflow is a server already: http://127.0.0.1:9\n"


def test_a_port_that_is_taken_is_refused(uri: str) -> None:
    """A port in use is an error of the command line that names another."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="choose another, for example --port"):
            serve_ui(uri, taken.getsockname()[1])
