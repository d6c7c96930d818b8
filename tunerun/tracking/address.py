"""MLflow's address: parses tracking URIs, and removes credentials from them for display."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tunerun.errors import ConfigError
from tunerun.redaction import MASK, QUERY, USERINFO, redact
from tunerun.schema import Tracking

_DATABASES = ("postgresql", "mysql", "mssql")
_SERVERS = ("http", "https")
_SQLITE = "sqlite:///"
_URI_VARIABLE, _EXPERIMENT_VARIABLE = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"
_ALLOWED = "allowed: sqlite:///FILE, http(s)://HOST, postgresql://, mysql://, mssql://"


@dataclass(frozen=True)
class Address:
    """A tracking URI that can be used.

    Attributes:
        uri: absolute; may hold a password, so it is never displayed.
        name: the same without user and password; names the tracker in the ledger, in messages and logs.
        file: the SQLite file; None for a server or another database.
        artifacts: the folder new experiments keep their artifacts in; None: the server decides.
    """

    uri: str
    name: str
    file: Path | None
    artifacts: Path | None


@dataclass(frozen=True)
class Chosen:
    """The tracking URI and experiment that config and environment choose together.

    Attributes:
        experiment: the name of the MLflow experiment.
        address: from the tracking URI.
        notes: a line for each of these that the environment has chosen.
    """

    address: Address
    experiment: str
    notes: tuple[str, ...]


def choose(tracking: Tracking, runs: Path, name: str) -> Chosen:
    """Choose the tracking URI and the experiment: the config's, else the environment's, else the default.

    Args:
        tracking: the section of the config.
        runs: the folder of the ledger, `paths.runs`.
        name: the experiment's name.

    Raises:
        ConfigError: the URI is not one that MLflow can keep runs in.
    """
    notes = []
    uri, source = tracking.uri, "tracking.uri"
    if uri is None and (uri := os.environ.get(_URI_VARIABLE, "").strip()):
        source = _URI_VARIABLE
    address = parse_address(uri or f"{_SQLITE}{runs.absolute() / 'mlflow.db'}", runs, source)
    if source == _URI_VARIABLE:
        notes.append(f"{_URI_VARIABLE} of the environment: the runs are shown in MLflow at {address.name}")
    experiment = tracking.experiment
    if experiment is None and (experiment := os.environ.get(_EXPERIMENT_VARIABLE, "").strip()):
        notes.append(f"{_EXPERIMENT_VARIABLE} of the environment: they are in the MLflow experiment {experiment}")
    return Chosen(address, experiment or name, tuple(notes))


def parse_address(uri: str, runs: Path, source: str = "tracking.uri") -> Address:
    """Read a tracking URI; a relative SQLite path is taken from the current directory.

    Args:
        uri: as the user gives it.
        runs: where a database without a place of its own keeps its artifacts.
        source: the setting or variable that the URI is from, for messages.

    Raises:
        ConfigError: a scheme that MLflow or tunerun does not take, or an empty path.
    """
    scheme = uri.partition(":")[0].lower() if "://" in uri or uri.startswith("file:") else ""
    if scheme == "sqlite":
        path = uri.removeprefix(_SQLITE)
        if not uri.startswith(_SQLITE) or not path or path.startswith(":memory:"):
            raise ConfigError(
                f"{source}={redact(uri)}: names no file; a SQLite store is sqlite:///relative/path.db or "
                "sqlite:////absolute/path.db"
            )
        # Absolute: a job that changes its directory would open another store, and MLflow would create it.
        file = Path(path).absolute()
        return Address(f"{_SQLITE}{file}", f"{_SQLITE}{file}", file, file.parent / "mlartifacts")
    if scheme in _SERVERS:
        return Address(uri.rstrip("/"), tracker_name(uri.rstrip("/")), None, None)
    if scheme.partition("+")[0] in _DATABASES:
        return Address(uri, tracker_name(uri), None, runs.absolute() / "mlartifacts")
    # MLflow only maintains its file store, and raises without MLFLOW_ALLOW_FILE_STORE=true (3.17.2).
    if scheme in ("file", ""):
        raise ConfigError(
            f"{source}={redact(uri)}: MLflow has given up its file store; {_ALLOWED}; use sqlite:///runs/mlflow.db"
        )
    raise ConfigError(f"{source}={redact(uri)}: unknown scheme {scheme!r}; {_ALLOWED}; choose one, or tracking=none")


def tracker_name(uri: str) -> str:
    """Return a tracking URI without user, password and token."""
    return QUERY.sub(rf"\1{MASK}", USERINFO.sub(r"\1", uri))
