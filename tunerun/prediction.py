"""Call a tuned model with the template it was trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunerun import schema
from tunerun.backends import open_backend, stored_section
from tunerun.dataset import Findings, read_rows, with_conversations
from tunerun.engine import tuned_model
from tunerun.engine.base_model import cache_folder
from tunerun.errors import DatasetError, NotFoundError, TemplateError
from tunerun.interpolation import resolved
from tunerun.job import GenerateOptions, TunedModel
from tunerun.ledger import JobRecord, Ledger, TrialRecord
from tunerun.planning import ledger_path
from tunerun.template import PromptTemplate

_PREFIX = "tunedModels/"


@dataclass(frozen=True)
class Predictions:
    """The answers of a tuned model, one for each row, in order."""

    tuned_model: str
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class CallableModel:
    """A tuned model and all that a call of it needs, as it was frozen when the model was trained."""

    tuned_model: TunedModel
    template: PromptTemplate
    backend: schema.Backend
    generation: GenerateOptions
    seed: int
    cache: str | None


def predict(
    run: str,
    rows: Sequence[Mapping[str, Any]] | Path,
    *,
    runs: str | Path = "runs",
    max_output_tokens: int | None = None,
) -> Predictions:
    """Ask a tuned model, with the template it was trained with.

    Args:
        run: an MLflow run id, or the name of a tuned model: `tunedModels/next-number-0a1b2c3d4e5f`.
        rows: mappings with the columns that the template's `text_input` names, others are ignored; or a file of such
            rows, as those of training.
        runs: the folder that holds the ledger.
        max_output_tokens: longest answer, in tokens; None: as in the experiment.

    Raises:
        NotFoundError: the ledger knows no such run, or it has no tuned model.
        TemplateError: a row lacks a column; names its position from 1, or its file and line.
        DatasetError: the file cannot be read.
        BackendError: the tuned model cannot be called.
    """
    model = find_model(run, Path(runs))
    inputs = _rendered(model.template, _placed(rows, model.template))
    options = GenerateOptions(
        max_output_tokens=max_output_tokens or model.generation.max_output_tokens,
        temperature=model.generation.temperature,
        seed=model.seed,
    )
    with open_backend(model.backend, Path(runs).absolute(), cache_folder(model.cache)) as backend:
        backend.prepare([model.tuned_model.model])
        outputs = backend.generate(model.tuned_model, inputs, options)
    return Predictions(model.tuned_model.name, tuple(outputs))


def find_model(run: str, runs: Path) -> CallableModel:
    """Look a tuned model up in the ledger.

    Raises:
        NotFoundError: there is no ledger, no such run, or no tuned model of it.
    """
    path = ledger_path(runs)
    if not path.exists():
        raise NotFoundError(f"{path}: no ledger; give the folder of your runs with --runs")
    with Ledger.open_read_only(path) as ledger:
        job, trial = _job_and_trial(ledger, run)
        if job is None or job.tuned_model is None:
            raise NotFoundError(
                f"--run {run}: no tuned model under this run id or name in {path}; "
                "`tunerun status` shows the trials, `tunerun status --json` their names"
            )
        settings = (trial or ledger.trials_of_key(job.key)[0]).settings
        sweep = ledger.newest_sweep_of_key(job.key)
    # The folder may be another one than where the trial ran: a cache that is not there any more is not made again.
    cache = resolved(settings.cache) if settings.cache else None
    cache = cache if cache is not None and Path(cache).is_dir() else None
    folder, weights = job.tuned_model.folder, job.tuned_model.weights
    fault = None if folder is None else tuned_model.fault(folder, weights, cache_folder(cache))
    if fault is not None and sweep is not None:
        raise NotFoundError(f"--run {run}: {fault}; to make it again: {sweep.command_afresh}")
    return CallableModel(
        tuned_model=job.tuned_model,
        template=PromptTemplate(settings.template),
        backend=stored_section(settings.backend),
        generation=settings.generation,
        seed=settings.seed,
        cache=cache,
    )


def _job_and_trial(ledger: Ledger, run: str) -> tuple[JobRecord | None, TrialRecord | None]:
    from tunerun.tracking import key_of_subject

    subject = ledger.subject_of_run(run)
    key = key_of_subject(subject) if subject else None
    if key is None:
        return ledger.job_of_tuned_model(_PREFIX + run.removeprefix(_PREFIX)), None
    return ledger.job(key), ledger.trials_of_key(key)[-1]


def _placed(rows: Sequence[Mapping[str, Any]] | Path, template: PromptTemplate) -> list[tuple[str, Mapping[str, Any]]]:
    """Rows beside the name of the place that an error shows."""
    if not isinstance(rows, Path):
        return [(f"row {position}", row) for position, row in enumerate(rows, start=1)]
    findings = Findings()
    read = with_conversations(read_rows(rows), template.input_columns, findings)
    if findings:
        raise DatasetError(findings.lines)
    return [(row.place, row.columns) for row in read]


def _rendered(template: PromptTemplate, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    inputs: list[str] = []
    problems: list[str] = []
    for place, row in rows:
        try:
            inputs.append(template.render_input(row))
        except TemplateError as error:
            problems.extend(f"{place}: {problem}" for problem in error.problems)
    if problems:
        raise TemplateError(problems)
    return inputs
