"""A sweep is written into one file that can be run again without its ledger, MLflow and machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunerun.comparison import judge
from tunerun.comparison.renderers import file_contents
from tunerun.comparison.results import Verdict
from tunerun.comparison.table import ComparisonTable
from tunerun.errors import InputError
from tunerun.job import TunedModel
from tunerun.ledger import TrialRecord
from tunerun.ledger.portable import portable_files
from tunerun.provenance import BaseModelFacts
from tunerun.record.bundle.archive import Content, write_archive
from tunerun.record.bundle.crate import METADATA, Author, Study, metadata
from tunerun.record.bundle.opening import MODELS, RECORD, RESULTS
from tunerun.record.bundle.read_me import README, readme
from tunerun.record.sources import OpenRecord


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

    Of the same sweep it has the same bytes, wherever and whenever it is made.

    Raises:
        InputError: an adapter that is recorded is not there; the file cannot be written.
    """
    verdict = judge(record.ledger, record.sweep)
    table = ComparisonTable.of(verdict)
    files: dict[str, Content] = {}
    files |= {f"{RECORD}{name}": content for name, content in portable_files(record.ledger, record.sweep).items()}
    files |= {f"{RESULTS}{name}": content for name, content in file_contents(table, record.ledger).items()}
    adapters = dict(_adapters(verdict)) if with_models else {}
    files |= adapters
    study = Study(record, verdict, record.ledger.last_jobs(record.sweep.id), _base_models(record), tuple(authors))
    files[README] = readme(study, table, _sizes(files))
    files[METADATA] = metadata(study, _sizes(files))
    write_archive(target, files, first=(METADATA, README))
    folders = {name.split("/")[1] for name in adapters}
    return Written(target, len(files) + 1, target.stat().st_size, len(folders), tuple(_notes(verdict)))


def _sizes(files: dict[str, Content]) -> dict[str, int]:
    return {name: each.stat().st_size if isinstance(each, Path) else len(each) for name, each in files.items()}


def _adapters(verdict: Verdict) -> Iterator[tuple[str, Path]]:
    """The files of every adapter on this machine, by their names in the bundle."""
    missing: list[str] = []
    seen: set[TunedModel] = set()
    for trial in verdict.trials:
        tuned = trial.tuned_model
        folder = None if tuned is None else tuned.folder
        if tuned is None or folder is None or tuned in seen:
            continue
        seen.add(tuned)
        found = sorted(file for file in folder.glob("[!.]*") if file.is_file() and not file.is_symlink())
        if not found:
            missing.append(
                f"trial {trial.record.number}: its adapter is not in {folder}; --no-models leaves all adapters out; "
                f"to make it again: {verdict.sweep.command_afresh}"
            )
        for file in found:
            yield f"{MODELS}{tuned.name.rpartition('/')[2]}/{file.name}", file
    if missing:
        raise InputError(missing)


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


def _notes(verdict: Verdict) -> Iterator[str]:
    waiting = sum(not trial.state.is_finished for trial in verdict.trials)
    if waiting:
        yield (
            f"{waiting} of {len(verdict.trials)} trials have not finished; the bundle has what is recorded now: "
            f"{verdict.sweep.command}"
        )
