"""Fifty clients that create, poll and ask over both wires for a minute: what `tunerun serve` answers, and whether anything is lost.

And eight clients that ask eight tuned models of one base model, beside eight that ask one of them.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.engine import tiny_model
from tests.service.client import Client, body, prompt
from tests.service.process import Process
from tunerun.engine.base_model import cache_folder
from tunerun.job import BaseModelRef

CLIENTS = 50
SECONDS = 60.0
JOBS_PER_CLIENT = 4
"""Jobs that a client has made at most: two cores tune about so many tiny ones in that minute."""

ASKING = 8
"""Clients, and tuned models, of the comparison of one tuned model with several."""

TIMEOUT_S = 600.0
"""For one answer: a machine that others use too may take minutes for a batch."""

TURNS = 2
"""Measurements of each, in turn; the shorter one counts."""

ROUNDS = 3
"""Prompts that each client asks, one after another."""

EXAMPLES = [{"textInput": str(number), "output": str(number + 1)} for number in range(4)]


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

    def chat(self, client: Client, model: str, *, stream: bool) -> None:
        """Ask over the OpenAI wire; a stream has to come to its end."""
        asked = {"model": model, "messages": [{"role": "user", "content": "1"}], "stream": stream}
        start = time.perf_counter()
        response = client.http.post(
            f"{self._address}/v1/chat/completions", json=asked, headers={"authorization": f"Bearer {self._secret}"}
        )
        with self._lock:
            self.statuses[response.status_code] += 1
            self.seconds["chat, stream (tuned)" if stream else "chat (tuned)"].append(time.perf_counter() - start)
        assert not stream or response.text.endswith("data: [DONE]\n\n")

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
                    self.chat(client, name, stream=False)
                    self.chat(client, name, stream=True)


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
    with tempfile.TemporaryDirectory() as folder:
        together = asked_at_once(Path(folder))
    return [first, together, *(f"  {what}: {_times(seconds)}" for what, seconds in sorted(load.seconds.items()))]


def _times(seconds: list[float]) -> str:
    ninety_ninth = statistics.quantiles(seconds, n=100)[98]
    return (
        f"{len(seconds):,} answers, median {1000 * statistics.median(seconds):.0f} ms, 99th of 100 "
        f"{1000 * ninety_ninth:.0f} ms"
    )


def asked_at_once(folder: Path) -> str:
    """Seconds for prompts of several clients to several tuned models of SmolLM2, beside those to one of them."""
    process = Process(folder, BaseModelRef("tiny", "smollm2-135m"), cache_folder(None))
    try:
        with process.start() as client:
            for number in range(ASKING):
                client.good("POST", "/tunedModels", body(EXAMPLES, epochCount=1), tunedModelId=f"m{number}")
                client.finished(f"m{number}")
            address, secret = str(client.http.base_url).removesuffix("/v1beta/"), client.http.headers["x-goog-api-key"]
            one, several = [0] * ASKING, [*range(ASKING)]
            for numbers in (one, several):  # every adapter is in memory
                _seconds(address, secret, numbers, 1)
            turns = [[_seconds(address, secret, numbers, ROUNDS) for numbers in (one, several)] for _ in range(TURNS)]
            on_one, on_several = (min(seconds) for seconds in zip(*turns, strict=True))
    finally:
        process.stop()
    return (
        f"tunerun serve (smollm2-135m, one thread): {ASKING} clients, {ROUNDS} prompts each of up to 32 tokens: "
        f"{on_several:.1f} s on {ASKING} tuned models, {on_one:.1f} s on one: {on_several / on_one:.2f} times as long "
        "(goal 1.5)"
    )


def _seconds(address: str, secret: str, numbers: Sequence[int], rounds: int) -> float:
    def ask(number: int) -> None:
        with Client(address, secret) as client:
            client.http.timeout = TIMEOUT_S
            for turn in range(rounds):
                asked = prompt(f"Count from {turn} to a hundred.", maxOutputTokens=32)
                client.good("POST", f"/tunedModels/m{number}:generateContent", asked)

    start = time.perf_counter()
    with ThreadPoolExecutor(len(numbers)) as threads:
        list(threads.map(ask, numbers))
    return time.perf_counter() - start
