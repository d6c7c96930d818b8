"""The topics on computation: cost of each run, machine, packages, code, licenses, how to run it again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath

from tunerun.comparison import labels
from tunerun.comparison.numbers import counted
from tunerun.job import JobState, TrainedOn
from tunerun.ledger import JobRecord, TrialRecord
from tunerun.record.appendix.document import AppendixTable, Block, CodeBlock, Paragraph
from tunerun.record.appendix.material import NOT_RECORDED, NOT_STATED, Material, words
from tunerun.record.appendix.topic import Topic

_SECONDS = "train/seconds"
_TOKENS = "tokens/train"

MAIN_PACKAGES = (
    "tunerun",
    "torch",
    "transformers",
    "peft",
    "tokenizers",
    "safetensors",
    "numpy",
    "mlflow",
    "hydra-core",
)
"""Of all that is installed, what results depend on most; the record has the rest."""


def compute(material: Material) -> Topic:
    """Each run's time, tokens and place, and the sum of all, failed attempts included."""
    rows = tuple(_run(material, trial) for trial in material.trials)
    jobs = {job.id: job for attempts in material.jobs.values() for job in attempts}
    done = [job for job in jobs.values() if job.state is JobState.SUCCEEDED]
    own = [job for job in done if not _is_served(material, job)]
    seconds = [job.metrics[_SECONDS] for job in own if _SECONDS in job.metrics]
    tokens = sum(
        _tokens(trial, material.jobs[trial.key])
        for trial in _once(material)
        if not _is_served(material, material.jobs[trial.key][-1])
    )
    lost = [job for job in jobs.values() if job.state is not JobState.SUCCEEDED]
    known = "" if len(seconds) == len(own) else f" (known of {len(seconds)} of {len(own)})"
    spent = f"{_duration(sum(seconds))} of training{known}" if seconds else f"training time {NOT_RECORDED}"
    summary = (
        f"{counted(len(done), 'run')} succeeded, in total {spent} and {tokens:,} training tokens (all epochs), on "
        f"{_place_of(material)}."
    )
    usd = material.record.ledger.spending(material.sweep.id).usd
    if usd:
        summary += f" By the configured prices this sweep's own runs cost {usd:,.2f} US dollars."
    if lost:
        summary += f" {counted(len(lost), 'further attempt')} did not succeed and took {_duration(_elapsed(lost))}."
    elsewhere = sum(job.sweep not in (None, material.sweep.id) for job in done)
    if elsewhere:
        summary += f" {counted(elsewhere, 'run')} of these had been trained by an earlier sweep with the same key."
    summary += _sharing(done, served=len(done) - len(own))
    head = ("trial", "sets", "seed", "state", "attempts", "seconds", "tokens", "steps", "on")
    blocks: tuple[Block, ...] = (
        Paragraph(summary),
        AppendixTable(head, rows, wrapped=(1, 8), numbers=(0, 2, 4, 5, 6, 7)),
        Paragraph(
            "Seconds are of training alone, as the backend measured them; loading, converting and asking models are "
            "not in them."
        ),
    )
    return Topic("Compute", summary, blocks)


def _is_served(material: Material, job: JobRecord) -> bool:
    """Whether its steps are those of another run here, which has more epochs."""
    return job.trained_on is not None and job.trained_on.training_run in material.jobs


def _sharing(done: Sequence[JobRecord], *, served: int) -> str:
    """How the passes of runs were computed, and what they shared; empty where nothing is recorded."""
    places = [job.trained_on for job in done if job.trained_on is not None]
    forms = dict.fromkeys(place.form for place in places)
    if not forms or [*forms] == ["alone"]:
        return ""
    text = f" Rows of a batch were computed in the form {words(list(forms))}."
    if served:
        text += (
            f" {counted(served, 'run')} {'is' if served == 1 else 'are'} the first epochs of another one with more "
            "epochs and nothing else different, whose training served both; its time and tokens count once."
        )
    if packed := sum(bool(place.packed_with) for place in places):
        text += f" {counted(packed, 'run')} shared passes of the frozen base model with others of the sweep."
    return text


def _run(material: Material, trial: TrialRecord) -> tuple[str, ...]:
    attempts = material.jobs[trial.key]
    last = attempts[-1] if attempts else None
    seconds = None if last is None else last.metrics.get(_SECONDS)
    place = None if last is None else last.trained_on
    return (
        str(trial.number),
        labels.compact({key: value for key, value in trial.overrides.items() if key != "seed"}),
        str(trial.settings.seed),
        (last.state if last else JobState.PLANNED).value,
        str(len(attempts)),
        "" if seconds is None else f"{seconds:,.1f}",
        f"{_tokens(trial, attempts):,}",
        f"{trial.steps:,}",
        _place(place) if place is not None and place.device else NOT_RECORDED,
    )


def _once(material: Material) -> list[TrialRecord]:
    """Trials that are one job count once; those without a job not at all."""
    return [trial for trial in {t.key: t for t in material.trials}.values() if material.jobs[trial.key]]


def _tokens(trial: TrialRecord, attempts: list[JobRecord]) -> int:
    """As the engine counted them, else as they were planned."""
    return int(attempts[-1].metrics.get(_TOKENS, trial.tokens)) if attempts else trial.tokens


def _elapsed(jobs: list[JobRecord]) -> float:
    return sum((job.finished_at or job.started_at or 0) - job.started_at for job in jobs if job.started_at is not None)


def _place(place: TrainedOn) -> str:
    threads = counted(place.threads, "thread") if place.threads else ""
    parts = (place.device, place.processor, place.instructions, threads, place.driver, place.precision)
    return ", ".join(filter(None, parts))


def _place_of(material: Material) -> str:
    if material.places:
        return "; ".join(_place(place) for place in material.places)
    devices = [str(device) for device in material.config_values("backend", "device") if device]
    asked = f" (device {words(devices)} was asked for)" if devices else ""
    return f"a machine that is {NOT_RECORDED}{asked}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.2f} h"


def environment(material: Material) -> Topic:
    """The machine and the packages."""
    known = material.facts.environment
    packages: dict[str, str] = {**dict(known.packages), **_packages(material)}
    builds = list(dict.fromkeys(place.build for place in material.places if place.build))
    if not known.python and not packages:
        summary = f"Machine, operating system and packages: {NOT_RECORDED}; {_version(material)}."
        return Topic("Environment", summary, (Paragraph(summary),))
    memory = f"{known.memory_bytes / 1024**3:.1f} GiB of memory" if known.memory_bytes else f"memory {NOT_RECORDED}"
    cores = counted(known.cores, "core") if known.cores else f"cores {NOT_RECORDED}"
    python = f"Python {known.python}" if known.python else f"Python's version {NOT_RECORDED}"
    parts = (python, known.system, known.processor, cores, memory)
    summary = f"{', '.join(filter(None, parts))}; {_version(material)}; {counted(len(packages), 'package')} recorded."
    main = tuple((name, packages[name]) for name in MAIN_PACKAGES if name in packages)
    rest = sorted(packages.keys() - set(MAIN_PACKAGES), key=str.lower)
    blocks: list[Block] = [Paragraph(summary)]
    if known.instructions:
        blocks.append(Paragraph(f"The CPU's instruction sets for arithmetic: {' '.join(known.instructions)}."))
    blocks += [Paragraph(f"torch's build: {words(builds)}.")] if builds else []
    blocks += [AppendixTable(("package", "version"), main)] if main else []
    if rest:
        blocks.append(Paragraph(f"All others: {', '.join(f'{name} {packages[name]}' for name in rest)}."))
    return Topic("Environment", summary, tuple(blocks))


def _packages(material: Material) -> Mapping[str, str]:
    return {name: version for place in material.places for name, version in place.packages.items()}


def _version(material: Material) -> str:
    return f"tunerun {material.document.get('version') or NOT_RECORDED}"


def code(material: Material) -> Topic:
    """The version of the program, and of the user's own project."""
    own = material.code
    if not own:
        summary = f"{_version(material)}; the project's commit: {NOT_RECORDED}."
        return Topic("Code", summary, (Paragraph(summary),))
    changed = [str(name) for name in own.get("changed", ())]
    patch = str(own.get("diff", ""))
    state = "nothing was uncommitted"
    if own.get("dirty"):
        files = f" in {counted(len(changed), 'file')}" if changed else ""
        size = counted(len(patch.splitlines()), "line")
        state = f"with uncommitted changes{files}, of which the record has a patch of {size}"
    summary = f"{_version(material)}; project at Git commit {own.get('commit', NOT_RECORDED)}, {state}."
    blocks: list[Block] = [Paragraph(summary)]
    if changed:
        blocks.append(Paragraph(f"Changed files: {', '.join(changed)}."))
    configs = [f"{each.origin}/{each.path}" for each in material.facts.config_files]
    blocks.append(Paragraph(f"YAML files in the record: {words(configs) or NOT_RECORDED}."))
    return Topic("Code", summary, tuple(blocks))


def licenses(material: Material) -> Topic:
    """Of each asset, as the record states it."""
    rows = tuple(_assets(material))
    stated = [f"{name}: {license_}" for _, name, license_ in rows if license_ not in (NOT_STATED, NOT_RECORDED)]
    missing = [name for _, name, license_ in rows if license_ in (NOT_STATED, NOT_RECORDED)]
    parts = [f"Stated: {'; '.join(stated)}." if stated else "", f"Without one: {words(missing)}." if missing else ""]
    summary = " ".join(filter(None, parts))
    return Topic(
        "Licenses", summary, (Paragraph(summary), AppendixTable(("asset", "name", "license"), rows, wrapped=(1,)))
    )


def _assets(material: Material) -> Iterator[tuple[str, str, str]]:
    for file in material.facts.data_files:
        yield "data", file.name, file.license or NOT_STATED
    if not material.facts.data_files:
        licenses_ = [value for value in material.config_values("dataset", "license") if value]
        yield "data", "the dataset's files", words(licenses_) or NOT_STATED
    for model in material.facts.base_models:
        yield "base model", model.name, model.license or NOT_STATED
    if not material.facts.base_models:
        licenses_ = [value for value in material.config_values("model", "license") if value]
        yield "base model", words(material.config_values("model", "name")), words(licenses_) or NOT_STATED


def rerun(material: Material) -> Topic:
    """The command, and what names the runs."""
    tuned = sum(any(job.tuned_model for job in attempts) for attempts in material.jobs.values())
    hashes = sum(
        any(job.tuned_model and job.tuned_model.weights for job in attempts) for attempts in material.jobs.values()
    )
    summary = (
        f"Every run was planned by one command from YAML files, and has a key, a hash of its rows, base model and "
        f"hyperparameters ({counted(len(material.jobs), 'key')}); SHA-256 of the weights is recorded for {hashes} of "
        f"{counted(tuned, 'tuned model')}."
    )
    keys = tuple(
        (str(trial.number), trial.key[:16], _weights(material.jobs[trial.key])[:16] or NOT_RECORDED)
        for trial in material.trials
    )
    blocks = (
        Paragraph(summary),
        Paragraph("The command, without where files are:"),
        CodeBlock(_portable(material.sweep.command)),
        AppendixTable(
            ("trial", "key", "SHA-256 of the weights"), keys, numbers=(0,), note="The first 16 of 64 digits each."
        ),
    )
    return Topic("Running it again", summary, blocks)


def _portable(command: str) -> str:
    """A command without the machine's folders: neither paths nor tracking decide what comes of it."""
    try:
        words_ = shlex.split(command)
    except ValueError:
        return command
    kept = [word for word in words_[1:] if not word.startswith(("paths", "tracking", "local"))]
    return " ".join([*(PurePath(word).name for word in words_[:1]), *map(_without_folder, kept)])


def _without_folder(word: str) -> str:
    key, equals, value = word.rpartition("=")
    return f"{key}{equals}{PurePath(value).name}" if PurePath(value).is_absolute() else word


def _weights(jobs: list[JobRecord]) -> str:
    return next((job.tuned_model.weights or "" for job in reversed(jobs) if job.tuned_model is not None), "")
