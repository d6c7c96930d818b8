"""Command lines run in this process: with the exit code and the two streams of a process of their own, without its start."""

from __future__ import annotations

import io
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest import mock

from tunerun.cli import main


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def tunerun(*arguments: str) -> Done:
    """Run `tunerun` with these arguments."""
    out, err = io.StringIO(), io.StringIO()
    terminated = signal.getsignal(signal.SIGTERM)  # the command installs its own
    try:
        with (
            mock.patch.object(sys, "argv", ["tunerun", *arguments]),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            main()
    except SystemExit as ended:
        return Done(int(ended.code or 0), out.getvalue(), err.getvalue())
    finally:
        signal.signal(signal.SIGTERM, terminated)
    return Done(0, out.getvalue(), err.getvalue())
