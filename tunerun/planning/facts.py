"""Environment and files that a sweep depends on, gathered when it is frozen so that `plan` need not wait for it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tunerun import dotted_keys
from tunerun.digest import digest_of_file
from tunerun.engine import base_model, file_digest, model_facts, prepared_model
from tunerun.errors import BaseModelError
from tunerun.planning.trial import Trial
from tunerun.provenance import BaseModelFacts, ConfigFile, DataFile, Facts, FileFacts
from tunerun.provenance.environment import environment
from tunerun.provenance.places import FILES_OF_ROWS, is_path, own_names
from tunerun.redaction import redact, redact_assignments
from tunerun.schema import Experiment

MAX_TEXT = 100_000
"""Maximum number of characters recorded of a YAML file or of a metric's code; longer texts are cut and marked."""

_CUT = "\n# ... cut here: the file is longer\n"


def facts_of(experiment: Experiment, trials: Sequence[Trial], cache: Path) -> Facts:
    """Gather the environment and every file that the trials were made from.

    None of this is part of a trial's key or of the sweep's id. A file that was deleted after it was read is omitted.

    Args:
        experiment: the experiment that was planned.
        trials: its trials.
        cache: the cache directory, which keeps digests of large files.
    """
    return Facts(
        environment=environment(),
        config_files=(*_config_files(experiment), *_metric_files(trials)),
        data_files=tuple(_data_files(trials)),
        base_models=tuple(_base_models(trials, cache)),
    )


def _config_files(experiment: Experiment) -> Iterable[ConfigFile]:
    """Yield every YAML file that was composed, with the directory that it came from."""
    directories = [Path(directory) for directory in experiment.directories]
    named = [Path(each).resolve() for each in os.environ.get("TUNERUN_CONF", "").split(os.pathsep) if each]
    # Of a user's directory the record has the option that named it and its last folder, not where it is.
    origins = {each: f"{'TUNERUN_CONF' if each in named else '--config-dir'} {each.name}" for each in directories}
    origins |= {each: "conf" for each in directories if each == Path("conf").resolve()}
    # The shipped directory is the last one; an experiment from a record was composed from none.
    origins |= dict.fromkeys(directories[-1:], "tunerun")
    # The texts as they were composed: a file may have been edited since.
    for name, text in sorted(experiment.files.items()):
        file = Path(name)
        directory = next(each for each in directories if file.is_relative_to(each))
        yield ConfigFile(file.relative_to(directory).as_posix(), origins[directory], _kept(text))


def _metric_files(trials: Sequence[Trial]) -> Iterable[ConfigFile]:
    """Yield the code of the user's own metrics, which is needed to score answers again."""
    sections = {id(t.config.evaluation): t.config.evaluation for t in trials}.values()
    entries = (entry for section in sections for entry in section.metrics if not isinstance(entry, str))
    paths = dict.fromkeys(str(entry["python"]).rpartition(":")[0] for entry in entries if "python" in entry)
    # Without folders, which would reveal where the record was made.
    names = own_names(paths)
    for path in paths:
        if Path(path).is_file():
            text = Path(path).read_text(encoding="utf-8", errors="replace")
            yield ConfigFile(names[path], "evaluation.metrics", _kept(text))


def _kept(text: str) -> str:
    """Redact what looks like a secret in a text, and cut the text at `MAX_TEXT` characters."""
    masked = redact_assignments(redact(text))
    return masked if len(masked) <= MAX_TEXT else masked[:MAX_TEXT] + _CUT


def _data_files(trials: Sequence[Trial]) -> Iterable[DataFile]:
    """Yield each file of rows once, with everything that trials use it for."""
    uses: dict[str, dict[str, None]] = {}
    licenses: dict[str, str | None] = {}
    for trial in {id(t.config.dataset): t for t in trials}.values():
        dataset = trial.config.dataset
        used = [(dataset.path, "training")]
        for name, held_out in (("validation", dataset.validation), ("test", dataset.test)):
            if held_out.path is not None or held_out.fraction:
                used.append((held_out.path or dataset.path, name))
        for path, use in used:
            uses.setdefault(path, {})[use] = None
            licenses.setdefault(path, trial.environment.get("dataset.license", dataset.license))
    # A path from an environment variable is recorded as the interpolation, as in the stored config.
    stored: dict[str, str] = {}
    for trial in trials:
        for key in FILES_OF_ROWS:
            if (text := trial.environment.get(key)) and (path := dotted_keys.get(trial.config, key)) is not None:
                stored[path] = text
    names = own_names(stored.get(path, path) for path in uses)
    for path, used_for in uses.items():
        file = Path(path)
        if file.is_file():
            name = names[stored.get(path, path)]
            yield DataFile(name, digest_of_file(file), file.stat().st_size, tuple(used_for), licenses[path])


def _base_models(trials: Sequence[Trial], cache: Path) -> Iterable[BaseModelFacts]:
    """Yield each base model once, by its content."""
    for trial in {t.ingredients["model"]: t for t in trials}.values():
        # `stored` has interpolations where `model` has the environment's texts; only `stored` may be recorded.
        model, stored = trial.config.model, trial.base_model
        facts = BaseModelFacts(
            name=_own_name(stored.name),
            identity=trial.ingredients["model"],
            source=_own_name(stored.source),
            license=trial.environment.get("model.license", model.license),
        )
        try:
            located = None if trial.capabilities.is_hosted else base_model.find(model.reference(), cache, ask_hub=False)
        except BaseModelError:  # deleted since it was planned; training will report it
            located = None
        if located is None:
            yield facts
            continue
        files = [FileFacts(f.name, file_digest.sha256(f, cache), f.stat().st_size) for f in base_model.files(located)]
        package_version = None
        if model.package is not None and located.origin.startswith("package "):
            with contextlib.suppress(PackageNotFoundError):
                package_version = version(model.package)
        if located.path is not None and located.path.is_file() and package_version is None:
            # Without a package, the file has its stored source as name: its own may come from the environment.
            files = [replace(each, name=facts.source) for each in files]
        is_prepared = prepared_model.model_folder(located, cache) is not None
        yield replace(
            facts,
            revision=located.commit,
            package=None if package_version is None else f"{stored.package}=={package_version}",
            license=facts.license or (None if located.path is None else model_facts.stated_license(located.path)),
            files=tuple(files),
            chat_format=asdict(prepared_model.read_chat_format(located, cache)) if is_prepared else {},
        )


def _own_name(text: str) -> str:
    return own_names([text])[text] if is_path(text) else text
