"""Fifty clients that create, poll and ask for a minute: what `tunerun serve` answers, and whether anything is lost."""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from tests.engine import tiny_model
from tests.service.client import Client, body, prompt
from tests.service.process import Process

CLIENTS = 50
SECONDS = 60.0
JOBS_PER_CLIENT = 4
"""Jobs that a client has made at most: two cores tune about so many tiny ones in that minute."""


class Load:
    """What all clients together were answered.

    Attributes:
        seconds: of each answer, by what was asked.
        created: names that the service has given.
    """

    def __init__(self, address: str, secret: str) -> None:
        self._address = address
        self._secret = secret
        self._lock = threading.Lock()
        self.statuses: Counter[int] = Counter()
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.created: list[str] = []

    def ask(self, client: Client, what: str, method: str, path: str, asked: Any = None) -> dict[str, Any]:
        start = time.perf_counter()
        response = client.call(method, path, asked)
        with self._lock:
            self.statuses[response.status_code] += 1
            self.seconds[what].append(time.perf_counter() - start)
        document: dict[str, Any] = response.json()
        return document

    def client(self, until: float) -> None:
        """Create, poll until it is tuned, ask it, and begin again."""
        made = 0
        with Client(self._address, self._secret) as client:
            while time.perf_counter() < until:
                if made < JOBS_PER_CLIENT:
                    made += 1
                    operation = self.ask(client, "create", "POST", "/tunedModels", body(epochCount=1))
                    name = operation["metadata"]["tunedModel"]
                    with self._lock:
                        self.created.append(name)
                state = ""
                while state != "ACTIVE" and time.perf_counter() < until:
                    self.ask(client, "generate (base)", "POST", "/models/tiny:generateContent", prompt("1"))
                    state = self.ask(client, "poll", "GET", f"/{name}")["state"]
                if state == "ACTIVE":
                    self.ask(client, "generate (tuned)", "POST", f"/{name}:generateContent", prompt("1"))


def run() -> list[str]:
    """Load a service in a process of its own, let it work its queue off, and count what is there."""
    with tempfile.TemporaryDirectory() as folder:
        base = tiny_model.model_of(tiny_model.build(Path(folder) / "tiny"))
        process = Process(Path(folder), base, Path(folder) / "cache")
        with process.start() as client:
            load = Load(str(client.http.base_url).removesuffix("/v1beta/"), client.http.headers["x-goog-api-key"])
            until = time.perf_counter() + SECONDS
            threads = [threading.Thread(target=load.client, args=[until]) for _ in range(CLIENTS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            active = sum(
                client.finished(name.removeprefix("tunedModels/"))["state"] == "ACTIVE" for name in load.created
            )
            process.stop()
    assert active == len(load.created)
    assert set(load.statuses) == {200}, load.statuses
    answers, others = load.statuses.total(), load.statuses.total() - load.statuses[200]
    first = (
        f"tunerun serve (tiny model): {CLIENTS} clients for {SECONDS:.0f} s: {answers:,} answers, {others} other than "
        f"200; {len(load.created)} tuned models created, {len(load.created) - active} lost"
    )
    return [first, *(f"  {what}: {_times(seconds)}" for what, seconds in sorted(load.seconds.items()))]


def _times(seconds: list[float]) -> str:
    ninety_ninth = statistics.quantiles(seconds, n=100)[98]
    return (
        f"{len(seconds):,} answers, median {1000 * statistics.median(seconds):.0f} ms, 99th of 100 "
        f"{1000 * ninety_ninth:.0f} ms"
    )
