"""`tunerun serve` in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from openai import DefaultHttpxClient, OpenAI

from tests.service.client import Client
from tunerun.job import BaseModelRef
from tunerun.testing.waiting import wait_until


class Process:
    """A service in its own process; each start continues with the same folder."""

    def __init__(self, folder: Path, model: BaseModelRef, cache: Path) -> None:
        self.state = folder / "state"
        self._out, self._err = folder / "out.txt", folder / "err.txt"
        self.command = [
            sys.executable, "-m", "tunerun", "serve", "--port", "0", "--state", str(self.state), "--cache", str(cache),
            "--model", f"tiny={model.source}", "--device", "cpu", "--threads", "1",
            "--packing", "off",
        ]  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Client:
        self._out.write_text("")
        with self._out.open("w") as out, self._err.open("a") as err:
            self.process = subprocess.Popen(self.command, stdout=out, stderr=err)
        wait_until(lambda: "Ctrl-C" in self._out.read_text(), "the service listens")
        self.printed = self._out.read_text()
        address = self.printed.split(" at ")[1].split()[0]
        keys = json.loads((self.state / "keys.json").read_text())["keys"]
        self._at = address, keys[0]["secret"]
        return Client(*self._at)

    def openai(self) -> OpenAI:
        """Return OpenAI's client for the service that was started last."""
        http = DefaultHttpxClient(trust_env=False, timeout=60)
        address, secret = self._at
        return OpenAI(base_url=f"{address}/v1", api_key=secret, http_client=http, max_retries=0)

    def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        os.kill(self.process.pid, number)
        return self.process.wait(timeout=60)

    @property
    def said(self) -> str:
        """The text on its stderr."""
        return self._err.read_text()

    @property
    def log(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self._err.read_text().splitlines() if line.startswith("{")]

    def stop(self) -> None:
        """Kill it if it still runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
