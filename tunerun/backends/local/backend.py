"""The backend: jobs on embedded engines. Queues of work are in `engine_pool` and `engine_queue`, jobs in `jobs`."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Self

from tunerun.backends.base import NO_CURSORS, AnswersTogether, Backend, Capabilities
from tunerun.backends.local.engine_calls import OnPart, QueuedPrompt, raised
from tunerun.backends.local.engine_pool import EnginePool
from tunerun.backends.local.jobs import LocalJob, TunedModelFolders
from tunerun.backends.local.section import KIND, LocalSection, capabilities_with
from tunerun.engine import base_model, devices, messages, packages, pass_limits, precision, prepared_model, tuned_model
from tunerun.engine.settings import DEFAULT, EngineSettings
from tunerun.errors import AccessError, BaseModelError, InputError
from tunerun.examples import Example, Input
from tunerun.generation import Answer, GenerateOptions, Likelihood, ModelInputs, Prompt, prompt_of
from tunerun.job import (
    TUNED_MODEL_ID,
    BaseModelRef,
    Failure,
    FailureKind,
    JobRef,
    JobState,
    JobStatus,
    TunedModel,
    TuningRequest,
)
from tunerun.workers import registry as worker_kinds
from tunerun.workers.base import Place


def open_backend(section: LocalSection, runs: Path, cache: Path) -> Backend:
    """Return the backend; its engines start with the first job or call."""
    return LocalBackend(runs, cache, section.settings, workers=section.workers)


_UNKNOWN_JOB = Failure(
    FailureKind.LOST, "the engine does not know this job: the process that ran it is gone; run the command again"
)


class LocalBackend:
    """Runs jobs on embedded engines; jobs of one base model share forward and backward passes.

    Jobs start with the first `poll` or the first call after `submit`, so that jobs submitted together train together.

    Args:
        runs: the runs directory; tuned models go to `tuned_models/<id>/`, the engine's log to `logs/engine.log`.
        cache: the cache directory of base models.
        settings: how the engines compute.
        keep_cancelled: whether a job that is cancelled after its first step still leaves a tuned model.
        workers: the config section for where the engines run and how many run in parallel.
    """

    def __init__(
        self,
        runs: Path,
        cache: Path,
        settings: EngineSettings = DEFAULT,
        *,
        keep_cancelled: bool = False,
        workers: worker_kinds.Workers = worker_kinds.DEFAULT,
    ) -> None:
        self._folders = TunedModelFolders(runs.absolute() / "tuned_models")
        self._cache = cache
        root = str(self._folders.root)
        self._workers = workers
        # Each node of a cluster would resolve `auto` by its own GPU, but a trial's key names one number format, which
        # is planned on this machine.
        self._settings = settings if worker_kinds.are_here(workers) else precision.stated(settings)
        self._place = place = Place(runs.absolute(), cache, self._settings)
        self._queue = EnginePool(
            worker_kinds.opener(workers, place),
            lambda jobs, most: messages.Train(
                tuple(messages.PackedJob(job.id, job.request) for job in jobs), root, keep_cancelled, most
            ),
            workers.count,
            lambda: worker_kinds.room(workers),
        )
        self._has_found = False  # whether workers of an earlier, killed process were looked for
        self._identities: dict[BaseModelRef, str] = {}
        self._jobs: dict[str, LocalJob] = {}
        self._job_of_key: dict[str, LocalJob] = {}

    @property
    def engine_process_id(self) -> int | None:
        """PID of the first engine's process on this machine; None: it is not running."""
        return self._queue.process_id

    @property
    def is_open(self) -> bool:
        """Whether the backend accepts jobs and calls."""
        return self._queue.is_open

    @property
    def calls_waiting(self) -> int:
        """Number of queued calls and prompts."""
        return self._queue.calls_waiting

    @property
    def jobs_at_once(self) -> int:
        """The most jobs that can train at once: a full pack on each engine. Memory may allow fewer."""
        settings = self._settings
        pack = pass_limits.most_members(settings.packing, devices.chosen(settings.device))
        return pack * self._workers.count

    def capabilities(self) -> Capabilities:
        """Return the capabilities; see the Protocol."""
        return capabilities_with(self._settings, self._workers)

    def _find_workers(self) -> None:
        """Take over the cluster workers, and their jobs, of an earlier process that was killed; only once."""
        if self._has_found or worker_kinds.are_here(self._workers):
            return
        self._has_found = True
        for recovered in worker_kinds.take_over(self._workers, self._place):
            jobs = [LocalJob(each.job, each.request, self._folders.of_job(each.job)) for each in recovered.jobs]
            with self._queue.lock:
                if not self._queue.adopt(recovered.worker, jobs):
                    # backend.workers.count is smaller now; the jobs resume from their saved states.
                    recovered.worker.end()
                    continue
                self._jobs |= {job.id: job for job in jobs}
                self._job_of_key |= {job.request.key: job for job in jobs}

    def _require_packages(self) -> None:
        """Check that engines can run here; a machine that only submits to a cluster needs none of the packages."""
        if not worker_kinds.are_here(self._workers):
            return
        packages.require(*packages.NEEDED)
        if self._settings.is_quantised:
            packages.require(*packages.QUANTISING, extra="quantized", what="backend.quantization=4bit")

    def prepare(self, models: Sequence[BaseModelRef]) -> None:
        """Find every base model, and convert or download those that are not ready.

        Args:
            models: the base models that jobs and calls will use.

        Raises:
            MissingPackageError: the extra `local` is not installed where the engines run on this machine, or the
                package of their scheduler is not.
            BaseModelError: base models cannot be located or prepared; has all problems.
        """
        self._require_packages()
        worker_kinds.room(self._workers)
        self._find_workers()
        problems: list[str] = []
        unprepared = []
        # All are located before one is prepared, so that a missing one does not cost the download of the others.
        for model in dict.fromkeys(models):
            try:
                located = base_model.find(model, self._cache)
            except BaseModelError as error:
                problems.extend(error.problems)
            else:
                self._identities[model] = located.identity
                if prepared_model.model_folder(located, self._cache) is None:
                    unprepared.append(model)
        if problems:
            raise BaseModelError(problems)
        for model in unprepared:
            try:
                self._queue.call(messages.Prepare(model))
            except BaseModelError as error:
                problems.extend(error.problems)
        if problems:
            raise BaseModelError(problems)

    def submit(self, request: TuningRequest) -> JobRef:
        """Queue a job. Idempotent: a key that is under way or whose tuned model exists returns its job.

        `tuned_model_id` has to be a function of the key, because a later process finds a key by its tuned model's
        folder.

        Raises:
            InputError: the id is invalid, its folder has a tuned model of another key, or the base model or a package
                is missing.
            BackendError: the backend was closed.
        """
        if not TUNED_MODEL_ID.fullmatch(request.tuned_model_id):
            raise InputError(
                f"the tuned model's id {request.tuned_model_id!r} is not allowed; an id has 1 to 40 lower case "
                "letters, digits and dashes, begins with a letter and does not end with a dash; choose another name"
            )
        with self._queue.lock:
            self._queue.check_open()
            existing = self.find(request.key, request.tuned_model_id)
            if existing is not None:
                return existing
            self._folders.check_free(request)
            self._require_packages()
            base_model.find(request.model, self._cache)
            # An id of its own, so that a job that is submitted again does not get the status of the one that failed.
            # Nothing is written here: after a kill a key is found by its tuned model's folder, or resumes from its
            # state.
            identifier = f"{request.tuned_model_id}.{uuid.uuid4().hex[:12]}"
            job = LocalJob(identifier, request, self._folders.of_job(identifier))
            self._queue.add_job(job)
            self._jobs[job.id] = self._job_of_key[request.key] = job
            return JobRef(KIND, job.id)

    def find(self, key: str, tuned_model_id: str) -> JobRef | None:
        """Return the job of a key, from memory or from its tuned model's folder; see the Protocol.

        Raises:
            AccessError: a cluster that may run the job cannot be reached.
        """
        self._find_workers()
        with self._queue.lock:
            job = self._job_of_key.get(key)
            if job is not None and not job.state.is_finished:
                return JobRef(KIND, job.id)
        finished = self._folders.succeeded(key, tuned_model_id)
        return None if finished is None else JobRef(KIND, finished)

    def forget(self, ref: JobRef) -> None:
        """Drop a finished job from memory, which a service that runs for months would fill; its folder remains."""
        with self._queue.lock:
            job = self._jobs.get(ref.id)
            if job is not None and job.state.is_finished:
                del self._jobs[ref.id]
                if self._job_of_key.get(job.request.key) is job:
                    del self._job_of_key[job.request.key]

    def poll(self, refs: Sequence[JobRef], after: Mapping[JobRef, int] = NO_CURSORS) -> Mapping[JobRef, JobStatus]:
        """Return the status of each job, with the snapshots after the caller's cursor; see the Protocol.

        Raises:
            AccessError: this machine's limits prevent the engine from starting, or a cluster cannot be reached.
        """
        self._find_workers()
        # An error of the whole backend, which fails no job: this machine's limits are no trial's fault.
        if (refusal := self._queue.refusal) is not None:
            raise AccessError(refusal)
        self._queue.begin()
        return {ref: self._status(ref).after(after.get(ref, 0)) for ref in refs}

    def _status(self, ref: JobRef) -> JobStatus:
        job_id, model_id = ref.id, ref.id.partition(".")[0]
        if ref.backend == KIND and TUNED_MODEL_ID.fullmatch(model_id):
            with self._queue.lock:
                if (job := self._jobs.get(job_id)) is not None:
                    is_there = job.state.is_finished and self._folders.made(job_id) is not None
                    return job.status(self._folders.tuned_model(job_id, job.request.model) if is_there else None)
            # A job of an earlier process: its tuned model's folder has the status.
            if (status := self._folders.status(job_id)) is not None:
                return status
        return JobStatus(JobState.FAILED, failure=_UNKNOWN_JOB)

    def cancel(self, ref: JobRef) -> None:
        """Stop a job before its next step; see the Protocol."""
        self._cancel(ref, pauses=False)

    def pause(self, ref: JobRef) -> None:
        """Stop a job before its next step; it resumes from its saved state when its key is submitted again."""
        self._cancel(ref, pauses=True)

    def _cancel(self, ref: JobRef, *, pauses: bool) -> None:
        self._find_workers()
        with self._queue.lock:
            job = self._jobs.get(ref.id) if ref.backend == KIND else None
            if job is not None and not job.state.is_finished:
                self._queue.cancel(job, pauses=pauses)

    def generate(
        self,
        model: BaseModelRef | TunedModel,
        inputs: Sequence[Input],
        options: GenerateOptions,
        examples: Sequence[Example] = (),
    ) -> list[str]:
        """Answer inputs between two steps of training; see the Protocol, and `answer`."""
        return [answer.text for answer in self.answer(model, inputs, options, examples=examples)]

    def generate_together(self, groups: Sequence[ModelInputs]) -> list[list[str] | InputError]:
        """Answer inputs of several models between two steps of training; see `AnswersTogether`."""
        outputs: list[list[str] | InputError] = [[] for _ in groups]
        of_base: dict[BaseModelRef, list[tuple[int, list[Prompt]]]] = {}
        for position, group in enumerate(groups):
            try:
                base, adapter = _base_and_adapter(group.model)
            except InputError as error:
                outputs[position] = error
                continue
            prompts = [prompt_of(each, group.options, adapter, group.examples) for each in group.inputs]
            of_base.setdefault(base, []).append((position, prompts))
        # One call for each base model: the engine puts prompts of different adapters into one batch.
        for base, entries in of_base.items():
            together = tuple(prompt for _, of_model in entries for prompt in of_model)
            if not together:
                continue
            try:
                self._check_base(base)
                report = self._queue.call(messages.Generate(base, together))
            except InputError as error:
                for position, _ in entries:
                    outputs[position] = error
                continue
            assert isinstance(report, messages.Answers)  # noqa: S101 - the engine answers a Generate with nothing else
            answers = iter(report.answers)
            for position, of_model in entries:
                outputs[position] = _texts_or_refusal([next(answers) for _ in of_model])
        return outputs

    def losses(
        self, model: BaseModelRef | TunedModel, rows: Sequence[Example], examples: Sequence[Example] = ()
    ) -> list[float]:
        """Measure the loss of expected outputs between two steps of training; see the Protocol.

        Raises:
            InputError: the tuned model, the base model or a package is missing, or a row is too long.
            BackendError: the engine failed, or the backend was closed.
        """
        likelihoods = self._measure(model, [(row.input, (row.output,)) for row in rows], examples)
        # An empty output of a base model without an end token has no token to learn.
        return [likelihood.nats / max(likelihood.tokens, 1) for (likelihood,) in likelihoods]

    def choose(
        self,
        model: BaseModelRef | TunedModel,
        inputs: Sequence[Input],
        choices: Sequence[str],
        examples: Sequence[Example] = (),
    ) -> list[str]:
        """Answer each input with its likeliest choice, between two steps of training; see the Protocol.

        Raises:
            InputError: as for `losses`; or `choices` is empty.
            BackendError: the engine failed, or the backend was closed.
        """
        if not choices:
            raise InputError("the list of choices is empty; give at least one")
        rows = self._measure(model, [(each, tuple(choices)) for each in inputs], examples)
        return [choices[min(range(len(choices)), key=lambda number: row[number].nats)] for row in rows]

    def _measure(
        self,
        model: BaseModelRef | TunedModel,
        rows: Sequence[tuple[Input, tuple[str, ...]]],
        examples: Sequence[Example],
    ) -> tuple[tuple[Likelihood, ...], ...]:
        if not rows:
            return ()
        base, adapter = _base_and_adapter(model)
        self._check_base(base)
        report = self._queue.call(messages.MeasureLosses(base, tuple(rows), adapter, tuple(examples)))
        assert isinstance(report, messages.Measured)  # noqa: S101 - the engine answers MeasureLosses with nothing else
        return report.likelihoods

    def answer(
        self,
        model: BaseModelRef | TunedModel,
        inputs: Sequence[Input],
        options: GenerateOptions,
        on_text: Callable[[str], None] | None = None,
        examples: Sequence[Example] = (),
    ) -> list[Answer]:
        """Answer inputs between two steps of training, with token counts and the reason why each answer ended.

        Args:
            examples: turns that precede each input's own conversation.
            on_text: called with each new part of the answer, from another thread; only for a single input.

        Raises:
            InputError: the tuned model, the base model or a package is missing, or an input is too long.
            BackendError: the engine failed, or the backend was closed.
        """
        if not inputs:
            return []
        base, adapter = _base_and_adapter(model)
        prompts = [prompt_of(each, options, adapter, examples) for each in inputs]
        on_part = None if on_text is None else lambda _position, part: on_text(part.text)
        self._check_base(base)
        command = messages.Generate(base, tuple(prompts), on_part is not None, all_or_none=True)
        report = self._queue.call(command, on_part)
        assert isinstance(report, messages.Answers)  # noqa: S101 - the engine answers a Generate with nothing else
        return [answer for answer in report.answers if isinstance(answer, Answer)]

    def ask(
        self, model: BaseModelRef, prompts: Sequence[Prompt], on_parts: Sequence[OnPart | None]
    ) -> list[Future[Answer]]:
        """Queue prompts to a base model and its tuned models; they are answered between two steps of training.

        Queued prompts are answered in batches, with the same result as alone. If the engine dies, the prompts of its
        batch are retried one by one, except those of which a part was already delivered.

        Args:
            model: the base model.
            prompts: the inputs and their generation options.
            on_parts: for each prompt a function that is called with each new part of its answer, from another thread;
                None: the answer is not streamed.

        Returns:
            A future of each prompt's answer. It raises InputError (the tuned model is missing or belongs to another
            base model, the prompt is too long, the base model or a package is missing) or BackendError (the engine
            failed).

        Raises:
            BackendError: the backend was closed.
        """
        pairs = zip(prompts, on_parts, strict=True)
        queued = [QueuedPrompt(model, prompt, self._check_base, on_part) for prompt, on_part in pairs]
        self._queue.ask(queued)
        return [each.answer for each in queued]

    def cancel_answer(self, answer: Future[Answer]) -> None:
        """Cancel a prompt: a queued one is dropped, a running one ends at the next token."""
        self._queue.cancel_answer(answer)

    def refuse_prompts(self, error: Exception) -> None:
        """Fail every queued prompt with an error; running ones are completed."""
        self._queue.refuse_prompts(error)

    def _check_base(self, model: BaseModelRef) -> None:
        self._require_packages()
        # Another base model under the same name would answer for the one that was trained, without any error.
        now = base_model.find(model, self._cache)
        prepared = self._identities.get(model, now.identity)
        if now.identity != prepared:
            raise BaseModelError(
                f"the base model {model.name!r} ({now.origin}) was replaced since it was prepared: it was "
                f"{prepared}, it is {now.identity} now; restore it, or start the command again"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._queue.close()


def _base_and_adapter(model: BaseModelRef | TunedModel) -> tuple[BaseModelRef, str | None]:
    """Return the base model and the tuned model's folder.

    Raises:
        NotFoundError: the folder holds no tuned model.
    """
    if isinstance(model, BaseModelRef):
        return model, None
    tuned_model.read(Path(model.location))
    return model.model, model.location


def _texts_or_refusal(answers: Sequence[Answer | messages.Refused]) -> list[str] | InputError:
    """Return the texts of answers; or, if some were refused, the error of the first one."""
    for number, answer in enumerate(answers, 1):
        if isinstance(answer, messages.Refused):
            error = raised(answer)
            return InputError(f"input {number} of {len(answers)} cannot be answered: {error}")
    return [answer.text for answer in answers if isinstance(answer, Answer)]


_CONFORMS: type[Backend] = LocalBackend
_ANSWERS_TOGETHER: type[AnswersTogether] = LocalBackend
