"""Files and jobs of the OpenAI wire in every state, before a service is killed and after its restart."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from openai import OpenAI

from tests.service.openai.training import LONG, created, ended, hyperparameters, jsonl, underway

SETTLED = ("succeeded", "failed", "cancelled")


class Survivors:
    """Files and jobs of one service: created by `settle` and `wait_in_queue`, and checked after the restart by `check`."""

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}
        self._settled: dict[str, Any] = {}
        self._file = ""

    def settle(self, client: OpenAI) -> None:
        """Create a file, and jobs that have succeeded, failed, been cancelled and been paused."""
        self._file = client.files.create(file=("train.jsonl", jsonl()), purpose="fine-tune").id
        self._ids["cancelled"] = self._create(client, n_epochs=LONG)
        underway(client, self._ids["cancelled"])
        client.fine_tuning.jobs.cancel(self._ids["cancelled"])
        self._ids["succeeded"] = created(client, self._file, validation_file=self._file, suffix="kept").id
        self._ids["failed"] = self._create(client, n_epochs=50, learning_rate_multiplier=1e12)
        for state in ("succeeded", "failed"):
            assert ended(client, self._ids[state]).status == state
        self._settled = self._all(client)
        self._ids["paused"] = self._create(client, n_epochs=400)
        underway(client, self._ids["paused"])
        client.fine_tuning.jobs.pause(self._ids["paused"])

    def wait_in_queue(self, client: OpenAI) -> None:
        """Create a queued job, and an upload that is not complete."""
        self._ids["queued"] = self._create(client)
        assert client.fine_tuning.jobs.retrieve(self._ids["queued"]).status == "queued"
        place = urlsplit(str(client.base_url))
        with socket.create_connection((place.hostname, place.port)) as half:
            head = f"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {client.api_key}\r\n"
            body = '--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nhalf'
            form = "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000\r\n\r\n"
            half.sendall((head + form + body).encode())

    def check(self, client: OpenAI, state: Path) -> None:
        """Check that finished jobs are unchanged, paused and queued ones can finish, and the incomplete upload is gone."""
        assert self._all(client) == self._settled
        assert str(client.fine_tuning.jobs.retrieve(self._ids["paused"]).status) == "paused"
        client.fine_tuning.jobs.resume(self._ids["paused"])
        for name in ("queued", "paused"):
            job = ended(client, self._ids[name])
            assert job.status == "succeeded"
            steps = [
                event.data
                for event in client.fine_tuning.jobs.list_events(job.id, limit=1000)
                if event.type == "metrics"
            ]
            assert len(steps) == {"queued": 6, "paused": 1200}[name]
        assert [path.name for path in (state / "files").iterdir()] == [self._file]

    def _create(self, client: OpenAI, **values: Any) -> str:
        return created(client, self._file, method=hyperparameters(**values)).id

    def _all(self, client: OpenAI) -> dict[str, Any]:
        """Return the JSON of the files and of the finished jobs."""
        jobs = client.fine_tuning.jobs
        result = jobs.retrieve(self._ids["succeeded"]).result_files[0]
        return {
            "files": [client.files.retrieve(each).to_dict() for each in (self._file, result)],
            "contents": [client.files.content(each).read() for each in (self._file, result)],
            "jobs": [jobs.retrieve(self._ids[name]).to_dict() for name in SETTLED],
            "events": [[one.to_dict() for one in jobs.list_events(self._ids[name], limit=1000)] for name in SETTLED],
            "checkpoints": [one.to_dict() for one in jobs.checkpoints.list(self._ids["succeeded"])],
        }
