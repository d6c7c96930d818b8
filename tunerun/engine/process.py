"""The engine as a child process: start it, exchange messages with it, find out why it died."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from tunerun.engine import messages
from tunerun.engine.settings import EngineSettings
from tunerun.files import private_folder
from tunerun.job import Failure, FailureKind

LOG_TAIL_BYTES = 4_000
"""How much of the end of the log a failure contains."""

END_TIMEOUT_S = 5.0
"""How long a process may take to exit after its stdin was closed; it exits at once unless the machine is stuck."""

ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DO_NOT_TRACK": "1",
    # By default GNU OpenMP's threads spin while they wait for each other, which starves them if other processes use the
    # cores too. SmolLM2-135M on two cores at a load of about 4: a step took 57 s with the default, 5 to 7 s with 1000,
    # one run after the other; at a load of 1 to 2 up to a quarter longer than with the default (2026-11-22).
    "GOMP_SPINCOUNT": "1000",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # deterministic cuBLAS (torch's notes on reproducibility)
}
"""Environment variables that libraries read when they are loaded; variables that the user has set take precedence."""


class EngineProcess:
    """One engine process, started by the constructor; it exits when this process does.

    `send` may be called from any thread, `receive` from one. See `workers.base.Worker`.

    Args:
        cache: the cache directory of base models.
        settings: of the engine.
        log: the file to which everything that the process prints is appended.
        number: the engine's number among those of this machine, from 0; selects the GPU.

    Attributes:
        has_reported: whether any report has been received.
    """

    def __init__(self, cache: Path, settings: EngineSettings, log: Path, number: int = 0) -> None:
        self.has_reported = False
        self._log = log
        self._sending = threading.Lock()
        self._ooms_before = _kernel_oom_kills()
        private_folder(log.parent.parent)
        log.parent.mkdir(exist_ok=True)
        # -P: a file named json.py or torch.py in the user's directory must not be imported.
        command = [sys.executable, "-P", "-m", "tunerun.engine", "--cache", str(cache.absolute())]
        command += ["--settings", settings.to_json()]
        if number:
            command += ["--number", str(number)]
        with log.open("ab") as stderr:
            self._log_start = stderr.tell()
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=ENVIRONMENT | dict(os.environ),
                start_new_session=True,  # Ctrl-C reaches only the runner, which decides what to do
            )

    @property
    def process_id(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def send(self, command: messages.Command) -> None:
        """Send a command. If the process has died, the command is lost and `receive` returns None.

        Raises:
            ValueError: a text of the command cannot be written as UTF-8.
        """
        assert self._process.stdin is not None  # noqa: S101 - it was opened as a pipe
        line = messages.command_line(command)
        with self._sending, contextlib.suppress(BrokenPipeError, ValueError):  # ValueError: closed by `end`
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def receive(self) -> messages.Report | None:
        """Wait for the next report; None: the process has ended."""
        assert self._process.stdout is not None  # noqa: S101 - it was opened as a pipe
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            return None
        self.has_reported = True
        return messages.read_report(line)

    def end(self) -> None:
        """End the process, whatever it is doing, and wait until it has exited. May be called again."""
        assert self._process.stdin is not None  # noqa: S101 - it was opened as a pipe
        if self._sending.acquire(timeout=END_TIMEOUT_S):
            with contextlib.suppress(BrokenPipeError, ValueError):
                self._process.stdin.close()
            self._sending.release()
        else:  # another thread is blocked writing to a full pipe, and closing the pipe would block too
            self._process.kill()
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def death(self) -> Failure:
        """Return why the process died without a call of `end`; waits for its exit and closes its pipes."""
        code = self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        with self._log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, size - LOG_TAIL_BYTES))  # not the lines of an earlier engine
            tail = log.read().decode("utf-8", errors="replace")
        return failure_of_exit(code, self._ooms_before, _kernel_oom_kills(), self._log, tail)


def failure_of_exit(code: int, ooms_before: int | None, ooms_after: int | None, log: Path, tail: str) -> Failure:
    """Return the failure of the jobs of an engine that died.

    SIGKILL is sent by the kernel when memory runs out, or by a person. Linux counts the kernel's kills; without a count
    the kernel is assumed, which is the more frequent cause.

    Args:
        code: as Popen's returncode: negative for a signal.
        ooms_before: the number of processes the kernel had killed for memory when the engine started; None: unknown.
        ooms_after: the same number now.
        log: the engine's log, for the message.
        tail: the end of the log.
    """
    if code == -signal.SIGKILL:
        if ooms_before is not None and ooms_before == ooms_after:
            message = "the engine's process was killed (signal 9), not by the kernel for memory; run the command again"
            return Failure(FailureKind.LOST, message, tail or None)
        message = (
            "the engine's process was killed (signal 9), most likely by the kernel because memory ran out; "
            "lower hyperparameters.batch_size, or choose a smaller base model"
        )
        return Failure(FailureKind.OUT_OF_MEMORY, message, tail or None)
    if code < 0:
        with contextlib.suppress(ValueError):  # a signal without a name
            how = f"signal {-code}, {signal.Signals(-code).name}"
            return Failure(FailureKind.CRASHED, f"the engine's process died ({how}); its log is {log}", tail or None)
    return Failure(FailureKind.CRASHED, f"the engine's process died (exit code {code}); its log is {log}", tail or None)


def _kernel_oom_kills() -> int | None:
    """Return how many processes Linux has killed for memory since boot (4.13 and later); None on other systems."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return None
