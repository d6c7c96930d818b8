"""Where MLflow is: which tracking URIs are taken, and what is left out of one before anyone sees it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from tunerun.errors import ConfigError

_DATABASES = ("postgresql", "mysql", "mssql")
_SERVERS = ("http", "https")
_SQLITE = "sqlite:///"
_ALLOWED = "allowed: sqlite:///FILE, http(s)://HOST, postgresql://, mysql://, mssql://"

_USERINFO = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/\s'\"]*@")
_QUERY = re.compile(r"([?&](?:key|api_key|token|access_token|password)=)[^&\s'\"]+", re.IGNORECASE)
_KEY_SHAPES = re.compile(r"\b(?:AIza[\w-]{30,}|sk-[\w-]{20,}|hf_\w{20,}|ya29\.[\w.-]{20,})")
_SECRET_NAMES = re.compile(r"(?:^|_)(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS)$")
_MIN_SECRET_CHARACTERS = 8
_MASK = "***"


@dataclass(frozen=True)
class Address:
    """A tracking URI that can be used.

    Attributes:
        uri: absolute; may hold a password, so it is shown to nobody.
        name: the same without user and password; names the tracker in the ledger, in messages and logs.
        file: the SQLite file; None for a server or another database.
        artifacts: the folder new experiments keep their artifacts in; None: the server decides.
    """

    uri: str
    name: str
    file: Path | None
    artifacts: Path | None


def parse_address(uri: str, runs: Path) -> Address:
    """Read a tracking URI; a relative SQLite path is taken from the current directory.

    Args:
        runs: where a database without a place of its own keeps its artifacts.

    Raises:
        ConfigError: a scheme that MLflow or tunerun does not take, or an empty path.
    """
    scheme = uri.partition(":")[0].lower() if "://" in uri or uri.startswith("file:") else ""
    if scheme == "sqlite":
        return _sqlite(uri)
    if scheme in _SERVERS:
        return Address(uri.rstrip("/"), tracker_name(uri.rstrip("/")), None, None)
    if scheme.partition("+")[0] in _DATABASES:
        return Address(uri, tracker_name(uri), None, runs.absolute() / "mlartifacts")
    if scheme in ("file", ""):
        raise ConfigError(
            f"tracking.uri={redact(uri)}: MLflow has given up its file store; {_ALLOWED}; use sqlite:///runs/mlflow.db"
        )
    raise ConfigError(
        f"tracking.uri={redact(uri)}: unknown scheme {scheme!r}; {_ALLOWED}; choose one, or tracking=none"
    )


def _sqlite(uri: str) -> Address:
    path = uri.removeprefix(_SQLITE)
    if not uri.startswith(_SQLITE) or not path or path.startswith(":memory:"):
        raise ConfigError(
            f"tracking.uri={redact(uri)}: names no file; a SQLite store is sqlite:///relative/path.db or "
            "sqlite:////absolute/path.db"
        )
    file = Path(path).absolute()
    absolute = f"{_SQLITE}{file}"
    return Address(absolute, absolute, file, file.parent / "mlartifacts")


def tracker_name(uri: str) -> str:
    """A tracking URI without the user, password or token it may hold."""
    return _QUERY.sub(rf"\1{_MASK}", _USERINFO.sub(r"\1", uri))


def redact(text: str) -> str:
    """Text without what must not leave this machine.

    Masked are user and password in URLs, tokens in their queries, what has the shape of a well-known API key, and the
    value of every environment variable whose name says that it is a secret (`..._API_KEY`, `..._TOKEN`, `..._SECRET`,
    `..._PASSWORD`). This is the second line of defence: keys come from the environment and are in no config.
    """
    for value in _environment_secrets():
        text = text.replace(value, _MASK)
    text = _USERINFO.sub(rf"\1{_MASK}@", text)
    return _KEY_SHAPES.sub(_MASK, _QUERY.sub(rf"\1{_MASK}", text))


def _environment_secrets() -> list[str]:
    return [
        value
        for name, value in os.environ.items()
        if len(value) >= _MIN_SECRET_CHARACTERS and _SECRET_NAMES.search(name.upper())
    ]
