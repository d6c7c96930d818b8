"""The engine's process: reads commands from stdin, executes them in a session, writes reports to stdout.

Between two steps of the pack it executes one call, so that neither training nor calls have to wait for all of the
other. It exits when its stdin closes, so it cannot outlive the process that started it, however that process dies.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from tunerun.engine import messages
from tunerun.engine.session import Session
from tunerun.engine.settings import EngineSettings

OOM_SCORE = "500"
"""Makes the Linux kernel kill the engine before the runner if memory runs out; from -1000 to 1000 (proc(5))."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the engine until stdin closes.

    Args:
        arguments: of the command line; None: those of this process.
    """
    parser = argparse.ArgumentParser(prog="python -m tunerun.engine", description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="the cache directory")
    parser.add_argument("--settings", default="{}", help="EngineSettings as JSON; missing ones have their default")
    parser.add_argument("--number", type=int, default=0, help="its number among the engines of this machine, from 0")
    options = parser.parse_args(arguments)
    with contextlib.suppress(OSError):  # not Linux, or not permitted: then the kernel treats it like any process
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE, encoding="ascii")
    commands, reports = _own_streams()

    def send(report: messages.Report) -> None:
        try:
            reports.write(messages.report_line(report))
            reports.flush()
        except BrokenPipeError:  # the process that started the engine has ended
            os._exit(0)

    run(commands, Session(send, options.cache, EngineSettings.from_json(options.settings), options.number))


def _own_streams() -> tuple[BinaryIO, BinaryIO]:
    """Reserve stdin and stdout for the protocol: whatever a library prints goes to stderr, which is the log."""
    commands = os.fdopen(os.dup(0), "rb")
    reports = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    sys.stdout.flush()
    os.dup2(2, 1)
    return commands, reports


def run(commands: BinaryIO, session: Session) -> None:
    """Execute commands until their stream closes; then the process exits at once, whatever it is doing.

    Args:
        commands: one command on each line.
        session: executes them.
    """
    waiting: queue.Queue[messages.Call | messages.Train] = queue.Queue()
    threading.Thread(target=_read, args=(commands, session, waiting), name="commands", daemon=True).start()
    while True:
        if not (session.is_training and waiting.empty()):
            command = waiting.get()
            if isinstance(command, messages.Train):
                session.train(command)
            else:
                session.execute(command)
        if session.is_training:
            session.step()


def _read(commands: BinaryIO, session: Session, waiting: queue.Queue[messages.Call | messages.Train]) -> None:
    try:
        for line in commands:
            command = messages.read_command(line)
            if isinstance(command, messages.Cancel):  # not queued: it has to overtake the work that it cancels
                session.cancel(command)
            else:
                waiting.put(command)
    except ValueError:
        traceback.print_exc()
        os._exit(1)
    # An interrupted write leaves a `.partial` folder, which the next engine removes (`resuming.clean`).
    os._exit(0)
