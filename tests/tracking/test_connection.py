"""The connection to MLflow: what importing mlflow must not start, and what it leaves to the user."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tunerun.tracking.address import parse_address
from tunerun.tracking.store import Store

PROGRAM = """
import sys
from pathlib import Path
from tunerun.tracking.address import parse_address
from tunerun.tracking.store import Store

Store(parse_address(sys.argv[1], Path.cwd())).experiments()
from mlflow.telemetry.client import get_telemetry_client

sys.exit(get_telemetry_client() is not None)
"""


@pytest.mark.process
def test_mlflow_sends_no_telemetry(made_store: Path) -> None:
    """Where the user has set nothing, MLflow's telemetry, which its import starts by default, is off."""
    # In CI, and while pytest runs, it is off anyway.
    unset = ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "CI", "PYTEST_CURRENT_TEST", "PYTEST_VERSION")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, f"sqlite:///{made_store}"], env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_log_level_that_is_set_after_connecting_stays(made_store: Path, tmp_path: Path) -> None:
    """MLflow's log is silenced once for a connection: later calls do not undo what the user's own code has set."""
    store, log = Store(parse_address(f"sqlite:///{made_store}", tmp_path)), logging.getLogger("mlflow")
    store.experiments()
    before = log.level
    log.setLevel(logging.INFO)
    try:
        store.experiments()
        assert log.level == logging.INFO
    finally:
        log.setLevel(before)
