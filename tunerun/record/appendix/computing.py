"""The topics on computation: cost of each run, machine, packages, code, licenses, how to run it again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import PurePath

from tunerun.comparison import labels
from tunerun.comparison.numbers import counted
from tunerun.job import JobState, TrainedOn
from tunerun.ledger import JobRecord, TrialRecord
from tunerun.record.appendix.document import AppendixTable, Block, CodeBlock, Paragraph, Topic
from tunerun.record.appendix.material import NOT_RECORDED, NOT_STATED, Material, words
from tunerun.record.difference.results import SECONDS
from tunerun.stored import section

_TOKENS = "tokens/train"

_MAIN_PACKAGES = (
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
"""The packages that results depend on most, listed first; the others follow in one sentence."""


def compute(material: Material) -> Topic:
    """Time, tokens and device of each run, and the time of the attempts that did not succeed."""
    # By id, because trials with one key have the same jobs.
    jobs = {job.id: job for attempts in material.jobs.values() for job in attempts}
    done = [job for job in jobs.values() if job.state is JobState.SUCCEEDED]
    own = [job for job in done if not _is_served(material, job)]
    stopped = [job for job in jobs.values() if job.state is JobState.STOPPED]
    lost = [job for job in jobs.values() if job.state in (JobState.FAILED, JobState.CANCELLED)]
    unfinished = sum(not job.state.is_finished for job in jobs.values())
    seconds = [job.metrics[SECONDS] for job in own if SECONDS in job.metrics]
    # Trials with one key are one job; steps that served several runs are counted with the longest of them.
    by_key = {trial.key: trial for trial in material.trials}
    tokens = sum(_tokens(by_key[job.key], [job]) for job in own)
    # Not every backend measures the time.
    measured = "" if len(seconds) == len(own) else f" (known of {len(seconds)} of {len(own)})"
    spent = f"{_duration(sum(seconds))} of training{measured}" if seconds else f"training time {NOT_RECORDED}"
    devices = [str(device) for device in material.config_values("backend.device") if device]
    requested = f" (requested device: {words(devices)})" if devices else ""
    places = "; ".join(map(_place, material.places)) or f"a machine that is {NOT_RECORDED}{requested}"
    summary = "No run has succeeded."
    if done:
        summary = (
            f"{counted(len(done), 'run')} succeeded, in total {spent} and {tokens:,} training tokens (all epochs), on "
            f"{places}."
        )
    # A trial whose key has succeeded before is not trained again, whichever sweep trained it.
    elsewhere = sum(job.sweep not in (None, material.sweep.id) for job in done)
    if elsewhere:
        summary += f" {counted(elsewhere, 'run')} of these had been trained by an earlier sweep with the same key."
    usd = material.record.ledger.spending(material.sweep.id).usd
    if usd:
        summary += f" By the configured prices this sweep's own runs cost {usd:,.2f} US dollars."
    # A stopped run is not a failure: it keeps its tuned model. It has no place in the totals of whole runs either.
    if stopped:
        summary += f" {counted(len(stopped), 'run')} ended early and took {_elapsed(stopped)}."
    # Attempts that failed are part of what the study took, and checklists ask for it.
    if lost:
        summary += f" {counted(len(lost), 'attempt')} did not succeed and took {_elapsed(lost)}."
    if unfinished:
        summary += f" {counted(unfinished, 'run')} {'has' if unfinished == 1 else 'have'} not finished."
    summary += _sharing(done, served=len(done) - len(own))
    head = ("trial", "sets", "seed", "state", "attempts", "seconds", "tokens", "steps", "on")
    rows = tuple(_run(material, trial) for trial in material.trials)
    blocks: tuple[Block, ...] = (
        Paragraph(summary),
        AppendixTable(head, rows, wrapped=(1, 8), numbers=(0, 2, 4, 5, 6, 7)),
        Paragraph(
            "Seconds are the time of training as the backend measured it, without loading, conversion and evaluation."
        ),
    )
    return Topic("Compute", summary, blocks)


def _is_served(material: Material, job: JobRecord) -> bool:
    """Whether a job shared the steps of another run of this sweep, which has more epochs."""
    return job.trained_on is not None and job.trained_on.training_run in material.jobs


def _sharing(done: Sequence[JobRecord], *, served: int) -> str:
    """How forward passes were computed and shared; empty: not recorded, or each run was alone."""
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
    seconds = None if last is None else last.metrics.get(SECONDS)
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


def _tokens(trial: TrialRecord, attempts: list[JobRecord]) -> int:
    """Training tokens as the engine counted them, or else as planned."""
    return int(attempts[-1].metrics.get(_TOKENS, trial.tokens)) if attempts else trial.tokens


def _place(place: TrainedOn) -> str:
    threads = counted(place.threads, "thread") if place.threads else ""
    parts = (place.device, place.processor, place.instructions, threads, place.driver, place.precision)
    return ", ".join(filter(None, parts))


def _elapsed(jobs: Sequence[JobRecord]) -> str:
    """The time from start to end of jobs together; one that never started took none."""
    return _duration(
        sum((job.finished_at or job.started_at) - job.started_at for job in jobs if job.started_at is not None)
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.2f} h"


def environment(material: Material) -> Topic:
    """The machine and the installed packages."""
    machine = material.facts.environment
    # Of two versions, the job's: the engine may have run on another machine than the one that planned.
    packages = dict(machine.packages)
    for place in material.places:
        packages |= place.packages
    builds = list(dict.fromkeys(place.build for place in material.places if place.build))
    if not machine.python and not packages:
        summary = f"Machine, operating system and packages: {NOT_RECORDED}; {_version(material)}."
        return Topic("Environment", summary, (Paragraph(summary),))
    memory = f"{machine.memory_bytes / 1024**3:.1f} GiB of memory" if machine.memory_bytes else f"memory {NOT_RECORDED}"
    cores = counted(machine.cores, "core") if machine.cores else f"cores {NOT_RECORDED}"
    python = f"Python {machine.python}" if machine.python else f"Python's version {NOT_RECORDED}"
    parts = (python, machine.system, machine.processor, cores, memory)
    summary = f"{', '.join(filter(None, parts))}; {_version(material)}; {counted(len(packages), 'package')} recorded."
    main = tuple((name, packages[name]) for name in _MAIN_PACKAGES if name in packages)
    rest = sorted(packages.keys() - set(_MAIN_PACKAGES), key=str.lower)
    blocks: list[Block] = [Paragraph(summary)]
    if machine.instructions:
        blocks.append(Paragraph(f"The CPU's instruction sets for arithmetic: {' '.join(machine.instructions)}."))
    blocks += [Paragraph(f"torch's build: {words(builds)}.")] if builds else []
    blocks += [AppendixTable(("package", "version"), main)] if main else []
    if rest:
        blocks.append(Paragraph(f"All others: {', '.join(f'{name} {packages[name]}' for name in rest)}."))
    return Topic("Environment", summary, tuple(blocks))


def _version(material: Material) -> str:
    return f"tunerun {material.document.get('version') or NOT_RECORDED}"


def code(material: Material) -> Topic:
    """The version of tunerun, and the commit of the user's project."""
    own = section(material.document, "code")
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
    """The license of each file of rows and each base model, as far as it is stated."""
    rows = [("data", file.name, file.license or NOT_STATED) for file in material.facts.data_files]
    if not rows:
        of_data = [value for value in material.config_values("dataset.license") if value]
        rows = [("data", "the dataset's files", words(of_data) or NOT_STATED)]
    models = [("base model", model.name, model.license or NOT_STATED) for model in material.facts.base_models]
    if not models:
        of_models = [value for value in material.config_values("model.license") if value]
        names = words(material.config_values("model.name"))
        models = [("base model", names, words(of_models) or NOT_STATED)]
    rows += models
    stated = [f"{name}: {license_}" for _, name, license_ in rows if license_ not in (NOT_STATED, NOT_RECORDED)]
    missing = [name for _, name, license_ in rows if license_ in (NOT_STATED, NOT_RECORDED)]
    parts = [
        f"Stated: {'; '.join(stated)}." if stated else "",
        f"No license stated: {words(missing)}." if missing else "",
    ]
    summary = " ".join(filter(None, parts))
    table = AppendixTable(("asset", "name", "license"), tuple(rows), wrapped=(1,))
    return Topic("Licenses", summary, (Paragraph(summary), table))


def rerun(material: Material) -> Topic:
    """The command, the keys of the runs, and the digests of the tuned models."""
    weights = {}  # of the last job with a tuned model; empty: an earlier version did not record them
    for key, attempts in material.jobs.items():
        tuned = [job.tuned_model for job in attempts if job.tuned_model]
        if tuned:
            weights[key] = tuned[-1].weights or ""
    hashes = sum(any(job.tuned_model and job.tuned_model.weights for job in jobs) for jobs in material.jobs.values())
    summary = (
        f"Every run was planned by one command from YAML files, and has a key, a hash of its rows, base model and "
        f"hyperparameters ({counted(len(material.jobs), 'key')}); SHA-256 of the weights is recorded for {hashes} of "
        f"{counted(len(weights), 'tuned model')}."
    )
    rows = tuple(
        (str(trial.number), trial.key[:16], weights.get(trial.key, "")[:16] or NOT_RECORDED)
        for trial in material.trials
    )
    blocks = (
        Paragraph(summary),
        Paragraph("The command, without paths of the machine:"),
        CodeBlock(_portable(material.sweep.command)),
        AppendixTable(
            ("trial", "key", "SHA-256 of the weights"), rows, numbers=(0,), note="The first 16 of 64 digits each."
        ),
    )
    return Topic("Running it again", summary, blocks)


def _portable(command: str) -> str:
    """A command without the machine's folders, and without paths and tracking, which do not change the results."""
    try:
        program, *arguments = shlex.split(command)
    except ValueError:  # no program, or a quotation mark that is not closed
        return command
    # A ledger has the command as it was typed; only its portable form is without the machine's folders.
    kept = [PurePath(program).name]
    for argument in arguments:
        key, equals, value = argument.rpartition("=")
        if not argument.startswith(("paths", "tracking", "local")):
            is_absolute = PurePath(value).is_absolute()
            kept.append(f"{key}{equals}{PurePath(value).name}" if is_absolute else argument)
    return " ".join(kept)
