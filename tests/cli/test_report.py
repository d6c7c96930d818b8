"""`tunerun report`: where it writes, and when it opens a browser."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.comparison.sweeps import Trained, frozen
from tunerun.cli import app
from tunerun.errors import InputError

pytestmark = pytest.mark.process

NO_SCREEN = {"DISPLAY": "", "WAYLAND_DISPLAY": "", "BROWSER": ""}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A ledger with a sweep of two trials."""
    lab = frozen(tmp_path / "runs", [Trained("1" * 20 + "0" * 4), Trained("1" * 9 + "0" * 15)])
    lab.ledger.close()
    return tmp_path / "runs"


def report(*arguments: str, **environment: str) -> Result:
    """In this process: to start another one takes seconds."""
    return CliRunner().invoke(app, ["report", *arguments], env={**NO_SCREEN, **environment})


def test_a_page_is_written_beside_the_ledger(runs: Path) -> None:
    """Without a display only its path is printed; a second report replaces the file."""
    page = runs / "reports" / "support-1a2b3c4d.html"
    for _ in range(2):
        finished = report(f"paths.runs={runs}")
        assert (finished.exit_code, finished.stdout) == (0, f"wrote {page}\n"), finished.stderr
    assert "Use point 0" in page.read_text()
    assert [file.name for file in page.parent.iterdir()] == [page.name]
    assert page.parent.stat().st_mode & 0o077 == 0


@pytest.mark.skipif(sys.platform == "win32", reason="the browser of this test is a shell script")
def test_the_page_is_opened(runs: Path, tmp_path: Path) -> None:
    """`BROWSER` chooses the program; --no-open and --json open none."""
    browser, opened = tmp_path / "browser", tmp_path / "opened"
    browser.write_text(f'#!/bin/sh\necho "$1" >> {opened}\n')
    browser.chmod(0o700)
    file = tmp_path / "pages" / "my report.html"
    arguments = (f"paths.runs={runs}", "--sweep", "support-1a2b3c4d", "--output", str(file))
    environment = {**NO_SCREEN, "BROWSER": f"{browser} %s"}
    command = [sys.executable, "-m", "tunerun", "report", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment})
    assert done.stdout == f"opened {file}\n"
    assert opened.read_text() == f"{file.as_uri()}\n"
    assert report(*arguments, "--no-open", **environment).stdout == f"wrote {file}\n"
    assert json.loads(report(*arguments, "--json", **environment).stdout) == {"report": str(file)}
    assert opened.read_text().count("\n") == 1


def test_a_file_that_cannot_be_written(runs: Path, tmp_path: Path) -> None:
    """The message names the file and what to do."""
    (tmp_path / "file").touch()
    finished = report(f"paths.runs={runs}", "-o", str(tmp_path / "file" / "report.html"))
    assert isinstance(finished.exception, InputError)
    assert "choose a file that can be written with --output" in str(finished.exception)
