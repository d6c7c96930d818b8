"""The connection to MLflow: imports mlflow when it is first used, and translates its errors into ours.

`MlflowClient` with explicit run ids, never the fluent API: in threads and asyncio tasks it writes into other runs
(measured with mlflow 3.18.0). Never async logging: 0.6 times the speed of plain calls on SQLite, and after SIGKILL 51
of 500 points were stored.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tunerun.errors import TrackingError
from tunerun.files import private_folder
from tunerun.redaction import redact
from tunerun.tracking import mlflow_internals
from tunerun.tracking.address import Address
from tunerun.tracking.store_file import UnusableError, make_ready

HTTP_TIMEOUT_S = 10
"""Seconds that a server may take to answer. MLflow's own limit is 120, and a hung server is waited for at each call."""

TIMEOUT_VARIABLE = "MLFLOW_HTTP_REQUEST_TIMEOUT"

FIRST_OPEN_TIMEOUT_S = 60
"""Seconds that another process may take to create a store: 3 s here, more on a busy machine."""

_REFUSALS = frozenset(
    {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST", "INVALID_STATE"}
)
_MAX_CAUSE_CHARACTERS = 200
_LATER = "nothing is lost: the ledger has it, and `tunerun sync` brings MLflow up to date"
_DAMAGE = ("database disk image is malformed", "file is not a database")


class RefusedError(TrackingError):
    """MLflow answered and refused this one write; others may go through."""


class BusyError(TrackingError):
    """All of MLflow's database connections were taken; the same call works later."""


class DamagedError(TrackingError):
    """The store's SQLite file is damaged."""


class StoreConnection:
    """A connection to one MLflow store, made when it is first used.

    Args:
        address: of the store.
        before_new: called before a new SQLite file is put in its place; what was recorded of an old one is void.

    Attributes:
        notice: what was done about a SQLite file that could not be used, in a sentence; None: nothing.
    """

    def __init__(self, address: Address, before_new: Callable[[], None] = lambda: None) -> None:
        self.address = address
        self.notice: str | None = None
        self._before_new = before_new
        self._client: Any = None
        self._file_id: tuple[int, int] | None = None
        self._is_suspect = False

    @property
    def is_same(self) -> bool:
        """Whether the connected store, if any, is still there: its SQLite file was not deleted or replaced."""
        return self._client is None or self._file_id == _file_id(self.address.file)

    def close(self) -> None:
        """Disconnect: the next call connects again, to what is at the address then."""
        if self._client is not None and self.address.file is not None:
            mlflow_internals.drop_connections(self._client)
        self._client = None

    @contextmanager
    def client(self, advice: str = _LATER) -> Iterator[Any]:
        """Yield MLflow's client, and translate what MLflow raises in the context.

        Args:
            advice: how the messages of errors end.

        Raises:
            RefusedError: MLflow refused this one write.
            BusyError: it has no database connection left.
            DamagedError: its SQLite file is damaged; the next connection makes it again.
            TrackingError: it could not be reached, or failed in another way.
        """
        # Before anything else of mlflow, which reads its environment while it is imported. Once for a connection: what
        # the user's own code changes later, such as the level of its log, stays.
        client_type = import_mlflow() if self._client is None else None
        import requests
        import sqlalchemy
        from mlflow.exceptions import MlflowException

        try:
            if client_type is not None:
                self._client = self._connect(client_type)
                self._file_id = _file_id(self.address.file)
            yield self._client
        except (MlflowException, requests.RequestException, sqlalchemy.exc.SQLAlchemyError, sqlite3.Error) as error:
            text = str(error)
            if any(words in text for words in _DAMAGE):
                self._is_suspect = True
                raise self.error(DamagedError, _cause(text), advice) from error
            # A server says so with 400 BAD_REQUEST, which MLflow's client does not try again (3.18.0): with 32 clients
            # 45 of 96 requests failed, and each of them works later.
            if "QueuePool" in text:
                raise self.error(BusyError, "all its database connections are taken", advice) from error
            is_refusal = isinstance(error, MlflowException) and error.error_code in _REFUSALS
            raise self.error(RefusedError if is_refusal else TrackingError, _cause(text), advice) from error
        except OSError as error:
            raise self.error(TrackingError, f"{error.strerror or error}: {error.filename or ''}", advice) from error

    def _connect(self, client_type: Any) -> Any:
        file = self.address.file
        if file is None:
            return client_type(self.address.uri)
        try:
            private_folder(file.parent)
            # Of 6 processes that opened a fresh SQLite store at once, 0 or 1 succeeded, and one file was broken for
            # good; with a lock around the first open 18 of 18 did (mlflow 3.18.0).
            with FileLock(file.with_name(file.name + ".lock"), timeout=FIRST_OPEN_TIMEOUT_S):
                done = make_ready(file, thorough=self._is_suspect, before_new=self._before_new)
                self._is_suspect = False
                self.notice = done or self.notice
                client = client_type(self.address.uri)
                client.search_experiments(max_results=1)
                return client
        except Timeout as error:
            raise self.error(TrackingError, "another process has been creating it for a minute") from error
        except UnusableError as error:
            raise self.error(TrackingError, str(error)) from error

    def error(self, kind: type[TrackingError], cause: str, advice: str = _LATER) -> TrackingError:
        """Return an error of this store, its address without a password and its cause without secrets.

        Args:
            kind: the class of the error.
            cause: what is wrong, in one line.
            advice: how the message ends.
        """
        return kind(f"MLflow at {self.address.name}: {redact(cause)}; {advice}")


def import_mlflow() -> Any:
    """Import mlflow with its telemetry, retries and output turned off, and return its client's class."""
    # Telemetry is on by default, and is started by the import itself (3.17.2).
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # By default 7 retries block one call for 247 s where a server refuses connections. And an answer that is lost makes
    # 3.17.2 create the run again: 2 runs where there should be 1. A replay is our retry, and looks before it creates.
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ.setdefault(TIMEOUT_VARIABLE, str(HTTP_TIMEOUT_S))
    # MLflow writes two lines with pictograms to stdout for each run that ends on a server: no JSON document survives
    # that, and where stdout is not UTF-8 the write fails.
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    from mlflow import MlflowClient

    # The first open of a store prints dozens of lines about tables that it creates.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if "MLFLOW_LOGGING_LEVEL" not in os.environ:
        logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # its errors reach us as exceptions
    return MlflowClient


def _file_id(file: Path | None) -> tuple[int, int] | None:
    """Return what distinguishes a file from another one of its name; None: there is none."""
    try:
        stat = None if file is None else file.stat()
    except FileNotFoundError:
        return None
    return None if stat is None else (stat.st_dev, stat.st_ino)


def _cause(text: str) -> str:
    """Return one line of what went wrong, out of a stack of messages that wrap each other."""
    if reason := re.search(r"\[Errno -?\d+\] ([^'\")\n]+)", text):
        return reason[1]
    if "timed out" in text:
        return f"no answer within {os.environ.get(TIMEOUT_VARIABLE, HTTP_TIMEOUT_S)} s"
    line = re.sub(r"^\(\w+\.\w+\) ", "", text.strip().partition("\n")[0])  # SQLAlchemy names its cause's class
    return line if len(line) <= _MAX_CAUSE_CHARACTERS else line[:_MAX_CAUSE_CHARACTERS] + "..."
