"""Resolves the options --tuned and --from: tuned models of a runs folder to serve, and the base models they need."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tunerun.comparison import judge
from tunerun.comparison.labels import label
from tunerun.comparison.results import Verdict
from tunerun.engine import base_model, tuned_model
from tunerun.errors import BaseModelError, ConfigError, InputError, NotFoundError, TunerunError
from tunerun.job import BaseModelRef, JobState, TunedModel
from tunerun.ledger import JobRecord, Ledger, SweepRecord, TrialRecord
from tunerun.planning import ledger_path
from tunerun.prediction import CallableModel, checked_model, job_and_trial
from tunerun.service.core.catalogue import WIRE_NAME
from tunerun.service.core.column_template import ColumnTemplate
from tunerun.service.core.new_model import MAX_DISPLAY_NAME
from tunerun.service.core.records import ModelState, TunedModelRow
from tunerun.service.core.sweep_models import FIRST_NUMBER, SweepModel


@dataclass(frozen=True)
class Selection:
    """The models that a service is started with.

    Attributes:
        models: the base models: the given ones, followed by others that the tuned models need.
        sweep_models: the tuned models, in the order of the options.
    """

    models: tuple[BaseModelRef, ...]
    sweep_models: tuple[SweepModel, ...] = ()


@dataclass(frozen=True)
class _Choice:
    """A selected tuned model.

    Attributes:
        option: the command line option that selected it, for errors.
        sweep, trial: where it is shown.
        job: the job that made it.
        template_of: the trial whose template `tunerun predict` uses for it.
    """

    option: str
    sweep: SweepRecord
    trial: TrialRecord
    job: JobRecord
    tuned: TunedModel
    template_of: TrialRecord

    @property
    def words(self) -> str:
        return f"trial {self.trial.number} of the sweep {self.sweep.id}"


def select(
    tuned: Sequence[str], sweeps: Sequence[str], runs: Path, models: Sequence[BaseModelRef], cache: Path
) -> Selection:
    """Find tuned models of a runs folder, and the base models that they need.

    Args:
        tuned: names of tuned models, or MLflow run ids of trials.
        sweeps: ids of sweeps or names of experiments (their newest sweep); selects all trials that succeeded.
        runs: the runs folder.
        models: base models that are served in any case.
        cache: the cache directory of base models.

    Raises:
        NotFoundError: the runs folder has no ledger.
        ConfigError: models do not exist or cannot be served; has all problems.
    """
    path = ledger_path(runs)
    if not path.exists():
        raise NotFoundError(f"{path}: no ledger; give the folder of your runs with --runs")
    with Ledger.open_read_only(path) as ledger:
        problems: list[str] = []
        bases = _Bases(models, cache, problems)
        verdicts: dict[str, Verdict | None] = {}
        selected: list[SweepModel] = []
        for choice in _choices(ledger, tuned, sweeps, problems):
            try:
                if choice.tuned.folder is None:
                    kind = choice.template_of.settings.backend.get("kind")
                    raise NotFoundError(
                        f"{choice.tuned.name} was tuned by the backend {kind}, where its weights are; only tuned "
                        "models whose adapter is on this machine can be served"
                    )
                model = checked_model(ledger, choice.tuned, choice.template_of)
                base = bases.of(model.tuned_model)
            except InputError as error:
                problems += [f"{choice.option}: {line}" for line in error.problems]
                continue
            if choice.sweep.id not in verdicts:
                verdicts[choice.sweep.id] = None
                with suppress(TunerunError):  # a metric's file is missing, for example: served without a verdict
                    verdicts[choice.sweep.id] = judge(ledger, choice.sweep)
            row = _row(choice, model, base, verdicts[choice.sweep.id], FIRST_NUMBER + len(selected))
            selected.append(
                SweepModel(
                    row,
                    curve=tuple(ledger.snapshots(choice.job.id)),
                    trial=choice.words,
                    template=ColumnTemplate(model.template),
                    serving=replace(row.serving, max_output_tokens=model.generation.max_output_tokens),
                    weights=model.tuned_model.weights,
                    cache=cache,
                )
            )
        if problems:
            raise ConfigError(problems)
        return Selection(tuple(bases.models), tuple(selected))


def _choices(ledger: Ledger, tuned: Sequence[str], sweeps: Sequence[str], problems: list[str]) -> Sequence[_Choice]:
    """Return every selected tuned model once; append what cannot be found to `problems`."""
    frozen = ledger.sweeps()
    named = {sweep.experiment: sweep for sweep in frozen} | {sweep.id: sweep for sweep in frozen}
    choices: list[_Choice] = []
    for reference in tuned:
        job, trial = job_and_trial(ledger, reference)
        sweep = None if job is None else ledger.newest_sweep_of_key(job.key)
        if job is not None and job.tuned_model is not None and sweep is not None and trial is not None:
            # Sweeps share the job of equal trials; it is shown as a trial of the newest one.
            trial_of_newest = next(each for each in ledger.trials(sweep.id) if each.key == job.key)
            choices.append(_Choice(f"--tuned {reference}", sweep, trial_of_newest, job, job.tuned_model, trial))
        elif reference in named:
            problems.append(f"--tuned {reference}: this is a sweep; use --from {reference} for all its tuned models")
        else:
            problems.append(
                f"--tuned {reference}: no tuned model under this name or MLflow run id in {ledger.path}; "
                "`tunerun status --json` shows the names"
            )
    for reference in sweeps:
        if reference not in named:
            problems.append(
                f"--from {reference}: no sweep of this id or experiment in {ledger.path}; `tunerun status` shows the "
                "sweeps"
            )
            continue
        sweep = named[reference]
        jobs = ledger.last_jobs(sweep.id)
        succeeded = [
            _Choice(f"--from {reference}: trial {trial.number}", sweep, trial, job, job.tuned_model, trial)
            for trial in ledger.trials(sweep.id)
            if (job := jobs.get(trial.key)) and job.state is JobState.SUCCEEDED and job.tuned_model is not None
        ]
        if not succeeded:
            problems.append(f"--from {reference}: no trial of {sweep.id} has succeeded; to run them: {sweep.command}")
        choices += succeeded
    first: dict[str, _Choice] = {}
    for choice in choices:
        first.setdefault(choice.tuned.name, choice)
    return [*first.values()]


class _Bases:
    """The base models to serve; `of` adds those that tuned models need."""

    def __init__(self, models: Sequence[BaseModelRef], cache: Path, problems: list[str]) -> None:
        self._cache = cache
        self.models = [*models]
        self._by_identity: dict[str, BaseModelRef] = {}
        for model in models:
            try:
                self._by_identity.setdefault(base_model.find(model, cache).identity, model)
            except BaseModelError as error:
                problems += error.problems

    def of(self, tuned: TunedModel) -> BaseModelRef:
        """Return the base model of a tuned model.

        Raises:
            InputError: it cannot be found or has changed, or its name is taken or not valid on the wire.
        """
        # Compared by content, not by name: an adapter answers nonsense on other weights of the same name.
        wanted = tuned_model.read(Path(tuned.location)).base_identity
        if wanted in self._by_identity:
            return self._by_identity[wanted]
        model = replace(tuned.model, name=Path(tuned.model.name).name)
        advice = f"serve it as --model NAME={tuned.model.source}"
        current = base_model.find(model, self._cache)
        if current.identity != wanted:
            raise BaseModelError(
                f"{tuned.name} was tuned from {wanted}, but the base model found now is {current.identity}; restore "
                "the old one, or tune again"
            )
        if not WIRE_NAME.fullmatch(model.name):
            raise ConfigError(f"its base model cannot be models/{model.name} on the wire; {advice}")
        if any(each.name == model.name for each in self.models):
            raise ConfigError(f"its base model and another one would both be models/{model.name}; {advice}")
        self.models.append(model)
        self._by_identity[wanted] = model
        return model


def _row(
    choice: _Choice, model: CallableModel, base: BaseModelRef, verdict: Verdict | None, number: int
) -> TunedModelRow:
    job, trial = choice.job, choice.trial
    settings = trial.settings.hyperparameters
    finished_at = job.finished_at or job.created_at

    point, columns = label(trial.overrides), ", ".join(sorted(model.template.input_columns))
    description = [f"{choice.words[:1].upper()}{choice.words[1:]}{f': {point}' if point else ''}."]
    if verdict is not None:
        advised = verdict.decision.advised
        places = () if advised is None else verdict.points[advised].trials
        if any(verdict.trials[place].record.number == trial.number for place in places):
            description.append("Advised by its sweep.")
        description.append(f"Verdict of the sweep: {verdict.sentence}")
    description.append(
        f"JSON with columns of its template ({columns or 'any'}) is rendered with it; other prompts are taken as text."
    )
    return TunedModelRow(
        number=number,
        id=choice.tuned.name.rpartition("/")[2],
        key=choice.tuned.name,
        folder=choice.tuned.location,
        display_name=f"{choice.sweep.experiment}, trial {trial.number}"[-MAX_DISPLAY_NAME:],  # never without its number
        description=" ".join(description),
        base_model=base.name,
        temperature=model.generation.temperature,
        top_p=model.generation.top_p,
        top_k=model.generation.top_k,
        state=ModelState.ACTIVE,
        created_at=job.created_at,
        updated_at=finished_at,
        started_at=job.began_at,
        completed_at=finished_at,
        epoch_count=settings.epoch_count,
        batch_size=settings.batch_size,
        learning_rate=settings.effective_learning_rate,
        total_steps=max(trial.steps, 1),
        operation=f"job-{job.id}",
        can_answer=True,
        validation_loss=job.metrics.get("validation/loss"),
        base_validation_loss=job.metrics.get("validation/base_loss"),
    )
