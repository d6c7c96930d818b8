"""Writes a sweep into one file that can be run again without its ledger, its MLflow store and its machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tunerun.comparison import judge
from tunerun.comparison.renderers import file_contents
from tunerun.comparison.table import ComparisonTable
from tunerun.compose.validation import validate
from tunerun.engine.tuned_model import RECORD_FILE, WEIGHTS_FILE
from tunerun.errors import ConfigError, InputError
from tunerun.files import temporary_folder
from tunerun.ledger import FILE_NAME, Ledger
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
class WrittenBundle:
    """A bundle that was written.

    Attributes:
        path: of the bundle.
        files: number of files in it.
        bytes: size of the bundle itself.
        tuned_models: number of adapters in it.
        notes: what a reader should know about it, one line each.
    """

    path: Path
    files: int
    bytes: int
    tuned_models: int
    notes: tuple[str, ...] = ()


def write_bundle(
    record: OpenRecord, target: Path, *, with_models: bool = True, authors: Sequence[Author] = ()
) -> WrittenBundle:
    """Write a sweep into a bundle atomically. The same sweep gives the same bytes, wherever and whenever it is written.

    Args:
        record: of the sweep.
        target: the file.
        with_models: whether to include the adapters.
        authors: of the study.

    Raises:
        InputError: a recorded adapter is missing; the file cannot be written.
        ConfigError: the metric that decides cannot be computed here.
    """
    files: dict[str, Content] = {}
    digests: dict[str, str] = {}
    notes: list[str] = []
    if with_models:
        files, digests, notes = _adapters(record)
    models = {name.split("/")[1] for name in files}
    with temporary_folder("bundle") as folder:
        (folder / RECORD).mkdir()
        portable = portable_files(record.ledger, record.sweep, folder / RECORD)
        files |= {RECORD + each: folder / RECORD / each for each in portable}
        # Results are computed from the record in the bundle, which names no place on this machine: the ledger's own
        # commands, swept values and failures may.
        restored(folder / RECORD, folder / FILE_NAME)
        with Ledger.open_read_only(folder / FILE_NAME) as ledger:
            inside = replace(record, ledger=ledger, sweep=ledger.sweeps()[0], number=None)
            verdict = judge(ledger, inside.sweep, evaluation=_own_metrics(record))
            table = ComparisonTable.of(verdict)
            files |= {RESULTS + each: content for each, content in file_contents(table, ledger).items()}
            study = Study(inside, verdict, ledger.last_jobs(inside.sweep.id), _base_models(inside), tuple(authors))
        # Each of the two lists the files so far, and both are in the manifest.
        files[README] = readme(study, table, _sizes(files))
        files[METADATA] = metadata(study, _sizes(files))
        write_archive(target, files, first=(METADATA, README), digests=digests)
    waiting = sum(not trial.state.is_finished for trial in verdict.trials)
    if waiting:
        notes.append(
            f"{waiting} of {len(verdict.trials)} trials have not finished; the bundle has what is recorded now: "
            f"{verdict.sweep.command}"
        )
    # The manifest is the one file more.
    return WrittenBundle(target, len(files) + 1, target.stat().st_size, len(models), tuple(notes))


def _own_metrics(record: OpenRecord) -> Evaluation | None:
    """The evaluation if user code scores answers, with this machine's path of the code; None: as the record says.

    Raises:
        ConfigError: the code that decides is missing or has changed.
    """
    # The record in the bundle names the code without its folder, so it is found only by this machine's own ledger. Of a
    # record from elsewhere it is not run: the file may have come with it.
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


def _adapters(record: OpenRecord) -> tuple[dict[str, Content], dict[str, str], list[str]]:
    """The adapters on this machine, for a bundle.

    Returns:
        The files of every adapter by name in the bundle, the required SHA-256 of files by the same names where it is
        recorded, and what is omitted and why, one line each.

    Raises:
        InputError: an adapter is missing.
    """
    files: dict[str, Content] = {}
    digests: dict[str, str] = {}
    missing: list[str] = []
    notes: list[str] = []
    jobs, trials = record.ledger.last_jobs(record.sweep.id), record.ledger.trials(record.sweep.id)
    places = Places.of_this_machine([trial.config for trial in trials], record.runs)
    for number, tuned in [(t.number, jobs[t.key].tuned_model) for t in trials if t.key in jobs]:
        if tuned is None:
            continue
        folder = tuned.folder
        # Such as a model of a service, or one that another runs folder has: a bundle's models are those of its ledger.
        if folder is None or folder.parent != record.runs.absolute() / MODELS.rstrip("/"):
            notes.append(
                f"trial {number}: its tuned model is at {tuned.location}, not in this runs folder; it is omitted"
            )
            continue
        # Neither hidden files nor links, which could lead to any file of this machine.
        own_files = sorted(file for file in folder.glob("[!.]*") if file.is_file() and not file.is_symlink())
        if not own_files:
            missing.append(
                f"trial {number}: its adapter is not in {folder}; --no-models leaves all adapters out; "
                f"to make it again: {record.sweep.command_afresh}"
            )
        for file in own_files:
            name = f"{MODELS}{folder.name}/{file.name}"
            files[name] = file
            if file.name == RECORD_FILE:  # names the base model, which may be a folder of this machine
                values = json.loads(file.read_bytes())
                values["base_model"] = places.model(section(values, "base_model"))
                files[name] = (json.dumps(values, ensure_ascii=False, indent=1) + "\n").encode()
            # Damaged weights are an error now, while they can be trained again here.
            elif file.name == WEIGHTS_FILE and tuned.weights is not None:
                digests[name] = tuned.weights
    if missing:
        raise InputError(missing)
    return files, digests, notes


def _base_models(record: OpenRecord) -> tuple[BaseModelFacts, ...]:
    """The base models of the trials as they were frozen, or as the trials' configs name them."""
    if record.facts.base_models:
        return record.facts.base_models
    models: dict[str, BaseModelFacts] = {}
    for trial in record.ledger.trials(record.sweep.id):  # an earlier version froze no facts
        config, identity = trial.config.get("model", {}), trial.ingredients.get("model")
        name = trial.settings.model
        if name not in models:
            models[name] = BaseModelFacts(
                name=name,
                identity=identity if isinstance(identity, str) else "",
                revision=config.get("revision"),
                package=config.get("package"),
            )
    return tuple(models.values())
