"""`tunerun serve` as a process: killed and started again it has lost nothing, and SIGTERM ends it in good order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.client import Client, body, prompt
from tunerun.schema import Model
from tunerun.testing.waiting import wait_until

LONG = 1_000_000


class Process:
    """A service in a process of its own; each start goes on in the same folder."""

    def __init__(self, folder: Path, model: Model, cache: Path) -> None:
        self.state = folder / "state"
        self._out, self._err = folder / "out.txt", folder / "err.txt"
        self._command = [
            sys.executable, "-m", "tunerun", "serve", "--port", "0", "--state", str(self.state), "--cache", str(cache),
            "--model", f"tiny={model.source}", "--device", "cpu", "--threads", "1",
        ]  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Client:
        self._out.write_text("")
        with self._out.open("w") as out, self._err.open("a") as err:
            self.process = subprocess.Popen(self._command, stdout=out, stderr=err)
        wait_until(lambda: "Ctrl-C" in self._out.read_text(), "the service listens")
        self.printed = self._out.read_text()
        address = self.printed.split(" at ")[1].split()[0]
        keys = json.loads((self.state / "keys.json").read_text())["keys"]
        return Client(address, keys[0]["secret"])

    def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        os.kill(self.process.pid, number)
        return self.process.wait(timeout=60)

    @property
    def log(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self._err.read_text().splitlines() if line.startswith("{")]


@pytest.fixture
def process(tmp_path: Path, tiny: Model, engine_cache: Path) -> Iterator[Process]:
    process = Process(tmp_path, tiny, engine_cache)
    yield process
    if process.process is not None and process.process.poll() is None:
        process.process.kill()
        process.process.wait()


def test_a_service_that_is_killed_loses_nothing(process: Process) -> None:
    """Finished models answer at once, the running job runs again with the same losses, the queue is worked off."""
    with process.start() as client:
        done = client.tuned("done", epochCount=60, batchSize=7)
        asked = prompt("twenty two")
        before = client.good("POST", "/tunedModels/done:generateContent", asked)
        client.good("POST", "/tunedModels", body(epochCount=400), tunedModelId="running")
        client.good("POST", "/tunedModels", body(), tunedModelId="queued")
        client.good("POST", "/tunedModels", body(), tunedModelId="deleted")
        client.good("DELETE", "/tunedModels/deleted")
        wait_until(lambda: client.steps("running") >= 5, "five steps are taken")
        process.end(signal.SIGKILL)
        seen = 5
    with process.start() as client:
        assert client.good("GET", "/tunedModels/done") == done
        assert client.good("POST", "/tunedModels/done:generateContent", asked) == before
        assert client.steps("running") >= seen
        running = client.finished("running")
        assert running["state"] == "ACTIVE"
        assert [s["step"] for s in running["tuningTask"]["snapshots"]] == list(range(1, 1201))
        assert client.finished("queued")["state"] == "ACTIVE"
        client.refused(404, "GET", "/tunedModels/deleted")
        again = client.tuned("again", epochCount=400)
        losses = [[s["meanLoss"] for s in m["tuningTask"]["snapshots"]] for m in (running, again)]
        assert losses[0] == losses[1]
        folders = {folder.name.rpartition("-")[0] for folder in (process.state / "tuned_models").iterdir()}
        assert folders == {"done", "running", "queued", "again"}


def test_sigterm_lets_a_step_end_and_leaves_the_queue(process: Process) -> None:
    """The process ends by itself with exit code 0, and the next start takes up what was queued."""
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
    assert "API key lies in" in process.printed


def test_two_services_do_not_share_a_folder(process: Process, tmp_path: Path, tiny: Model, engine_cache: Path) -> None:
    """The second says who holds it, and does not start."""
    with process.start():
        second = subprocess.run(process._command, capture_output=True, text=True, timeout=120, check=False)
        assert second.returncode == 1
        assert "service is being run by process" in second.stderr
