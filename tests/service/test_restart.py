"""`tunerun serve` as a process: it survives a kill without loss, and SIGTERM ends it in an orderly way."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.client import body, prompt
from tests.service.openai.survivors import Survivors
from tests.service.process import Process
from tunerun.job import BaseModelRef
from tunerun.testing.waiting import wait_until

LONG = 1_000_000


@pytest.fixture
def process(tmp_path: Path, tiny: BaseModelRef, engine_cache: Path) -> Iterator[Process]:
    process = Process(tmp_path, tiny, engine_cache)
    yield process
    process.stop()


def test_a_service_that_is_killed_loses_nothing(process: Process) -> None:
    """Finished models answer at once, the running job resumes with the same losses, and the queue is processed."""
    survivors = Survivors()
    with process.start() as client, process.openai() as openai:
        assert "loading tiny into memory (1 of 1)" in process.said
        survivors.settle(openai)
        done = client.tuned("done", epochCount=60, batchSize=7)
        payload = prompt("twenty two")
        before = client.good("POST", "/tunedModels/done:generateContent", payload)
        client.good("POST", "/tunedModels", body(epochCount=150), tunedModelId="running")
        client.good("POST", "/tunedModels", body(), tunedModelId="queued")
        client.good("POST", "/tunedModels", body(), tunedModelId="deleted")
        client.good("DELETE", "/tunedModels/deleted")
        survivors.wait_in_queue(openai)
        wait_until(lambda: client.steps("running") >= 5, "five steps are taken")
        process.end(signal.SIGKILL)
    with process.start() as client, process.openai() as openai:
        assert client.good("GET", "/tunedModels/done") == done
        assert client.good("POST", "/tunedModels/done:generateContent", payload) == before
        assert client.steps("running") >= 5
        running = client.finished("running")
        assert running["state"] == "ACTIVE"
        assert [s["step"] for s in running["tuningTask"]["snapshots"]] == list(range(1, 451))
        assert client.finished("queued")["state"] == "ACTIVE"
        client.refused(404, "GET", "/tunedModels/deleted")
        again = client.tuned("again", epochCount=150)
        losses = [[s["meanLoss"] for s in m["tuningTask"]["snapshots"]] for m in (running, again)]
        assert losses[0] == losses[1]
        survivors.check(openai, process.state)
        folders = {folder.name.rpartition("-")[0] for folder in (process.state / "tuned_models").iterdir()}
        assert folders > {"done", "running", "queued", "again"}
        assert "deleted" not in folders


def test_sigterm_lets_a_step_end_and_leaves_the_queue(process: Process) -> None:
    """The process exits with code 0, and the next start processes the queue."""
    with process.start() as client:
        client.good("POST", "/tunedModels", body(epochCount=LONG), tunedModelId="running")
        client.good("POST", "/tunedModels", body(), tunedModelId="queued")
        wait_until(lambda: client.steps("running") >= 2, "two steps are taken")
        assert process.end(signal.SIGTERM) == 0
    with process.start() as client:
        assert client.steps("running") >= 2
        client.good("POST", "/tunedModels/running:cancel", {})
        assert client.finished("queued")["state"] == "ACTIVE"
        assert client.finished("running")["state"] == "FAILED"
        assert process.end(signal.SIGINT) == 0
    assert {line["event"] for line in process.log} == {"request"}
    assert "API key is in" in process.printed


def test_two_services_do_not_share_a_folder(
    process: Process, tmp_path: Path, tiny: BaseModelRef, engine_cache: Path
) -> None:
    """The second one names the process that has it, and does not start."""
    with process.start():
        second = subprocess.run(process.command, capture_output=True, text=True, timeout=120, check=False)
        assert second.returncode == 1
        assert "service is being run by process" in second.stderr
