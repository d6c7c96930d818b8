"""What README prints as commands does what README says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow

SECTION = re.compile(r"(?m)^## Run it again in a year\n[\s\S]*?^```sh\n([\s\S]*?)^```\n[\s\S]*?\n\n((?:    .*\n)+)")
DEADLINE_S = 280.0


def test_a_sweep_is_run_again_a_year_later(tmp_path: Path, engine_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of `Run it again in a year`, as printed, end with the lines that follow them."""
    found = SECTION.search((REPOSITORY / "README.md").read_text(encoding="utf-8"))
    assert found is not None
    commands, printed = found.groups()
    user_cache = tmp_path / "user-cache"
    user_cache.mkdir()
    (user_cache / "tunerun").symlink_to(engine_cache)
    monkeypatch.setenv("XDG_CACHE_HOME", str(user_cache))
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    shell = ["bash", "-euc", commands]
    done = subprocess.run(shell, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("".join(line.strip() + "\n" for line in printed.splitlines())), done.stdout
