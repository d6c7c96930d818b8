"""The Git commit of the user's own project that an experiment is run from, and its uncommitted changes."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunerun.redaction import redact, redact_assignments

MAX_DIFF_BYTES = 100_000
"""Longest diff that is kept; a longer one is cut, with a line that says so."""

MAX_FILES = 50
"""Untracked config files of which the text is kept, and changed files that are named."""

_TIMEOUT_S = 10
_SECRET_FILES = ("**/.env*", "**/*.pem", "**/*.key", "**/*credentials*", "**/id_*")
_CUT = "\n... cut here: the diff is longer\n"


def code_version(
    config: Sequence[Path] = (), data: Sequence[Path] = (), folder: Path | None = None, code: Sequence[Path] = ()
) -> dict[str, Any] | None:
    """Return the Git commit of the folder the command runs in, and what differs from it.

    Files that Git ignores are left out; every other file that an experiment is read from counts.

    Args:
        config: the config directories. data: files of examples, of which rows are never kept in the diff.
        code: files of the user's own metrics.

    Returns:
        `commit`, `branch`, `dirty`, the `changed` files, and the `diff` with secrets masked; None without Git or
        no commit.
    """
    try:
        root_line, commit, branch = _git(folder, "rev-parse", "--show-toplevel", "HEAD", "--abbrev-ref", "HEAD").split(
            "\n"
        )
        root = Path(root_line)
        rows = [name for path in data if (name := _relative(path, root)) is not None]
        directories = [name for path in config if (name := _relative(path, root)) is not None]
        metrics = [name for path in code if (name := _relative(path, root)) is not None]
        tracked = _names(_git(root, "diff", "HEAD", "--name-only", "-z"))
        # Metrics first: config files alone may be more than the MAX_FILES that the diff holds.
        own = _untracked(root, metrics)
        own += [name for name in _untracked(root, directories) if name.endswith((".yaml", ".yml"))]
        changed = sorted({*tracked, *own, *_untracked(root, rows)})
        return {
            "commit": commit,
            "branch": branch,
            "dirty": bool(changed),
            "changed": changed[:MAX_FILES],
            "diff": _diff(root, rows, own) if changed else "",
        }
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _relative(path: Path, root: Path) -> str | None:
    """Return a path relative to the repository; None: it is outside."""
    try:
        return path.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        return None


def _untracked(root: Path, paths: Sequence[str]) -> list[str]:
    return _names(_git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", *paths)) if paths else []


def _diff(root: Path, data: Sequence[str], untracked: Sequence[str]) -> str:
    """Return the diff against the commit, without files of secrets or rows, and with values that look secret masked."""
    left_out = [*(f":(exclude,literal){name}" for name in data), *(f":(exclude,glob){name}" for name in _SECRET_FILES)]
    text = _git(root, "diff", "HEAD", "--no-color", "--no-ext-diff", "--no-textconv", "--", ".", *left_out)
    secret = [name for name in untracked if any(Path(name).match(pattern) for pattern in _SECRET_FILES)]
    for name in untracked[:MAX_FILES]:
        if len(text) > MAX_DIFF_BYTES:
            break
        if name not in secret:
            text += "\n" + _git(root, "diff", "--no-index", "--no-color", "--no-ext-diff", "--", os.devnull, name)
    text = redact_assignments(redact(text.lstrip("\n")))
    if len(text) > MAX_DIFF_BYTES:
        text = text[:MAX_DIFF_BYTES] + _CUT
    if secret:
        text += f"\n... left out, as their names say that they are secret: {', '.join(map(redact, secret))}\n"
    if len(untracked) > MAX_FILES:
        text += f"\n... left out: {len(untracked) - MAX_FILES} further untracked files\n"
    return text


def _names(listed: str) -> list[str]:
    return [name for name in listed.split("\0") if name]


def _git(folder: Path | None, *arguments: str) -> str:
    """Return the first bytes that Git prints; it takes no locks and runs no program that its config names.

    Raises:
        subprocess.SubprocessError: it failed, or took too long.
    """
    command = ["git", "-c", "core.fsmonitor=false", "-c", "core.quotePath=false", *arguments]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as git:  # fmt: skip
        timer = threading.Timer(_TIMEOUT_S, git.kill)
        timer.start()
        try:
            assert git.stdout is not None  # noqa: S101 - stdout=PIPE opens one
            read = git.stdout.read(2 * MAX_DIFF_BYTES)
            if is_cut := len(read) == 2 * MAX_DIFF_BYTES:
                git.kill()  # the rest of a huge diff is not kept
            code = git.wait()
        finally:
            timer.cancel()
    if not is_cut and code not in (0, 1 if "--no-index" in arguments else 0):
        raise subprocess.CalledProcessError(code, command)
    return read.decode("utf-8", "replace").strip("\n")
