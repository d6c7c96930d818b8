"""The engine's own process: reads commands from stdin, has a session follow them, writes reports to stdout.

Between two steps of the pack it follows one call: neither waits for all of the other. It ends when its stdin closes, so
it cannot outlive the process that started it, however that one dies.
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
"""Linux' kernel shall end the engine before the runner; the range is -1000 to 1000 (proc(5))."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the engine until stdin closes."""
    parser = argparse.ArgumentParser(prog="python -m tunerun.engine", description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="the cache directory")
    parser.add_argument("--settings", default="{}", help="EngineSettings as JSON; what is missing has its default")
    parser.add_argument("--number", type=int, default=0, help="which of the engines side by side it is, from 0")
    options = parser.parse_args(arguments)
    with contextlib.suppress(OSError):  # another system, or not allowed: then it is as likely to be ended as any
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE, encoding="ascii")
    commands, reports = _own_streams()
    stream = _Reports(reports)
    session = Session(stream.write, options.cache, EngineSettings.from_json(options.settings), options.number)
    run(commands, session)


def _own_streams() -> tuple[BinaryIO, BinaryIO]:
    """Take stdin and stdout for the protocol; whatever a library prints goes to stderr, the log."""
    commands = os.fdopen(os.dup(0), "rb")
    reports = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    sys.stdout.flush()
    os.dup2(2, 1)
    return commands, reports


class _Reports:
    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, report: messages.Report) -> None:
        try:
            self._stream.write(messages.report_line(report))
            self._stream.flush()
        except BrokenPipeError:  # nobody listens any more
            os._exit(0)


def run(commands: BinaryIO, session: Session) -> None:
    """Follow commands until their stream closes; then the process ends at once, in the middle of whatever it does."""
    waiting: queue.Queue[messages.Call | messages.Train] = queue.Queue()
    threading.Thread(target=_read, args=(commands, session, waiting), name="commands", daemon=True).start()
    while True:
        if not (session.is_training and waiting.empty()):
            command = waiting.get()
            if isinstance(command, messages.Train):
                session.train(command)
            else:
                session.follow(command)
        if session.is_training:
            session.step()


def _read(commands: BinaryIO, session: Session, waiting: queue.Queue[messages.Call | messages.Train]) -> None:
    try:
        for line in commands:
            command = messages.read_command(line)
            if isinstance(command, messages.Cancel):
                session.cancel(command)
            else:
                waiting.put(command)
    except ValueError:
        traceback.print_exc()
        os._exit(1)
    # What is half written is a `.partial` folder that the next engine removes (`resuming.clean`).
    os._exit(0)
