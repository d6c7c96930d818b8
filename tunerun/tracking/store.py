"""What tunerun writes to MLflow and reads back: experiments, runs and what belongs to them."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunerun.digest import digest
from tunerun.redaction import redact
from tunerun.tracking.address import Address
from tunerun.tracking.connection import HTTP_TIMEOUT_S, TIMEOUT_VARIABLE, RefusedError, StoreConnection
from tunerun.tracking.logged_models import log_model
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

PAGE = 1000
"""Points in one `log_batch`: MLflow's limit. On SQLite one batch is 30 times as fast as a call for each point, on a
server 56 to 147 times (mlflow 3.18.0)."""

_SLOWEST_BYTES_PER_S = 1_000_000
"""At which a server may store what it is sent; our choice."""

_EXPERIMENT_TAG = "tunerun.experiment"
"""On an MLflow experiment: the name under which tunerun looks for it, whatever it is called there by now."""
_OWN_NOTE_TAG = "tunerun.note"
"""On an MLflow experiment: the digests of the last two notes of it that tunerun wrote."""


@dataclass(frozen=True)
class StoredRun:
    """A run that MLflow has.

    Attributes:
        is_active: False for one that a person deleted.
    """

    run_id: str
    tags: Mapping[str, str]
    start_ms: int
    is_active: bool


class Store:
    """One MLflow store; nothing is imported or opened before the first call.

    Every method raises what `StoreConnection.client` does: TrackingError, RefusedError, BusyError or DamagedError.

    Args:
        address: of the store.
        before_new: as for `StoreConnection`.
    """

    def __init__(self, address: Address, before_new: Callable[[], None] = lambda: None) -> None:
        self.connection = StoreConnection(address, before_new)
        self._experiments: dict[str, str] = {}

    def forget(self) -> None:
        """Connect again and ask for experiments again: the store may be another one than it was."""
        self._experiments.clear()
        self.connection.close()

    def experiment(self, name: str) -> str:
        """Return the id of an experiment, which is created if it is not there; one that was renamed there is followed.

        Raises:
            RefusedError: a person deleted it in MLflow: it is neither restored nor made again under the same name.
        """
        if name in self._experiments:
            return self._experiments[name]
        with self.connection.client() as client:
            experiment = None
            quote = '"' if "'" in name else "'"
            if quote not in name:  # MLflow's filters have no escape
                tagged = client.search_experiments(
                    view_type=_view_all(), filter_string=f"tags.`{_EXPERIMENT_TAG}` = {quote}{name}{quote}"
                )
                # Of copies the one that still has the name, else the oldest.
                order = sorted(
                    tagged, key=lambda e: (e.lifecycle_stage != "active", e.name != name, int(e.experiment_id))
                )
                experiment = next(iter(order), None)
            experiment = experiment or client.get_experiment_by_name(name)
            if experiment is None:
                # An absolute place: with SQLite MLflow's own default is `mlruns` in the current directory.
                artifacts, folder = self.connection.address.artifacts, re.sub(r"[^\w.-]", "_", name).lstrip(".")
                location = None if artifacts is None else (artifacts / (folder or "experiment")).as_uri()
                experiment_id = client.create_experiment(name, artifact_location=location, tags={_EXPERIMENT_TAG: name})
            else:
                if experiment.lifecycle_stage == "deleted":
                    raise self.connection.error(
                        RefusedError, f"the experiment {name} was deleted there; restore it, or choose another name"
                    )
                experiment_id = experiment.experiment_id
                if _EXPERIMENT_TAG not in experiment.tags:
                    client.set_experiment_tag(experiment_id, _EXPERIMENT_TAG, name)
        self._experiments[name] = str(experiment_id)
        return self._experiments[name]

    def tag_experiment(self, experiment_id: str, tags: Mapping[str, str], rerun: str = "") -> None:
        """Set tags of an experiment that are not as they should be; a note that a person has written stays.

        Args:
            experiment_id: from `experiment`.
            tags: as they should be; others are left alone.
            rerun: the id of a rerun's sweep, whose ledger does not know the other sweeps of the experiment: a note of
                another sweep stays; empty: they are of any other sweep.
        """
        with self.connection.client() as client:
            now = client.get_experiment(experiment_id).tags
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
                    client.set_experiment_tag(experiment_id, key, value)

    def experiments(self) -> list[tuple[str, str]]:
        """Return id and name of the newest experiments, the one that was last changed first."""
        with self.connection.client() as client:
            newest = client.search_experiments(max_results=10, order_by=["last_update_time DESC"])
            return [(e.experiment_id, e.name) for e in newest if e.experiment_id != "0"]  # 0: MLflow's own `Default`

    def runs(self, experiment_id: str) -> list[StoredRun]:
        """Return all runs of tunerun in an experiment, the oldest first, and last those that a person deleted."""
        runs: list[StoredRun] = []
        token = None
        with self.connection.client() as client:
            while True:
                page = client.search_runs(
                    [experiment_id], "tags.`tunerun.kind` != ''", _view_all(), PAGE, page_token=token
                )
                runs += [
                    StoredRun(r.info.run_id, r.data.tags, r.info.start_time, r.info.lifecycle_stage == "active")
                    for r in page
                ]
                token = page.token
                if not token:
                    return sorted(runs, key=lambda run: (not run.is_active, run.start_ms, run.run_id))

    def create(self, experiment_id: str, projection: RunProjection) -> str:
        """Create a run with its tags, and return its id.

        It is never repeated here: MLflow takes no id from us, so after a failure the caller looks for the run.
        """
        tags = {k: redact(v) for k, v in {**projection.identity, **projection.tags}.items()}
        with self.connection.client() as client:
            run = client.create_run(experiment_id, start_time=projection.start_ms, tags=tags, run_name=projection.name)
        return str(run.info.run_id)

    def rename(self, run_id: str, name: str) -> None:
        """Change a run's name."""
        with self.connection.client() as client:
            client.update_run(run_id, name=name)

    def log_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run; what they were before does not matter."""
        with self.connection.client() as client:
            from mlflow.entities import RunTag

            client.log_batch(run_id, tags=[RunTag(k, redact(v)) for k, v in tags.items()])

    def log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        """Write params of a run; MLflow refuses all of them if one has another value there."""
        with self.connection.client() as client:
            from mlflow.entities import Param

            client.log_batch(run_id, params=[Param(k, redact(v)) for k, v in params.items()])

    def log_points(self, run_id: str, points: Sequence[MetricPoint]) -> None:
        """Write at most a page of points; those that MLflow has already are not doubled."""
        with self.connection.client() as client:
            from mlflow.entities import Metric

            client.log_batch(run_id, metrics=[Metric(p.key, p.value, p.time_ms, p.step) for p in points])

    def log_measures(self, run_id: str, measures: Sequence[SingleMetric], model_id: str | None) -> None:
        """Write single values, linked to the model and to the data sets that they were measured on.

        MLflow keeps one that it has already as it is, and adds the link to a value that came without it.

        Args:
            run_id: the run.
            measures: the values.
            model_id: of the logged model; None: the run has none yet.
        """
        with self.connection.client() as client:
            from mlflow.entities import Metric

            metrics = [
                Metric(
                    m.key, m.value, m.time_ms, step=0, model_id=model_id, run_id=run_id,
                    dataset_name=m.on.name if m.on else None, dataset_digest=m.on.digest if m.on else None,
                )
                for m in measures
            ]  # fmt: skip
            client.log_batch(run_id, metrics=metrics)

    def log_inputs(self, run_id: str, inputs: Sequence[Input]) -> None:
        """Write which datasets a run used."""
        with self.connection.client() as client:
            from mlflow.entities import Dataset, DatasetInput, InputTag

            # With our own digest: that of `mlflow.data.from_pandas` missed an edit in row 15,000 of 20,000 (3.18.0).
            entities = [
                DatasetInput(
                    Dataset(i.name, i.digest, "local", redact(i.source), profile=json.dumps({"num_rows": i.rows})),
                    [InputTag("mlflow.data.context", i.context)],
                )
                for i in inputs
            ]
            client.log_inputs(run_id, entities)

    def log_files(self, run_id: str, files: Mapping[str, Content]) -> None:
        """Write artifacts; one of the same name is replaced."""

        def write(folder: Path) -> None:
            for name, content in files.items():
                (folder / name).write_bytes(content if isinstance(content, bytes) else redact(content).encode())

        self.log_folder(run_id, write)

    def log_folder(self, run_id: str, write: Callable[[Path], object]) -> None:
        """Write what a function puts into a folder as artifacts; one of the same name is replaced."""
        with tempfile.TemporaryDirectory(prefix="tunerun-") as folder, self.connection.client() as client:
            write(Path(folder))
            size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
            if not size:
                return
            # A server may store a large file elsewhere before it answers, so it is given more time. MLflow reads the
            # limit from the environment alone, at each request (3.17.2).
            before = os.environ.get(TIMEOUT_VARIABLE, str(HTTP_TIMEOUT_S))
            try:
                os.environ[TIMEOUT_VARIABLE] = str(int(before) + size // _SLOWEST_BYTES_PER_S)
                client.log_artifacts(run_id, folder)
            finally:
                os.environ[TIMEOUT_VARIABLE] = before

    def set_state(self, run_id: str, state: RunState, end_ms: int | None) -> None:
        """Set the state of a run, and the end of a finished one.

        Args:
            run_id: the run.
            state: the new state; one that is not finished removes an earlier end.
            end_ms: in milliseconds since 1970 (UTC); ignored by a state that is not finished.
        """
        with self.connection.client() as client:
            if state.is_finished:
                client.set_terminated(run_id, state, end_ms)  # `update_run` sets no end (3.18.0)
            else:
                client.update_run(run_id, state)

    def log_model(self, experiment_id: str, run_id: str, model: LoggedModel) -> str:
        """Log a tuned model as the output of a run; see `logged_models.log_model`.

        Args:
            experiment_id: of the run.
            run_id: the run that made the model.
            model: what to log.

        Returns:
            The id of the logged model.
        """
        with self.connection.client() as client:
            return log_model(client, experiment_id, run_id, model)


def _view_all() -> Any:
    from mlflow.entities import ViewType

    return ViewType.ALL
