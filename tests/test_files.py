"""Folders that a process makes for itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
from tunerun.cli.invocation import leave_at_once
from tunerun.files import temporary_folder
with temporary_folder("proof") as folder:
    (folder / "file").touch()
    print(folder, flush=True)
    leave_at_once(130)
"""


def test_a_process_that_is_interrupted_leaves_no_temporary_folder() -> None:
    """Also where it ends without waiting for anything, as Ctrl-C in a run does."""
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert ended.returncode == 130, ended.stderr
    assert Path(ended.stdout.strip()).name.startswith("tunerun-proof-")
    assert not Path(ended.stdout.strip()).exists()
