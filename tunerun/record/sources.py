"""Opens records as ledgers: from this project's ledger, from MLflow, or from a bundle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tunerun.errors import NotFoundError
from tunerun.files import temporary_folder
from tunerun.ledger import FILE_NAME, Ledger, SweepRecord, TrialRecord
from tunerun.ledger.restoring import restored
from tunerun.ledger.subjects import key_of_subject, sweep_of_subject
from tunerun.provenance import Facts
from tunerun.record.bundle.opening import opened_bundle
from tunerun.schema import Tracking
from tunerun.tracking.address import choose
from tunerun.tracking.records import fetch

_TUNED_MODELS = "tunedModels/"
"""The start of a tuned model's full name; commands take the name with it or without it."""

_BUNDLE_SUFFIX = ".zip"


@dataclass(frozen=True)
class OpenRecord:
    """The record of a sweep, or of one of its trials.

    Attributes:
        ledger: open for reading; this project's, or one restored from a bundle or from MLflow's files.
        sweep: the sweep.
        number: the trial that was named; None: the whole sweep.
        origin: where it was read from, for messages.
        run_id: MLflow's id of the run that was named; None: it was named otherwise.
    """

    ledger: Ledger
    sweep: SweepRecord
    number: int | None
    origin: str
    run_id: str | None = None

    @cached_property
    def trials(self) -> list[TrialRecord]:
        """The trials that were named: one, or all of the sweep."""
        every = self.ledger.trials(self.sweep.id)
        return every if self.number is None else [trial for trial in every if trial.number == self.number]

    @cached_property
    def facts(self) -> Facts:
        """The environment and the files that were frozen with the sweep."""
        return Facts.of(self.sweep.document)

    @property
    def runs(self) -> Path:
        """The folder of the ledger, which also contains the adapters if the record has any."""
        return self.ledger.path.parent


@contextmanager
def open_record(
    reference: str,
    *,
    runs: Path,
    tracking: Tracking | None = None,
) -> Iterator[OpenRecord]:
    """Find a sweep or a trial and open its record for reading.

    Args:
        reference: a bundle's file, a sweep's id, an experiment's name (for its newest sweep), a tuned model's name, or
            the MLflow run id of a trial or a sweep.
        runs: this project's runs folder, which need not exist.
        tracking: the MLflow store to search if the ledger has no match; None: MLflow is not searched.

    Yields:
        The record, until the context ends.

    Raises:
        NotFoundError: nothing has this name; the message says where it was looked for.
        InputError: the file is not a bundle, is damaged, or contains an entry that no bundle has.
        TrackingError: MLflow did not answer.
        RecordError: the record in MLflow is damaged.
    """
    # By its suffix as well: a bundle that is not there is a missing file rather than an unknown sweep.
    if (file := Path(reference)).suffix == _BUNDLE_SUFFIX or file.is_file():
        with opened_bundle(file) as ledger:
            (sweep,) = ledger.sweeps()
            yield OpenRecord(ledger, sweep, None, f"sweep {sweep.id} in {file}")
        return
    path = runs / FILE_NAME
    # Before MLflow: the ledger is the truth, and it answers without a server.
    if path.exists():
        with Ledger.open_read_only(path) as ledger:
            local = _in_ledger(ledger, reference)
            if local is not None:
                yield local
                return
    problem = (
        f"{reference}: no sweep, experiment, tuned model or MLflow run of this name in {path}; "
        "`tunerun status` shows the sweeps; give the folder of your runs with --runs, or with paths.runs=FOLDER where "
        "a command takes overrides"
    )
    if tracking is None or tracking.kind == "none":
        raise NotFoundError(problem)
    with temporary_folder("record") as folder:
        try:
            fetched = fetch(choose(tracking, runs, "").address.uri, reference, folder)
        except NotFoundError as error:
            raise NotFoundError([problem, *error.problems]) from error
        # Whatever the origin, readers get a ledger: none of them knows MLflow's files or a bundle's.
        again = folder / "runs" / FILE_NAME
        restored(fetched.folder, again)
        with Ledger.open_read_only(again) as ledger:
            [sweep] = ledger.sweeps()
            yield OpenRecord(ledger, sweep, fetched.number, fetched.origin, fetched.run_id)


def _in_ledger(ledger: Ledger, reference: str) -> OpenRecord | None:
    # A sweep's id wins over an experiment of the same name; of an experiment's sweeps it is the newest, the last one.
    sweeps = ledger.sweeps()
    named = {sweep.experiment: sweep for sweep in sweeps} | {sweep.id: sweep for sweep in sweeps}
    if reference in named:
        return OpenRecord(ledger, named[reference], None, f"sweep {named[reference].id} in {ledger.path}")
    subject = ledger.subject_of_run(reference)
    if subject is not None:
        sweep, key = sweep_of_subject(ledger, subject), key_of_subject(subject)
    else:
        # A tuned model belongs to a key, which several sweeps may have; a rerun of it starts from the newest.
        job = ledger.job_of_tuned_model(_TUNED_MODELS + reference.removeprefix(_TUNED_MODELS))
        sweep, key = (None, None) if job is None else (ledger.newest_sweep_of_key(job.key), job.key)
    if sweep is None:
        return None
    run_id = None if subject is None else reference
    if key is None:
        return OpenRecord(ledger, sweep, None, f"sweep {sweep.id} in {ledger.path}", run_id)
    number = next(trial.number for trial in ledger.trials(sweep.id) if trial.key == key)
    return OpenRecord(ledger, sweep, number, f"trial {number} of sweep {sweep.id} in {ledger.path}", run_id)
