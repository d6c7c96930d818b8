"""A bundle's description for programs: an RO-Crate of the profile Process Run Crate, with one action per trial."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from tunerun.comparison.labels import label
from tunerun.comparison.results import Verdict
from tunerun.job import JobState
from tunerun.ledger import JobRecord
from tunerun.provenance import BaseModelFacts
from tunerun.record.bundle.archive import MANIFEST
from tunerun.record.sources import OpenRecord

if TYPE_CHECKING:
    from rocrate.model.entity import Entity
    from rocrate.rocrate import ROCrate

METADATA = "ro-crate-metadata.json"

# rocrate 0.16 writes 1.3 by default, but Process Run Crate 0.5 builds on 1.1, and its validator requires that version.
_RO_CRATE = "1.1"
_PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
_STATUS = "http://schema.org/{}ActionStatus"

_FORMATS = {
    ".csv": "text/csv",
    ".gz": "application/gzip",
    ".html": "text/html",
    ".json": "application/json",
    ".md": "text/markdown",
    ".png": "image/png",
    ".safetensors": "application/octet-stream",
    ".tex": "application/x-tex",
    ".txt": "text/plain",
}


@dataclass(frozen=True)
class Author:
    """A person who made a study.

    Attributes:
        name: of the person.
        affiliation: the name of an organisation; None: not stated.
    """

    name: str
    affiliation: str | None = None


@dataclass(frozen=True)
class Study:
    """The sweep that a bundle describes.

    Attributes:
        record: of the sweep, as it is in the bundle.
        verdict: of the sweep.
        jobs: the last job of each key that has one.
        models: the base models of its trials.
        authors: of the study.
    """

    record: OpenRecord
    verdict: Verdict
    jobs: Mapping[str, JobRecord]
    models: tuple[BaseModelFacts, ...]
    authors: tuple[Author, ...] = ()

    @property
    def published_at(self) -> float:
        """The end of the last job, in seconds since 1970 (UTC); it does not depend on when the bundle is made."""
        ends = [job.finished_at for job in self.jobs.values() if job.finished_at is not None]
        return max([self.record.sweep.created_at, *ends])


def metadata(study: Study, sizes: Mapping[str, int]) -> bytes:
    """Return the content of `ro-crate-metadata.json`; the same study gives the same bytes.

    Args:
        study: the sweep.
        sizes: bytes of the bundle's other files, by name.
    """
    from rocrate.rocrate import ROCrate

    # No preview, which is a page for people: README.md and report.html are that.
    crate = ROCrate(version=_RO_CRATE, gen_preview=False)
    sweep = study.record.sweep
    crate.name = f"{sweep.experiment}: sweep {sweep.id}"
    crate.description = study.verdict.sentence
    # Otherwise rocrate takes the time at which it runs.
    crate.datePublished = datetime.fromtimestamp(int(study.published_at), UTC)
    root = crate.root_dataset
    root["conformsTo"] = _entity(crate, _PROFILE, "CreativeWork", name="Process Run Crate", version="0.5")
    # A crate should have a licence, and no single one covers rows, models and results.
    parts = "; ".join(f"{what}: {licence}" for what, licence in licences(study)) or "none is stated"
    root["license"] = _entity(
        crate, "#licences", "CreativeWork", name="The parts have licences of their own", description=parts
    )
    files = {}
    for name in sorted(sizes):
        path = PurePath(name)
        media_type = _FORMATS.get(path.suffix, "application/octet-stream")
        properties = {"name": path.name, "contentSize": str(sizes[name]), "encodingFormat": media_type}
        files[name] = crate.add_file(dest_path=name, properties=properties)
    crate.add_file(
        dest_path=MANIFEST, properties={"name": "SHA-256 of every other file", "encodingFormat": "text/plain"}
    )

    # The validators recommend an author with an affiliation, and a publisher that is an organisation. tunerun knows
    # neither, so they are stated only where the command's options do.
    places = {
        name: _entity(crate, f"#organisation-{number}", "Organization", name=name)
        for number, name in enumerate(dict.fromkeys(a.affiliation for a in study.authors if a.affiliation), start=1)
    }
    if places:
        root["publisher"] = next(iter(places.values()))
    people = [
        _entity(
            crate,
            f"#author-{number}",
            "Person",
            name=author.name,
            affiliation=places[author.affiliation] if author.affiliation else None,
        )
        for number, author in enumerate(study.authors, start=1)
    ]
    if people:
        root["author"] = people if len(people) > 1 else people[0]  # the validators want no list of one
    root["mentions"] = _actions(crate, study, files, people)
    return (json.dumps(crate.metadata.generate(), ensure_ascii=False, indent=1) + "\n").encode()


def _entity(crate: ROCrate, identifier: str, kind: str, /, **properties: Any) -> Entity:
    # Positional, because `name` and `kind` may be properties. A property without a value is left out, not null.
    from rocrate.model.contextentity import ContextEntity

    stated = {name: value for name, value in properties.items() if value is not None}
    return crate.add(ContextEntity(crate, identifier, properties={"@type": kind, **stated}))


def licences(study: Study) -> list[tuple[str, str]]:
    """Return the files of rows and the base models with their licences."""
    data = [(f"rows of {file.name}", file.license or "not stated") for file in study.record.facts.data_files]
    models = [(f"base model {model.name}", model.license or "not stated") for model in study.models]
    return [*data, *models]


def _actions(crate: ROCrate, study: Study, files: Mapping[str, Entity], people: Sequence[Entity]) -> list[Entity]:
    # Not `version` as well: the validators want one of the two.
    version = str(study.record.sweep.document.get("version", "unknown"))
    tool = _entity(crate, "#tunerun", "SoftwareApplication", name="tunerun", softwareVersion=version)
    models = {model.name: _base_model(crate, n, model) for n, model in enumerate(study.models)}
    adapters = _tuned_models(crate, study, files)
    agent = None if not people else list(people) if len(people) > 1 else people[0]
    actions = []
    for trial in study.verdict.trials:
        record = trial.record
        job = study.jobs.get(record.key)
        if job is None:  # an action is something that happened, so a trial that never began has none
            continue
        sets = [record.training, *record.held_out.values()]
        # The portable record names the file of a set by its digest.
        used = [
            files[name] for digest in dict.fromkeys(sets) for name in files if PurePath(name).name.startswith(digest)
        ]
        if record.settings.model in models:
            used.append(models[record.settings.model])
        used += [
            _entity(crate, f"#trial-{record.number}-{key}", "PropertyValue", name=key, value=str(value))
            for key, value in record.overrides.items()
        ]
        status, error = "Completed", None
        if not trial.state.is_finished:
            status = "Active"
        elif trial.state is not JobState.SUCCEEDED:
            status = "Failed"
            error = job.failure.message if job.failure else trial.state.value.lower()
        result = adapters.get(trial.tuned_model.location) if trial.tuned_model else None
        words = label(record.overrides)
        actions.append(
            _entity(
                crate,
                f"#trial-{record.number}",
                "CreateAction",
                name=f"trial {record.number}{': ' if words else ''}{words}",
                description=f"Tuning of {record.settings.model}; key {record.key}{_sharing(study, job)}",
                instrument=tool,
                agent=agent,
                object=used,
                # Without its adapter a trial's result is what the record has of it.
                result=result or files.get("record/results.json.gz"),
                startTime=_time(job.began_at or job.created_at),
                endTime=_time(job.finished_at),
                actionStatus=_STATUS.format(status),
                error=error,
            )
        )
    return actions


def _sharing(study: Study, job: JobRecord) -> str:
    """The trials that shared a job's training, in words; empty: none, or not recorded."""
    if job.trained_on is None:
        return ""
    # Reversed, so that of two trials with one key the first gives the number.
    numbers = {trial.record.key: trial.record.number for trial in reversed(study.verdict.trials)}
    shared = job.trained_on.shared(numbers)
    words = "" if shared["training_run"] is None else f"; served by the training run of trial {shared['training_run']}"
    if shared["packed_with"]:
        words += f"; shared passes with trials {', '.join(map(str, shared['packed_with']))}"
    return words


def _base_model(crate: ROCrate, number: int, model: BaseModelFacts) -> Entity:
    package = f"; PyPI package {model.package}" if model.package else ""
    revision = f"; revision {model.revision}" if model.revision else ""
    licence = None
    if model.license:
        licence = _entity(crate, f"#licence-{'-'.join(model.license.split())}", "CreativeWork", name=model.license)
    return _entity(
        crate,
        f"#base-model-{number}",
        "CreativeWork",
        name=model.name,
        identifier=model.identity or None,
        description=f"Base model, not in this bundle: {model.source or model.name}{revision}{package}",
        license=licence,
    )


def _tuned_models(crate: ROCrate, study: Study, files: Mapping[str, Entity]) -> dict[str, Entity]:
    """The folders of the tuned models in the bundle, by the model's location."""
    folders: dict[str, Entity] = {}
    for trial in study.verdict.trials:
        tuned = trial.tuned_model
        if tuned is None or tuned.location in folders:  # trials with one key have one model
            continue
        folder = f"tuned_models/{PurePath(tuned.location).name}/"
        parts = [entity for name, entity in files.items() if name.startswith(folder)]
        if parts:
            properties = {"name": f"adapter {tuned.name}", "description": "In PEFT's format."}
            folders[tuned.location] = crate.add_dataset(dest_path=folder, properties=properties)
            folders[tuned.location]["hasPart"] = parts
    return folders


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
