"""How this program was called, and how it exits when it is interrupted."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import NoReturn

from tunerun.files import remove_temporary_folders

INTERRUPTED = 130
"""The exit code after Ctrl-C."""


def program_name() -> str:
    """Return how this program can be called: by its name if the shell finds it, else by its path."""
    # `python -m tunerun` puts the path of __main__.py there, which cannot be called.
    if Path(sys.argv[0]).name == "__main__.py":
        return "python -m tunerun"
    return "tunerun" if shutil.which("tunerun") else os.path.relpath(sys.argv[0])


def command_line(arguments: list[str]) -> str:
    """Return a command line of this program, quoted for the shell and with secrets masked."""
    from tunerun.redaction import redact

    return redact(f"{program_name()} {shlex.join(arguments)}")


def leave_at_once(code: int) -> NoReturn:
    """End the process without waiting for threads that wait for a service; the ledger is on disk already."""
    # `os._exit` flushes nothing, and runs neither `finally` blocks nor exit handlers.
    sys.stdout.flush()
    sys.stderr.flush()
    remove_temporary_folders()
    os._exit(code)
