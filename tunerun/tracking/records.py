"""The record of a sweep, fetched from MLflow: all that is needed to run it again, from the id of any of its runs.

It is under `record/` among the artifacts of the sweep's own run; the runs of trials and baselines name that run, or
at least their sweep. Nothing is written to MLflow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from tunerun.errors import NotFoundError, TrackingError
from tunerun.ledger.portable import RECORD as RECORD_FILE
from tunerun.ledger.subjects import RunKind
from tunerun.retry import retry
from tunerun.tracking.address import Address, parse_address
from tunerun.tracking.connection import BusyError, RefusedError, StoreConnection
from tunerun.tracking.run_projection import RECORD, RECORD_TAG
from tunerun.tracking.store import PAGE

T = TypeVar("T")

_ADVICE = "check the tracking URI, and whether its server runs"
_SYNC = "run `tunerun sync` with this version on the machine that has its ledger"
_BUSY_ATTEMPTS = 3
_BUSY_WAIT_S = 0.5


@dataclass(frozen=True)
class FetchedRecord:
    """A record that was fetched.

    Attributes:
        folder: holds `record.json` and the files that it names.
        sweep: the id of the sweep.
        number: the trial whose run was named; None: the sweep as a whole.
        run_id: the run that was named, or the sweep's own.
        origin: where the record was fetched from, for people.
    """

    folder: Path
    sweep: str
    number: int | None
    run_id: str
    origin: str


def fetch(uri: str, reference: str, folder: Path) -> FetchedRecord:
    """Fetch the record of a sweep from MLflow.

    Args:
        uri: a tracking URI.
        reference: the id of an MLflow run of a trial, of a baseline or of a sweep; else a sweep's id, an experiment's
            name (its newest sweep) or a tuned model's name.
        folder: where `record/` is put; made if it is not there.

    Raises:
        ConfigError: the URI is not one that MLflow can keep runs in.
        NotFoundError: MLflow has no such run, it is not one of tunerun, or its sweep has no record there.
        TrackingError: MLflow did not answer, or broke off.
    """
    address = parse_address(uri, folder)
    if address.file is not None and not address.file.exists():
        raise NotFoundError(f"{reference}: MLflow's store {address.name} does not exist")
    mlflow = _Reader(address)
    named = mlflow.run(reference) or mlflow.named(reference)
    if named is None:
        raise NotFoundError(
            f"{reference}: MLflow at {address.name} has no run of this id, and no sweep, experiment or tuned model of "
            "this name; give the id as the run's page shows it, and the server with tracking.uri or MLFLOW_TRACKING_URI"
        )
    kind, sweep = named.tags.get("tunerun.kind"), named.tags.get("tunerun.sweep")
    if kind is None or sweep is None:
        raise NotFoundError(
            f"{reference}: this run in MLflow at {address.name} is not one of tunerun (it has no tag `tunerun.sweep`); "
            "only those can be run again"
        )
    own = named if kind == RunKind.SWEEP else mlflow.sweep_of(named, sweep)
    if own is not None and own.is_elsewhere:
        raise NotFoundError(
            f"{reference}: MLflow at {address.name} keeps the files of this run in {own.artifacts}, which is not on "
            "this machine; fetch them where that folder is, or send the sweep to a server that keeps files itself "
            "(`tunerun sync tracking.uri=http://...` on the machine that has its ledger)"
        )
    names = [] if own is None else mlflow.files(own.run_id)
    if own is None or f"{RECORD}/{RECORD_FILE}" not in names:
        made_by = f"tunerun {named.tags.get('tunerun.version') or 'of an earlier version'}"
        raise NotFoundError(
            f"{reference}: MLflow at {address.name} has no record of its sweep {sweep} (the run was made by {made_by}, "
            f"or its record has not arrived yet); {_SYNC}"
        )
    # MLflow stores no checksums (3.17.2): `tunerun.ledger.restoring` compares the digests in `record.json`.
    mlflow.download(own.run_id, folder)
    number = named.tags.get("tunerun.trial", "")
    return FetchedRecord(
        folder=folder / RECORD,
        sweep=sweep,
        number=int(number) if kind == RunKind.TRIAL and number.isdecimal() else None,
        run_id=named.run_id,
        origin=f"run {named.run_id} of MLflow at {address.name}",
    )


@dataclass(frozen=True)
class _Run:
    run_id: str
    experiment_id: str
    tags: Mapping[str, str]
    artifacts: str

    @property
    def is_elsewhere(self) -> bool:
        """Whether its files are in a folder of a machine that is not this one."""
        address = urlsplit(self.artifacts)
        return address.scheme in ("", "file") and not Path(unquote(address.path)).is_dir()


class _Reader:
    """Reads one MLflow store; changes nothing there, and does not repair a damaged file."""

    def __init__(self, address: Address) -> None:
        def refuse() -> None:
            raise TrackingError(f"MLflow at {address.name}: the file is damaged or empty; the ledger can make it again")

        self._connection = StoreConnection(address, before_new=refuse)

    def _ask(self, question: Callable[[Any], T]) -> T:
        def answer() -> T:
            with self._connection.client(_ADVICE) as client:
                return question(client)

        return retry(answer, on=BusyError, attempts=_BUSY_ATTEMPTS, first_wait_s=_BUSY_WAIT_S)

    def run(self, run_id: str) -> _Run | None:
        """Return the run of an id, also one that a person deleted; None: there is none."""
        if not run_id.isalnum():
            return None
        try:
            return self._ask(lambda client: _of(client.get_run(run_id)))
        except RefusedError:  # not there, or not the form of an id
            return None

    def named(self, name: str) -> _Run | None:
        """Return the newest sweep of an id or of an experiment, or the trial of a tuned model; None: there is none."""
        quote = '"' if "'" in name else "'"
        if quote in name:
            return None
        tuned = name if "/" in name else f"tunedModels/{name}"
        of_kind = f"tags.`tunerun.kind` = '{RunKind.SWEEP}'"
        every = self._ask(lambda client: [e.experiment_id for e in _experiments(client)])
        called = self._ask(
            lambda client: [e.experiment_id for e in _experiments(client, f"name = {quote}{name}{quote}")]
        )
        places = (
            (every, f"{of_kind} and tags.`tunerun.sweep` = {quote}{name}{quote}"),
            (called, of_kind),
            (every, f"tags.`tunerun.tuned_model` = {quote}{tuned}{quote} and tags.`tunerun.kind` = '{RunKind.TRIAL}'"),
        )
        runs = (self._newest(experiments, tags) for experiments, tags in places if experiments)
        return next((run for run in runs if run is not None), None)

    def sweep_of(self, run: _Run, sweep: str) -> _Run | None:
        """Return the run of the sweep that a trial or a baseline belongs to; None: there is none."""
        named = run.tags.get(RECORD_TAG, "").removeprefix("runs:/").partition("/")[0]
        own = self.run(named) if named else None
        return own or self._newest(
            [run.experiment_id], f"tags.`tunerun.kind` = '{RunKind.SWEEP}' and tags.`tunerun.sweep` = '{sweep}'"
        )

    def _newest(self, experiments: list[str], tags: str) -> _Run | None:
        runs = self._ask(
            lambda client: client.search_runs(experiments, tags, max_results=1, order_by=["attributes.start_time DESC"])
        )
        return _of(runs[0]) if runs else None

    def files(self, run_id: str) -> list[str]:
        """Return the paths of the files and folders directly below `record/`."""
        # Before a download: that of a missing file fails after 5.7 s of retries (3.17.2), and this is empty at once.
        return self._ask(lambda client: [str(each.path) for each in client.list_artifacts(run_id, RECORD)])

    def download(self, run_id: str, folder: Path) -> None:
        """Put `record/` into a folder; files are streamed."""
        folder.mkdir(parents=True, exist_ok=True)
        self._ask(lambda client: client.download_artifacts(run_id, RECORD, str(folder)))


def _of(run: Any) -> _Run:
    return _Run(run.info.run_id, run.info.experiment_id, run.data.tags, run.info.artifact_uri)


def _experiments(client: Any, where: str | None = None) -> list[Any]:
    experiments: list[Any] = []
    token = None
    while True:
        page = client.search_experiments(filter_string=where, max_results=PAGE, page_token=token)
        experiments += page
        token = page.token
        if not token:
            return experiments
