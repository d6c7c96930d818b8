"""Writes a sweep into one file that can be run again without its ledger, MLflow and machine."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tunerun.comparison import judge
from tunerun.comparison.renderers import file_contents
from tunerun.comparison.results import Verdict
from tunerun.comparison.table import ComparisonTable
from tunerun.compose.validation import validate
from tunerun.engine.tuned_model import RECORD_FILE, WEIGHTS_FILE
from tunerun.errors import ConfigError, InputError
from tunerun.ledger import FILE_NAME, Ledger, TrialRecord
from tunerun.ledger.portable import portable_files
from tunerun.ledger.restoring import restored
from tunerun.metrics.registry import resolve_stored
from tunerun.provenance import BaseModelFacts
from tunerun.provenance.places import Places
from tunerun.record.bundle.archive import Content, write_archive
from tunerun.record.bundle.crate import METADATA, Author, Study, metadata
from tunerun.record.bundle.opening import MODELS, RECORD, RESULTS
from tunerun.record.bundle.read_me import README, readme
from tunerun.record.sources import OpenRecord
from tunerun.schema import Evaluation
from tunerun.stored import section


@dataclass(frozen=True)
class Written:
    """A bundle that was written.

    Attributes:
        files: how many are in it. bytes: of the file itself.
        tuned_models: how many adapters are in it.
        notes: what a reader should know of it, one line each.
    """

    path: Path
    files: int
    bytes: int
    tuned_models: int
    notes: tuple[str, ...] = ()


def write_bundle(
    record: OpenRecord, target: Path, *, with_models: bool = True, authors: Sequence[Author] = ()
) -> Written:
    """Write a sweep into a bundle, whole or not at all.

    Of the same sweep it has the same bytes, wherever and whenever it is made. Results are written from the record that
    is in it, which names no place of the machine: commands, values of a sweep and failures may have.

    Raises:
        InputError: an adapter that is recorded is not there; the file cannot be written.
        ConfigError: the metric that decides cannot be computed here.
    """
    adapters, notes = _adapters(record) if with_models else ({}, [])
    files: dict[str, Content] = {name: adapter.content for name, adapter in adapters.items()}
    digests = {name: adapter.weights for name, adapter in adapters.items() if adapter.weights is not None}
    with tempfile.TemporaryDirectory(prefix="tunerun-bundle-") as name:
        folder = Path(name)
        files |= {RECORD + each: folder / RECORD / each for each in _record_files(record, folder / RECORD)}
        restored(folder / RECORD, folder / FILE_NAME)
        with Ledger.open_read_only(folder / FILE_NAME) as ledger:
            portable = replace(record, ledger=ledger, sweep=ledger.sweeps()[0], number=None)
            verdict = judge(ledger, portable.sweep, evaluation=_own_metrics(record))
            table = ComparisonTable.of(verdict)
            files |= {RESULTS + each: content for each, content in file_contents(table, ledger).items()}
            study = Study(
                portable, verdict, ledger.last_jobs(portable.sweep.id), _base_models(portable), tuple(authors)
            )
        files[README] = readme(study, table, _sizes(files))
        files[METADATA] = metadata(study, _sizes(files))
        write_archive(target, files, first=(METADATA, README), digests=digests)
    count = len({name.split("/")[1] for name in adapters})
    return Written(target, len(files) + 1, target.stat().st_size, count, (*notes, *_unfinished(verdict)))


def _record_files(record: OpenRecord, folder: Path) -> list[str]:
    folder.mkdir()
    return portable_files(record.ledger, record.sweep, folder)


def _own_metrics(record: OpenRecord) -> Evaluation | None:
    """How answers are scored where the user's own code scores some, as this machine names its file.

    Raises:
        ConfigError: the code that decides is gone or has changed.
    """
    stored = record.trials[0].settings.evaluation
    has_code = any(isinstance(each, Mapping) and "python" in each for each in stored.get("metrics") or ())
    if record.ledger.is_restored or not has_code:
        return None
    resolve_stored(stored, record.sweep.document.get("metrics", {}))
    evaluation, problems = validate(Evaluation, dict(stored))
    if evaluation is None:
        raise ConfigError([f"evaluation.{'.'.join(map(str, where))}: {problem}" for where, problem in problems])
    return evaluation


def _sizes(files: dict[str, Content]) -> dict[str, int]:
    return {name: each.stat().st_size if isinstance(each, Path) else len(each) for name, each in files.items()}


@dataclass(frozen=True)
class _Adapter:
    """A file of an adapter, and what its SHA-256 has to be; None: not known."""

    content: Content
    weights: str | None


def _adapters(record: OpenRecord) -> tuple[dict[str, _Adapter], list[str]]:
    """The files of every adapter on this machine by their names in the bundle; and what is left out, and why.

    Raises:
        InputError: one is gone.
    """
    found: dict[str, _Adapter] = {}
    missing: list[str] = []
    notes: list[str] = []
    jobs, trials = record.ledger.last_jobs(record.sweep.id), record.ledger.trials(record.sweep.id)
    places = Places.of_this_machine([trial.config for trial in trials], record.runs)
    for number, tuned in [(t.number, jobs[t.key].tuned_model) for t in trials if t.key in jobs]:
        if tuned is None:
            continue
        place = tuned.folder
        if place is None or place.parent != record.runs.absolute() / MODELS.rstrip("/"):
            notes.append(
                f"trial {number}: its tuned model is at {tuned.location}, not in this runs folder; it is left out"
            )
            continue
        files = sorted(file for file in place.glob("[!.]*") if file.is_file() and not file.is_symlink())
        if not files:
            missing.append(
                f"trial {number}: its adapter is not in {place}; --no-models leaves all adapters out; "
                f"to make it again: {record.sweep.command_afresh}"
            )
        for file in files:
            content = _portable(file, places) if file.name == RECORD_FILE else file
            weights = tuned.weights if file.name == WEIGHTS_FILE else None
            found[f"{MODELS}{place.name}/{file.name}"] = _Adapter(content, weights)
    if missing:
        raise InputError(missing)
    return found, notes


def _portable(file: Path, places: Places) -> bytes:
    """The adapter's own record, whose base model may have been a folder of the machine."""
    values = json.loads(file.read_bytes())
    values["base_model"] = places.model(section(values, "base_model"))
    return (json.dumps(values, ensure_ascii=False, indent=1) + "\n").encode()


def _base_models(record: OpenRecord) -> tuple[BaseModelFacts, ...]:
    """The base models of the trials, as they were frozen; of an earlier version's sweep what its trials say."""
    if record.facts.base_models:
        return record.facts.base_models
    found: dict[str, BaseModelFacts] = {}
    for trial in record.ledger.trials(record.sweep.id):
        found.setdefault(trial.settings.model, _from_config(trial))
    return tuple(found.values())


def _from_config(trial: TrialRecord) -> BaseModelFacts:
    model = trial.config.get("model", {})
    identity = trial.ingredients.get("model")
    return BaseModelFacts(
        name=trial.settings.model,
        identity=identity if isinstance(identity, str) else "",
        revision=model.get("revision"),
        package=model.get("package"),
    )


def _unfinished(verdict: Verdict) -> Iterator[str]:
    waiting = sum(not trial.state.is_finished for trial in verdict.trials)
    if waiting:
        yield (
            f"{waiting} of {len(verdict.trials)} trials have not finished; the bundle has what is recorded now: "
            f"{verdict.sweep.command}"
        )
