"""MLflow, through `MlflowClient` with explicit run ids; imports mlflow when it connects.

Never the fluent API: in threads it writes into other runs. Never async logging: it is slower and loses points at a
crash. Measured in reference/mlflow.md, sections 2 and 2e. Errors of mlflow, requests and SQLAlchemy end here.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from tunerun.digest import digest
from tunerun.errors import TrackingError
from tunerun.files import private_folder
from tunerun.redaction import redact
from tunerun.tracking import mlflow_internals
from tunerun.tracking.address import Address
from tunerun.tracking.packaged.record import CONTENT_TAG
from tunerun.tracking.run_projection import (
    NOTE_TAG,
    Content,
    Input,
    LoggedModel,
    MetricPoint,
    RunProjection,
    RunState,
    SingleMetric,
)
from tunerun.tracking.store_file import UnusableError, make_ready

if TYPE_CHECKING:
    from tunerun.tracking.packaged.writing import Package

PAGE = 1000
"""Points in one `log_batch`: the most that MLflow takes."""

HTTP_TIMEOUT_S = 10
_SLOWEST_BYTES_PER_S = 1_000_000
"""At which a server may store what it is sent; our choice."""

FIRST_OPEN_TIMEOUT_S = 60
"""Seconds that another process may take to create a store: 3 s here, more on a busy machine."""

_REFUSALS = frozenset(
    {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST", "INVALID_STATE"}
)
_EXPERIMENT_TAG = "tunerun.experiment"
"""On an MLflow experiment: the name under which tunerun looks for it, whatever it is called there by now."""
_OWN_NOTE_TAG = "tunerun.note"
"""On an MLflow experiment: the digests of the last two notes of it that tunerun wrote."""
_MAX_CAUSE_CHARACTERS = 200
_LATER = "nothing is lost: the ledger has it, and `tunerun sync` brings MLflow up to date"
_EXTERNAL_TAG = "mlflow.model.isExternal"
_DAMAGE = ("database disk image is malformed", "file is not a database")
_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"


class RefusedError(TrackingError):
    """MLflow answered and refused this one write; others may go through."""


class BusyError(TrackingError):
    """All of MLflow's database connections were taken; it says so with a 400, and the same call works later."""


class DamagedError(TrackingError):
    """The store's SQLite file is damaged."""


@dataclass(frozen=True)
class KnownRun:
    """A run that MLflow has; `is_active` is False for one that a person deleted."""

    run_id: str
    tags: Mapping[str, str]
    start_ms: int
    is_active: bool


class Store:
    """One MLflow store.

    Nothing is imported or touched before the first call. Every method raises TrackingError when MLflow cannot be
    reached, RefusedError when it refuses one write, BusyError when it has no connection left and DamagedError when its
    SQLite file is damaged: the next call then makes it again.

    Args:
        before_new: called before a new SQLite file is put in its place; what was known of an old one is void.

    Attributes:
        notice: what was done about a SQLite file that could not be used, in a sentence; None: nothing.
    """

    def __init__(self, address: Address, before_new: Callable[[], None] = lambda: None) -> None:
        self.address = address
        self.notice: str | None = None
        self._before_new = before_new
        self._connected: Any = None
        self._file_id: tuple[int, int] | None = None
        self._is_suspect = False
        self._experiments: dict[str, str] = {}

    def forget(self) -> None:
        """Connect again and ask for experiments again: the store may be another one than it was."""
        self._experiments.clear()
        if self._connected is not None and self.address.file is not None:
            mlflow_internals.drop_connections(self._connected)
        self._connected = None

    @property
    def is_same(self) -> bool:
        """Whether what was connected to, if anything was, is still there: no SQLite file was deleted or replaced."""
        return self._connected is None or self._file_id == _file_id(self.address.file)

    @property
    def client(self) -> Any:
        """MLflow's client, to be used within `translated`."""
        if self._connected is None:
            self._connected = self._connect()
            self._file_id = _file_id(self.address.file)
        return self._connected

    def _connect(self) -> Any:
        client_type = _import_mlflow()
        if self.address.file is None:
            return client_type(self.address.uri)
        # Two processes that create a SQLite store at once destroy it (reference/mlflow.md, 2d).
        file = self.address.file
        try:
            private_folder(file.parent)
            with FileLock(file.with_name(file.name + ".lock"), timeout=FIRST_OPEN_TIMEOUT_S), self.translated():
                done = make_ready(file, thorough=self._is_suspect, before_new=self._before_new)
                self._is_suspect = False
                self.notice = done or self.notice
                client = client_type(self.address.uri)
                client.search_experiments(max_results=1)
                return client
        except Timeout as error:
            raise self._error(TrackingError, "another process has been creating it for a minute") from error
        except UnusableError as error:
            raise self._error(TrackingError, str(error)) from error
        except OSError as error:
            raise self._error(TrackingError, f"{error.strerror}: {error.filename}") from error

    def experiment(self, name: str) -> str:
        """Return the id of an experiment, which is created if it is not there; one that was renamed there is followed.

        Raises:
            RefusedError: a person deleted it in MLflow: it is neither restored nor made again under the same name.
        """
        if name not in self._experiments:
            with self.translated():
                found = self._renamed(name) or self.client.get_experiment_by_name(name)
                if found is not None and found.lifecycle_stage == "deleted":
                    raise self._error(
                        RefusedError, f"the experiment {name} was deleted there; restore it, or choose another name"
                    )
                if found is not None and _EXPERIMENT_TAG not in found.tags:
                    self.client.set_experiment_tag(found.experiment_id, _EXPERIMENT_TAG, name)
                if found is not None:
                    self._experiments[name] = str(found.experiment_id)
                else:
                    artifacts, folder = self.address.artifacts, re.sub(r"[^\w.-]", "_", name).lstrip(".")
                    location = None if artifacts is None else (artifacts / (folder or "experiment")).as_uri()
                    self._experiments[name] = str(
                        self.client.create_experiment(name, artifact_location=location, tags={_EXPERIMENT_TAG: name})
                    )
        return self._experiments[name]

    def _renamed(self, name: str) -> Any:
        """The experiment that was made or first found under a name, whatever a person calls it by now."""
        quote = '"' if "'" in name else "'"
        if quote in name:
            return None
        found = self.client.search_experiments(
            view_type=_view_all(), filter_string=f"tags.`{_EXPERIMENT_TAG}` = {quote}{name}{quote}"
        )
        # Of copies the one that still has the name, else the oldest.
        found = sorted(found, key=lambda e: (e.lifecycle_stage != "active", e.name != name, int(e.experiment_id)))
        return found[0] if found else None

    def tag_experiment(self, experiment_id: str, tags: Mapping[str, str], rerun: str = "") -> None:
        """Set tags of an experiment that are not as they should be; a note that a person has written stays.

        Args:
            rerun: the id of a rerun's sweep, whose ledger does not know the other sweeps of the experiment: a note of
                another sweep stays; empty: they are of any other sweep.
        """
        with self.translated():
            now = self.client.get_experiment(experiment_id).tags
            wanted = {key: redact(value) for key, value in tags.items()}
            note, old = wanted.get(NOTE_TAG), now.get(NOTE_TAG)
            if note is not None and old:
                if digest(old) not in now.get(_OWN_NOTE_TAG, "") or rerun not in old:
                    del wanted[NOTE_TAG]
                elif note != old:
                    # Both digests, and before the note: a crash between the two must not make ours a person's.
                    wanted[_OWN_NOTE_TAG] = f"{digest(old)} {digest(note)}"
            elif note is not None:
                wanted[_OWN_NOTE_TAG] = digest(note)
            for key, value in sorted(wanted.items(), key=lambda each: each[0] != _OWN_NOTE_TAG):
                if now.get(key) != value:
                    self.client.set_experiment_tag(experiment_id, key, value)

    def experiments(self) -> list[tuple[str, str]]:
        """Id and name of the newest experiments, the one that was last changed first."""
        with self.translated():
            found = self.client.search_experiments(max_results=10, order_by=["last_update_time DESC"])
            return [(e.experiment_id, e.name) for e in found if e.experiment_id != "0"]

    def runs(self, experiment_id: str) -> list[KnownRun]:
        """All runs of tunerun in an experiment, those that a person deleted last; the oldest first."""
        found: list[KnownRun] = []
        token = None
        with self.translated():
            while True:
                page = self.client.search_runs(
                    [experiment_id], "tags.`tunerun.kind` != ''", _view_all(), PAGE, page_token=token
                )
                found += [
                    KnownRun(r.info.run_id, r.data.tags, r.info.start_time, r.info.lifecycle_stage == "active")
                    for r in page
                ]
                token = page.token
                if not token:
                    return sorted(found, key=lambda run: (not run.is_active, run.start_ms, run.run_id))

    def create(self, experiment_id: str, projection: RunProjection) -> str:
        """Create a run with its tags, and return its id.

        It is never repeated here: MLflow takes no id from us, so after a failure the caller looks for the run.
        """
        tags = {k: redact(v) for k, v in {**projection.identity, **projection.tags}.items()}
        with self.translated():
            run = self.client.create_run(
                experiment_id, start_time=projection.start_ms, tags=tags, run_name=projection.name
            )
        return str(run.info.run_id)

    def rename(self, run_id: str, name: str) -> None:
        """Give a run another name."""
        with self.translated():
            self.client.update_run(run_id, name=name)

    def log_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags; what they were before does not matter."""
        from mlflow.entities import RunTag

        with self.translated():
            self.client.log_batch(run_id, tags=[RunTag(k, redact(v)) for k, v in tags.items()])

    def log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        """Write params, apart from metrics: one that conflicts takes its whole request down."""
        from mlflow.entities import Param

        with self.translated():
            self.client.log_batch(run_id, params=[Param(k, redact(v)) for k, v in params.items()])

    def log_points(self, run_id: str, points: Sequence[MetricPoint]) -> None:
        """Write at most a page of points; those that MLflow has already are not doubled."""
        from mlflow.entities import Metric

        with self.translated():
            self.client.log_batch(run_id, metrics=[Metric(p.key, p.value, p.time_ms, p.step) for p in points])

    def log_measures(self, run_id: str, measures: Sequence[SingleMetric], model_id: str | None) -> None:
        """Write single values, linked to the model and to the data sets that they were measured on.

        MLflow keeps one that it has already as it is, and adds the link to a value that came without it.

        Args:
            model_id: of the logged model; None: the run has none yet.
        """
        from mlflow.entities import Metric

        metrics = [
            Metric(
                m.key, m.value, m.time_ms, step=0, model_id=model_id, run_id=run_id,
                dataset_name=m.on.name if m.on else None, dataset_digest=m.on.digest if m.on else None,
            )
            for m in measures
        ]  # fmt: skip
        with self.translated():
            self.client.log_batch(run_id, metrics=metrics)

    def log_inputs(self, run_id: str, inputs: Sequence[Input]) -> None:
        """Say which datasets a run used."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        entities = [
            DatasetInput(
                Dataset(i.name, i.digest, "local", redact(i.source), profile=json.dumps({"num_rows": i.rows})),
                [InputTag("mlflow.data.context", i.context)],
            )
            for i in inputs
        ]
        with self.translated():
            self.client.log_inputs(run_id, entities)

    def log_files(self, run_id: str, files: Mapping[str, Content]) -> None:
        """Write artifacts; one of the same name is replaced."""

        def write(folder: Path) -> None:
            for name, content in files.items():
                (folder / name).write_bytes(content if isinstance(content, bytes) else redact(content).encode())

        self.log_written(run_id, write)

    def log_written(self, run_id: str, write: Callable[[Path], object]) -> None:
        """Write what a function puts into a folder as artifacts; one of the same name is replaced."""
        with tempfile.TemporaryDirectory(prefix="tunerun-") as folder, self.translated():
            write(Path(folder))
            size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
            if size:
                with _time_for(size):
                    self.client.log_artifacts(run_id, folder)

    def set_state(self, run_id: str, state: RunState, end_ms: int | None) -> None:
        """Set the state of a run; only this sets the end of a finished one.

        Args:
            end_ms: in milliseconds since 1970 (UTC); ignored by a state that is not finished.
        """
        with self.translated():
            if state.is_finished:
                self.client.set_terminated(run_id, state, end_ms)
            else:
                self.client.update_run(run_id, state)

    def logged_model(self, experiment_id: str, run_id: str, model: LoggedModel) -> str:
        """Log a tuned model as the output of a run, and return its id.

        It is looked for first, as the run's output and by its run, because MLflow would create it again. One that was
        logged without its files gets them; one with other files, such as a copy of the base model, is left as it is.
        """
        from mlflow.entities import LoggedModelOutput

        with tempfile.TemporaryDirectory(prefix="tunerun-") as folder, self.translated():
            outputs = self.client.get_run(run_id).outputs
            linked = [output.model_id for output in (outputs.model_outputs if outputs else [])]
            package = model.package(Path(folder) / "model") if model.package is not None else None
            if linked and package is None:
                return str(linked[0])
            found = [self.client.get_logged_model(each) for each in linked]
            found = found or list(self.client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'"))
            tags = dict(model.tags) | (package.tags if package is not None else {_EXTERNAL_TAG: "true"})
            nearest = min(found, key=lambda each: _distance(each, package), default=None)
            own = nearest or self.new_model(experiment_id, model.name, run_id, tags, model.params)
            if package is None and own.status != "READY":
                with tempfile.TemporaryDirectory(prefix="tunerun-") as files:
                    mlflow_internals.write_external_model(own, Path(files))
                    self.client.log_model_artifacts(own.model_id, files)
                self.client.finalize_logged_model(own.model_id, "READY")
            elif package is not None and _distance(own, package) < _OTHER_FILES:
                self.upload(own, package, tags)
            if own.model_id not in linked:
                self.client.log_outputs(run_id, [LoggedModelOutput(own.model_id, step=0)])
            return str(own.model_id)

    def new_model(
        self, experiment_id: str, name: str, run_id: str | None, tags: Mapping[str, str], params: Mapping[str, str]
    ) -> Any:
        """Create a logged model, which is PENDING until it has its files.

        Args:
            run_id: the run that made it; None: MLflow does not have it.
            params: shown on the model's page.

        Returns:
            MLflow's own entity; to be used within `translated`.
        """
        return self.client.create_logged_model(
            experiment_id,
            name=name,
            source_run_id=run_id,
            tags={key: redact(value) for key, value in tags.items()},
            params=dict(params),
        )

    def upload(self, model: Any, package: Package, tags: Mapping[str, str]) -> None:
        """Give a logged model its files, unless it has them, and make it READY.

        Args:
            model: MLflow's entity, external or not: with its files it is no longer external.
        """
        is_whole = model.status == "READY" and model.tags.get(CONTENT_TAG) == package.content
        if is_whole and _EXTERNAL_TAG not in model.tags:
            return
        self.client.log_model_artifacts(model.model_id, str(package.folder))
        if _EXTERNAL_TAG in model.tags:
            self.client.delete_logged_model_tag(model.model_id, _EXTERNAL_TAG)
        self.client.set_logged_model_tags(model.model_id, {key: redact(value) for key, value in tags.items()})
        self.client.finalize_logged_model(model.model_id, "READY")

    @contextmanager
    def translated(self, advice: str = _LATER) -> Iterator[None]:
        """Turn what MLflow raises into our errors.

        Args:
            advice: how their messages end.
        """
        import requests
        import sqlalchemy
        from mlflow.exceptions import MlflowException

        try:
            yield
        except (MlflowException, requests.RequestException, sqlalchemy.exc.SQLAlchemyError, sqlite3.Error) as error:
            text = str(error)
            if any(words in text for words in _DAMAGE):
                self._is_suspect = True
                raise self._error(DamagedError, _cause(text), advice) from error
            if "QueuePool" in text:
                raise self._error(BusyError, "all its database connections are taken", advice) from error
            refused = isinstance(error, MlflowException) and error.error_code in _REFUSALS
            raise self._error(RefusedError if refused else TrackingError, _cause(text), advice) from error
        except OSError as error:
            raise self._error(TrackingError, f"{error.strerror or error}: {error.filename or ''}", advice) from error

    def _error(self, kind: type[TrackingError], cause: str, advice: str = _LATER) -> TrackingError:
        return kind(f"MLflow at {self.address.name}: {redact(cause)}; {advice}")


_OTHER_FILES = 2


def _distance(model: Any, package: Package | None) -> int:
    """How far a logged model is from having a package's files: it has them, has none yet, or has others."""
    content = model.tags.get(CONTENT_TAG)
    if package is not None and content == package.content:
        return 0
    return 1 if content is None or model.status != "READY" else _OTHER_FILES


def _file_id(file: Path | None) -> tuple[int, int] | None:
    """What tells a file from another one of its name; None: there is none."""
    try:
        found = None if file is None else file.stat()
    except FileNotFoundError:
        return None
    return None if found is None else (found.st_dev, found.st_ino)


def _cause(text: str) -> str:
    """One line of what went wrong, out of a stack of messages that wrap each other."""
    if reason := re.search(r"\[Errno -?\d+\] ([^'\")\n]+)", text):
        return reason[1]
    if "timed out" in text:
        return f"no answer within {os.environ.get(_TIMEOUT, HTTP_TIMEOUT_S)} s"
    line = re.sub(r"^\(\w+\.\w+\) ", "", text.strip().partition("\n")[0])  # SQLAlchemy names its cause's class
    return line if len(line) <= _MAX_CAUSE_CHARACTERS else line[:_MAX_CAUSE_CHARACTERS] + "..."


@contextmanager
def _time_for(size: int) -> Iterator[None]:
    """Wait longer for a server's answer to a large file: it may store it elsewhere before it answers.

    MLflow takes the time from the environment alone, at each request.
    """
    before = os.environ.get(_TIMEOUT, str(HTTP_TIMEOUT_S))
    try:
        os.environ[_TIMEOUT] = str(int(before) + size // _SLOWEST_BYTES_PER_S)
        yield
    finally:
        os.environ[_TIMEOUT] = before


def _view_all() -> Any:
    from mlflow.entities import ViewType

    return ViewType.ALL


def _import_mlflow() -> Any:
    """Import mlflow, with its telemetry, retries and chatter turned off, and return its client's class.

    HTTP retries are 0: after a lost answer MLflow 3.17 creates the run again and leaves a ghost, and against a dead
    server it waits for minutes (reference/mlflow.md, 2f). Replaying again is our retry.
    """
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ.setdefault(_TIMEOUT, str(HTTP_TIMEOUT_S))
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
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
