"""Jobs that are queued together share passes, whichever wire created them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from openai import OpenAI
from starlette.testclient import TestClient

from tests.service.client import Client, body
from tests.service.openai.training import LONG, created, hyperparameters, jsonl
from tunerun.engine import tuned_model
from tunerun.job import Failure, FailureKind, JobState, JobStatus, TrainedOn
from tunerun.service.app import Service, Settings
from tunerun.service.core.records import TunedModelRow
from tunerun.service.core.state import State
from tunerun.testing.waiting import wait_until

EPOCHS = 4


class Wires:
    """A service that is asked in this process, so that jobs can be created before its queue is worked on."""

    def __init__(self, settings: Settings) -> None:
        self.service = Service(settings)
        application = self.service.application()
        secret = self.service.keys.keys()[0].secret
        self.http = TestClient(application, "http://127.0.0.1", headers={"x-goog-api-key": secret})
        self.gemini = Client("http://127.0.0.1", secret)
        self.gemini.http.close()
        in_process: Any = TestClient(application, "http://127.0.0.1/v1beta", headers={"x-goog-api-key": secret})
        self.gemini.http = in_process
        plain: Any = TestClient(application, "http://127.0.0.1")
        self.openai = OpenAI(base_url="http://127.0.0.1/v1", api_key=secret, http_client=plain, max_retries=0)

    def row(self, identifier: str) -> TunedModelRow:
        row = self.service.state.tuned_model(identifier)
        assert row is not None
        return row

    def trained_on(self, row: TunedModelRow) -> TrainedOn:
        finished = tuned_model.read_finished(self.service.tuner.folder_of(row.folder))
        assert finished is not None
        assert finished.trained_on is not None
        return finished.trained_on

    def losses(self, row: TunedModelRow) -> list[float]:
        return [one.mean_loss for one in self.service.state.snapshots([row.key])[row.key]]

    def gauges(self) -> dict[str, float]:
        gauges = re.findall(r"^tunerun_jobs_(\w+) (\S+)$", self.http.get("/metrics").text, re.MULTILINE)
        return {name: float(value) for name, value in gauges}


@pytest.fixture(scope="module")
def packed(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wires]:
    """Two jobs of each wire and one that is cancelled while they train, all created before the first begins."""
    folder = tmp_path_factory.mktemp("packed")
    shutil.copytree(settings.models[0].source, folder / "second")
    second = replace(settings.models[0], name="second", source=str(folder / "second"))
    wires = Wires(replace(settings, state=folder / "state", models=[*settings.models, second], packing="auto"))
    gemini, service = wires.gemini, wires.service
    gemini.good("POST", "/tunedModels", body(epochCount=LONG, learningRate=0.003), tunedModelId="cancelled")
    _create(wires)
    waiting = gemini.good("GET", "/tunedModels/gemini-0")
    assert (waiting["state"], "startTime" in waiting["tuningTask"]) == ("CREATING", False)
    assert {job.status for job in wires.openai.fine_tuning.jobs.list()} == {"queued"}
    assert wires.gauges() == {"running": 0, "waiting": 5}
    service.tuner.start()
    wait_until(lambda: service.tuner.steps > 0, "the pack has taken a step")
    gemini.good("POST", "/tunedModels/cancelled:cancel", {})
    wait_until(lambda: wires.gauges() == {"running": 0, "waiting": 0}, "all have ended")
    yield wires
    service.end()


def _create(wires: Wires) -> None:
    file = wires.openai.files.create(file=("train.jsonl", jsonl()), purpose="fine-tune").id
    for number, rate in enumerate((0.01, 0.004)):
        payload = body(epochCount=EPOCHS, learningRate=rate)
        wires.gemini.good("POST", "/tunedModels", payload, tunedModelId=f"gemini-{number}")
        method = hyperparameters(n_epochs=EPOCHS, learning_rate_multiplier=4 * (number + 1))
        created(wires.openai, file, method=method, seed=number + 1)


def test_jobs_that_are_queued_together_share_passes(packed: Wires) -> None:
    """Each job's record names the others; one of them that is cancelled changes nothing for them."""
    service = packed.service
    rows = [row for row in service.library.newest(service.keys.keys()[0], 9) if row.id != "cancelled"]
    keys = {row.key for row in (*rows, packed.row("cancelled"))}
    assert [row.state.value for row in rows] == ["ACTIVE"] * 4
    for row in rows:
        assert set(packed.trained_on(row).packed_with) == keys - {row.key}
    cancelled = packed.gemini.good("GET", "/tunedModels/cancelled")
    assert cancelled["state"] == "FAILED"
    assert cancelled["tuningTask"]["snapshots"]


@pytest.mark.parametrize("number", [0, 3])
def test_a_packed_job_has_the_losses_of_a_job_alone(packed: Wires, number: int) -> None:
    """Within 1e-5 at each step, for a job of each wire."""
    service = packed.service
    rows = [row for row in service.library.newest(service.keys.keys()[0], 99) if row.id != "cancelled"]
    row = sorted(rows, key=lambda one: one.number)[number]
    request = replace(
        service.tuner._request(row),
        key="alone",
        tuned_model_id=f"alone-{number}",
    )
    engines = service.tuner._engines
    ref = engines.submit(request)
    wait_until(lambda: engines.poll([ref])[ref].state.is_finished, "it has ended")
    status = engines.poll([ref])[ref]
    assert status.state is JobState.SUCCEEDED
    assert status.trained_on is not None
    assert status.trained_on.packed_with == ()
    assert packed.losses(row) == pytest.approx([one.mean_loss for one in status.snapshots], rel=1e-5)
    assert row.total_steps == len(status.snapshots) == 3 * EPOCHS


def test_a_job_whose_engine_is_lost_is_submitted_again(packed: Wires) -> None:
    """Twice; then it fails, because something in the job may be what kills the engines."""
    lost = JobStatus(JobState.FAILED, failure=Failure(FailureKind.LOST, "gone"))
    row = packed.row("gemini-0")
    assert [packed.service.tuner._is_to_continue(row, lost) for _ in range(3)] == [True, True, False]


def test_a_submitted_job_without_a_step_counts_as_queued(packed: Wires) -> None:
    """On both wires and in the metrics; it can be deleted, cancelled, paused and resumed, and survives a restart."""
    client, tuner, jobs = packed.gemini, packed.service.tuner, packed.openai.fine_tuning.jobs
    client.good("POST", "/tunedModels", body(epochCount=LONG), tunedModelId="running")
    wait_until(lambda: client.steps("running") > 0, "the first takes steps")
    other = body() | {"baseModel": "models/second"}  # waits in the engine's queue until the pack before it has ended
    for name in ("deleted", "cancelled-early", "kept"):
        client.good("POST", "/tunedModels", other, tunedModelId=name)
    file = packed.openai.files.create(file=("train.jsonl", jsonl()), purpose="fine-tune").id
    job = created(packed.openai, file, model="second")
    wait_until(lambda: len(tuner._submitted) == 5, "all are submitted")
    assert packed.gauges() == {"running": 1, "waiting": 4}
    assert "startTime" not in client.good("GET", "/tunedModels/kept")["tuningTask"]
    assert jobs.retrieve(job.id).status == "queued"
    assert "Fine-tuning job started" not in {event.message for event in jobs.list_events(job.id)}
    client.good("DELETE", "/tunedModels/deleted")
    client.good("POST", "/tunedModels/cancelled-early:cancel", {})
    assert client.finished("cancelled-early")["state"] == "FAILED"
    assert "before its first step" in client.operation("cancelled-early")["error"]["message"]
    jobs.pause(job.id)
    wait_until(lambda: len(tuner._submitted) == 2, "the paused one is withdrawn")
    assert packed.gauges() == {"running": 1, "waiting": 1}
    jobs.resume(job.id)
    wait_until(lambda: len(tuner._submitted) == 3, "it is submitted again")
    packed.service.end()
    next_start = State(packed.service.state.folder)
    waiting = next_start.waiting(["tiny", "second"], [], -1)
    assert [row.started_at is None for row in waiting] == [False, True, True]
    assert [row.id for row in waiting[:2]] == ["running", "kept"]
    next_start.interrupted()  # as the next service does when it starts
    assert [row.started_at for row in next_start.waiting(["tiny", "second"], [], -1)] == [None] * 3
    next_start.close()
