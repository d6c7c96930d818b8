"""Which version of the user's own project an experiment was run from."""

from __future__ import annotations

import subprocess
from pathlib import Path


def code_version(folder: Path | None = None) -> dict[str, str | bool] | None:
    """The Git commit, branch and state of the folder the command runs in; None where there is no Git or no commit."""

    def git(*arguments: str) -> str:
        finished = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        )  # fmt: skip
        return finished.stdout.strip()

    try:
        return {
            "commit": git("rev-parse", "HEAD"),
            "branch": git("rev-parse", "--abbrev-ref", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return None
