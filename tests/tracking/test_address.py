"""Tracking URIs: which are taken, and what is hidden of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tunerun.errors import ConfigError
from tunerun.schema import Tracking
from tunerun.tracking import open_tracker, tracker_name
from tunerun.tracking.address import choose, parse_address


def test_a_relative_store_is_made_absolute(tmp_path: Path) -> None:
    """A SQLite path is taken from the current directory, and its artifacts are beside it."""
    address = parse_address("sqlite:///runs/mlflow.db", tmp_path)
    assert address.uri == f"sqlite:///{Path.cwd() / 'runs' / 'mlflow.db'}"
    assert address.artifacts == Path.cwd() / "runs" / "mlartifacts"


def test_without_a_uri_the_store_is_beside_the_ledger(tmp_path: Path) -> None:
    """`uri: null` is a SQLite file under paths.runs."""
    tracker = open_tracker(Tracking(), tmp_path)
    assert tracker is not None
    assert tracker.uri == f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert list(tmp_path.iterdir()) == []


def test_no_tracker_is_none(tmp_path: Path) -> None:
    """`kind: none` opens nothing."""
    assert open_tracker(Tracking(kind="none"), tmp_path) is None


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "file:mlruns", "./mlruns", "/tmp/mlruns"])  # noqa: S108
def test_the_file_store_is_refused(uri: str, tmp_path: Path) -> None:
    """MLflow refuses its file store, so the config is wrong before anything runs."""
    with pytest.raises(ConfigError, match=r"given up its file store.*use sqlite:///runs/mlflow\.db"):
        open_tracker(Tracking(uri=uri), tmp_path)


def test_an_unknown_scheme_is_refused(tmp_path: Path) -> None:
    """The error for an unknown scheme names those that exist, and no password."""
    with pytest.raises(ConfigError, match=r"unknown scheme 'ftp'; allowed: sqlite:///FILE") as caught:
        open_tracker(Tracking(uri="ftp://ada:planted@host/x"), tmp_path)
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite://host/x.db"])
def test_a_store_without_a_file_is_refused(uri: str, tmp_path: Path) -> None:
    """A SQLite URI has to name a file."""
    with pytest.raises(ConfigError, match="names no file"):
        open_tracker(Tracking(uri=uri), tmp_path)


def test_a_tracker_is_named_without_its_password() -> None:
    """User, password and tokens are not part of a tracker's name."""
    assert tracker_name("https://ada:secret@host:5000/x") == "https://host:5000/x"
    assert tracker_name("https://ada:p@ss@host") == "https://host"
    assert tracker_name("postgresql://host/db?password=secret&a=1") == "postgresql://host/db?password=***&a=1"


def test_importing_the_package_imports_nothing_heavy() -> None:
    """Neither mlflow nor what it brings is imported before it is needed, also when a tracker is opened."""
    program = """
import sys
from pathlib import Path
import tunerun.plots, tunerun.tracking
from tunerun.schema import Tracking
assert tunerun.tracking.open_tracker(Tracking(), Path("nowhere")) is not None
print([name for name in ("mlflow", "pandas", "numpy", "matplotlib", "sqlalchemy", "torch") if name in sys.modules])
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"


def test_the_environment_chooses_where_the_config_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME are honoured, and their values are reported without passwords."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ada:planted@127.0.0.1:9/")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "/team/faq's")
    chosen = choose(Tracking(), tmp_path, "faq")
    assert (chosen.address.uri, chosen.experiment) == ("http://ada:planted@127.0.0.1:9", "/team/faq's")
    assert chosen.notes == (
        "MLFLOW_TRACKING_URI of the environment: the runs are shown in MLflow at http://127.0.0.1:9",
        "MLFLOW_EXPERIMENT_NAME of the environment: they are in the MLflow experiment /team/faq's",
    )
    named = choose(Tracking(uri="sqlite:///own.db", experiment="own"), tmp_path, "faq")
    assert (named.address.uri, named.experiment, named.notes) == (f"sqlite:///{tmp_path}/own.db", "own", ())


def test_an_environment_that_chooses_nothing_usable_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty variable counts as none; a file store is refused under the variable's name."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert choose(Tracking(), tmp_path, "faq").notes == ()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    with pytest.raises(ConfigError, match=r"^MLFLOW_TRACKING_URI=\./mlruns: MLflow has given up its file store"):
        choose(Tracking(), tmp_path, "faq")
