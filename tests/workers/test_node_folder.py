"""The folders of workers on a node."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from tunerun.workers.node_folder import PREFIX, NodeFolder

KILLED = """
import os, signal, sys
from pathlib import Path
from tunerun.workers.node_folder import NodeFolder

folder = NodeFolder.make(Path(sys.argv[1]))
(folder.path / "weights").write_bytes(b"left")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_next_worker_removes_folders_of_killed_workers(tmp_path: Path) -> None:
    """A folder in use is kept, and so is one without a lock."""
    used = NodeFolder.make(tmp_path)
    unknown = tmp_path / f"{PREFIX}unknown"
    unknown.mkdir()
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = (folder for folder in tmp_path.iterdir() if (folder / "weights").exists())
    assert left.name.startswith(PREFIX)
    again = NodeFolder.make(tmp_path)
    assert {*tmp_path.iterdir()} == {used.path, again.path, unknown}
    for folder in (used, again):
        folder.remove()
        folder.remove()
    assert {*tmp_path.iterdir()} == {unknown}
