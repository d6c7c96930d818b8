"""The backend `local`: the embedded engine, in a process of its own on this machine.

What waits for an engine is in an `EngineQueue`, what a job leaves on the disk in `local_jobs`; here is what callers are
told.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import fields, replace
from pathlib import Path
from types import TracebackType
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator, model_validator

from tunerun import schema
from tunerun.backends.base import NO_CURSORS, AnswersTogether, Backend, Capabilities
from tunerun.backends.engine_calls import Asked, OnPart, raised
from tunerun.backends.engine_pool import EnginePool
from tunerun.backends.engine_session import Job
from tunerun.backends.local_jobs import LocalJob, TunedModelFolders
from tunerun.engine import base_model, devices, messages, packages, pass_limits, precision, tuned_model
from tunerun.engine.settings import DEFAULT, EngineSettings
from tunerun.errors import AccessError, BaseModelError, InputError
from tunerun.job import (
    LATER_HYPERPARAMETERS,
    TUNED_MODEL_ID,
    Answer,
    BaseModelRef,
    Example,
    Failure,
    FailureKind,
    GenerateOptions,
    Input,
    JobRef,
    JobState,
    JobStatus,
    Likelihood,
    ModelInputs,
    Prompt,
    TunedModel,
    TuningRequest,
    prompt_of,
)
from tunerun.workers import registry as worker_kinds
from tunerun.workers.base import Place

KIND = "local"
IS_HOSTED = False


def _packing(value: object, handler: ValidatorFunctionWrapHandler) -> object:
    """One message in the place of one for each member of the union."""
    try:
        return handler(value)
    except ValidationError as error:
        raise ValueError("must be auto, off, or a whole number of 1 or more") from error


class LocalSection(schema.BackendSection):
    """The embedded engine, on this machine."""

    kind: Literal["local"] = Field(description="local")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto: cuda, else mps, else cpu.")
    threads: int | None = Field(
        None,
        ge=1,
        description="CPU threads; null: as many as torch takes by itself.",
        json_schema_extra={"unit": "CPU threads"},
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="Number format of the frozen base model; the adapter and its optimiser are always fp32. auto: bf16 "
        "on a CUDA device that computes with it (compute capability 8.0 and later), else fp32.",
    )
    packing: Annotated[Literal["auto", "off"] | Annotated[int, Field(ge=1)], WrapValidator(_packing)] = Field(
        "auto",
        description="Trials that train in shared passes. auto: as many as fit into memory; off: each alone; a number: "
        "at most so many.",
        json_schema_extra={"unit": "trials"},
    )
    micro_batch: int | None = Field(
        None,
        ge=1,
        description="Most rows of a batch that are computed at once, for less memory; a step's gradient is still that "
        "of the whole batch; null: all.",
        json_schema_extra={"unit": "rows"},
    )
    gradient_checkpointing: bool = Field(
        False, description="Keep no layer's inner values for the gradient and compute them twice: less memory, slower."
    )
    quantization: Literal["none", "4bit"] = Field(
        "none",
        description="4bit: the base model's linear layers are stored in 4 bits (NF4), on CUDA alone; none: not.",
    )
    workers: worker_kinds.Workers = Field(
        worker_kinds.DEFAULT, discriminator="kind", description="Where the engines run, and how many side by side."
    )

    @model_validator(mode="after")
    def _can_be_quantised(self) -> Self:
        if self.quantization == "none":
            return self
        if self.device in ("cpu", "mps"):
            raise ValueError(
                f"quantization: {self.quantization} needs a CUDA device, and device is {self.device}; set device to "
                "auto or cuda, or quantization to none"
            )
        if self.precision == "fp32":
            raise ValueError(
                f"quantization: {self.quantization} multiplies in bf16; set precision to auto or bf16, or quantization "
                "to none"
            )
        return self

    @property
    def settings(self) -> EngineSettings:
        """What an engine is started with."""
        names = (field.name for field in fields(EngineSettings) if field.name in type(self).model_fields)
        return EngineSettings(**{name: getattr(self, name) for name in names})


SECTION = LocalSection


_CAPABILITIES = Capabilities(
    kind=KIND,
    address="",
    max_input_characters=None,
    max_output_characters=None,
    source="none: the base model's context length limits an example",
    max_in_flight=64,  # our choice: what waits inside the engine begins with no pause; more would only use memory
    survives_runner=False,
    is_hosted=IS_HOSTED,
    has_prices=False,
    trains_exact_prefixes=True,  # at a constant learning rate, on the same device and threads
    precision=precision.FLOAT32,
    measures_epochs=True,
    keeps_best=True,
    measures_losses=True,
    hyperparameters=LATER_HYPERPARAMETERS,
    trains_conversations=True,
)


def capabilities(section: LocalSection) -> Capabilities:
    """What the embedded engine can do; the number format depends on its section."""
    return _capabilities(section.settings, section.workers)


def _capabilities(settings: EngineSettings, workers: worker_kinds.Workers) -> Capabilities:
    return replace(
        _CAPABILITIES,
        precision=precision.planned(settings),
        quantization=settings.quantization if settings.is_quantised else "",
        engine=settings if worker_kinds.are_here(workers) else None,
        engines=worker_kinds.count(workers) if worker_kinds.are_here(workers) else 1,
        outlives_kill=not worker_kinds.are_here(workers),
        problems=_problems(settings, workers),
        warnings=_warnings(settings, workers),
    )


def _warnings(settings: EngineSettings, workers: worker_kinds.Workers) -> tuple[str, ...]:
    if settings.precision != "auto" or settings.is_quantised or worker_kinds.are_here(workers):
        return ()
    chosen = precision.WORDS[precision.planned(settings)]
    return (
        f"backend.precision: auto is {chosen} as on this machine, on every node; set bf16 where their GPUs have it",
    )


_NEEDS_CUDA = "needs a CUDA device, and this machine has none; set it to none, or plan on a machine with an NVIDIA GPU"


def _problems(settings: EngineSettings, workers: worker_kinds.Workers) -> tuple[str, ...]:
    """What keeps this machine from computing as the settings say; of another machine it is not known."""
    if settings.is_quantised and worker_kinds.are_here(workers) and not precision.cuda_capabilities():
        return (f"backend.quantization: {settings.quantization} {_NEEDS_CUDA}",)
    return ()


def open_backend(section: LocalSection, runs: Path, cache: Path) -> Backend:
    """Make the backend; its engine starts with the first thing to do."""
    return LocalBackend(runs, cache, section.settings, workers=section.workers)


_NOT_KNOWN = Failure(
    FailureKind.LOST, "the engine does not know this job: the process that ran it is gone; run the command again"
)


class LocalBackend:
    """Runs jobs on embedded engines, those of one base model in shared passes.

    Jobs begin with the first `poll` or the first call after they were submitted, so that what is submitted together
    trains together.

    Args:
        runs: the runs directory; tuned models go to `tuned_models/<id>/`, the engine's log to `logs/engine.log`.
        cache: the cache directory of base models.
        settings: how engines compute.
        keep_cancelled: whether a job that is cancelled after its first step leaves a tuned model all the same.
        workers: the config section that says where the engines run, and how many side by side.
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
        self._keep_cancelled = keep_cancelled
        self._workers = workers
        self._settings = settings if worker_kinds.are_here(workers) else precision.stated(settings)
        self._place = place = Place(runs.absolute(), cache, self._settings)
        self._queue = EnginePool(
            worker_kinds.opener(workers, place),
            self._train,
            worker_kinds.count(workers),
            lambda: worker_kinds.room(workers),
        )
        self._has_found = False  # workers of a program that was killed
        self._identities: dict[BaseModelRef, str] = {}
        self._jobs: dict[str, LocalJob] = {}
        self._job_of_key: dict[str, LocalJob] = {}

    def _train(self, jobs: Sequence[Job], most: int | None) -> messages.Train:
        packed = tuple(messages.PackedJob(job.id, job.request) for job in jobs)
        return messages.Train(packed, str(self._folders.root), self._keep_cancelled, most)

    @property
    def engine_process_id(self) -> int | None:
        """The operating system's number of the engine's process; None: it was not started, or has died."""
        return self._queue.process_id

    @property
    def is_open(self) -> bool:
        """Whether it takes work."""
        return self._queue.is_open

    @property
    def calls_waiting(self) -> int:
        """How many calls and prompts wait for what is before them."""
        return self._queue.calls_waiting

    @property
    def jobs_at_once(self) -> int:
        """How many jobs train at once at most: a pack on each engine, whatever fits into memory."""
        settings = self._settings
        pack = pass_limits.most_members(settings.packing, devices.chosen(settings.device))
        return pack * worker_kinds.count(self._workers)

    def capabilities(self) -> Capabilities:
        """Return the limits; see the Protocol."""
        return _capabilities(self._settings, self._workers)

    def _find_workers(self) -> None:
        """Continue with workers on a cluster whose program was killed; once, and their jobs are this backend's then."""
        if self._has_found or worker_kinds.are_here(self._workers):
            return
        self._has_found = True
        for found in worker_kinds.take_over(self._workers, self._place):
            jobs = [LocalJob(each.job, each.request, self._folders.of_job(each.job)) for each in found.jobs]
            with self._queue.lock:
                if not self._queue.adopt(found.worker, jobs):
                    found.worker.end()  # a smaller backend.workers.count; the jobs continue from their saved states
                    continue
                self._jobs |= {job.id: job for job in jobs}
                self._job_of_key |= {job.request.key: job for job in jobs}

    def _require_packages(self) -> None:
        """Check that engines can run here; the machine that submits to a cluster computes nothing and needs none."""
        if not worker_kinds.are_here(self._workers):
            return
        packages.require(*packages.NEEDED)
        if self._settings.is_quantised:
            packages.require(*packages.QUANTISING, extra="quantized", what="backend.quantization=4bit")

    def prepare(self, models: Sequence[BaseModelRef]) -> None:
        """Find every base model, and convert or fetch those that are not ready.

        Raises:
            MissingPackageError: the extra `local` is not installed where the engines run on this machine, or the
                package of their scheduler is not.
            BaseModelError: some cannot be found or made ready; holds all problems.
        """
        self._require_packages()
        worker_kinds.room(self._workers)
        self._find_workers()
        problems: list[str] = []
        missing = []
        for model in dict.fromkeys(models):
            try:
                found = base_model.find(model, self._cache)
            except BaseModelError as error:
                problems.extend(error.problems)
            else:
                self._identities[model] = found.identity
                if base_model.prepared_folder(found, self._cache) is None:
                    missing.append(model)
        if problems:
            raise BaseModelError(problems)
        for model in missing:
            try:
                self._queue.call(messages.Prepare(model))
            except BaseModelError as error:
                problems.extend(error.problems)
        if problems:
            raise BaseModelError(problems)

    def submit(self, request: TuningRequest) -> JobRef:
        """Accept a job; one whose tuned model is there already is not trained again.

        A later process recognises a key by its tuned model's folder, so `tuned_model_id` has to follow from the key.

        Raises:
            InputError: the id is no id, or its folder holds a tuned model of another key; or the base model or a
                package is missing.
            BackendError: the backend was closed.
        """
        if not TUNED_MODEL_ID.fullmatch(request.tuned_model_id):
            raise InputError(
                f"the tuned model's id {request.tuned_model_id!r} is not allowed; an id has 1 to 40 lower case "
                "letters, digits and dashes, begins with a letter and does not end with a dash; choose another name"
            )
        with self._queue.lock:
            self._queue.check_open()
            standing = self.find(request.key, request.tuned_model_id)
            if standing is not None:
                return standing
            self._folders.check_free(request)
            self._require_packages()
            base_model.find(request.model, self._cache)
            identifier = f"{request.tuned_model_id}.{uuid.uuid4().hex[:12]}"
            job = LocalJob(identifier, request, self._folders.of_job(identifier))
            self._queue.add_job(job)
            self._jobs[job.id] = self._job_of_key[request.key] = job
            return JobRef(KIND, job.id)

    def find(self, key: str, tuned_model_id: str) -> JobRef | None:
        """Return the job of a key, by this process or by the folder that it left; see the Protocol.

        Raises:
            AccessError: a cluster that may have the job cannot be reached.
        """
        self._find_workers()
        with self._queue.lock:
            known = self._job_of_key.get(key)
            if known is not None and not known.state.is_finished:
                return JobRef(KIND, known.id)
        finished = self._folders.succeeded(key, tuned_model_id)
        return None if finished is None else JobRef(KIND, finished)

    def forget(self, ref: JobRef) -> None:
        """Keep nothing of a finished job: who runs for months has many; its folder still answers for it."""
        with self._queue.lock:
            job = self._jobs.get(ref.id)
            if job is not None and job.state.is_finished:
                del self._jobs[ref.id]
                if self._job_of_key.get(job.request.key) is job:
                    del self._job_of_key[job.request.key]

    def poll(self, refs: Sequence[JobRef], after: Mapping[JobRef, int] = NO_CURSORS) -> Mapping[JobRef, JobStatus]:
        """Return what is new of each job; see the Protocol.

        Raises:
            AccessError: the limits of this machine prevent the engine from starting, or a cluster cannot be reached.
        """
        self._find_workers()
        if (refusal := self._queue.refusal) is not None:
            raise AccessError(refusal)
        self._queue.begin()
        return {ref: self._status(ref).after(after.get(ref, 0)) for ref in refs}

    def _status(self, ref: JobRef) -> JobStatus:
        with self._queue.lock:
            job = self._jobs.get(ref.id) if ref.backend == KIND else None
            if job is not None:
                is_there = job.state.is_finished and self._folders.made(job.id) is not None
                return job.status(self._folders.tuned_model(job.id, job.request.model) if is_there else None)
        # An earlier process' job is what its tuned model's folder says, else it is lost.
        is_named = ref.backend == KIND and TUNED_MODEL_ID.fullmatch(ref.id.partition(".")[0])
        found = self._folders.status(ref.id) if is_named else None
        return found or JobStatus(JobState.FAILED, failure=_NOT_KNOWN)

    def cancel(self, ref: JobRef) -> None:
        """Stop a job before its next step; see the Protocol."""
        self._cancel(ref, pauses=False)

    def pause(self, ref: JobRef) -> None:
        """Stop a job before its next step, and keep what it needs to continue when its key is submitted again."""
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

    def generate_together(self, asked: Sequence[ModelInputs]) -> list[list[str] | InputError]:
        """Answer inputs of several models between two steps of training; see `AnswersTogether`."""
        found: list[list[str] | InputError] = [[] for _ in asked]
        of_base: dict[BaseModelRef, list[tuple[int, list[Prompt]]]] = {}
        for position, each in enumerate(asked):
            try:
                base, adapter = _base_and_adapter(each.model)
            except InputError as error:
                found[position] = error
                continue
            prompts = [prompt_of(one, each.options, adapter, each.examples) for one in each.inputs]
            of_base.setdefault(base, []).append((position, prompts))
        for base, entries in of_base.items():
            try:
                answers = iter(self._answer_all(base, [prompt for _, prompts in entries for prompt in prompts]))
            except InputError as error:
                found = [error if any(p == at for at, _ in entries) else one for p, one in enumerate(found)]
                continue
            for position, prompts in entries:
                found[position] = _texts_or_refusal([next(answers) for _ in prompts])
        return found

    def _answer_all(self, base: BaseModelRef, prompts: Sequence[Prompt]) -> tuple[Answer | messages.Refused, ...]:
        if not prompts:
            return ()
        self._check_base(base)
        report = self._queue.call(messages.Generate(base, tuple(prompts)))
        assert isinstance(report, messages.Answers)  # noqa: S101 - the engine answers a Generate with nothing else
        return report.answers

    def losses(
        self, model: BaseModelRef | TunedModel, rows: Sequence[Example], examples: Sequence[Example] = ()
    ) -> list[float]:
        """Measure the loss of expected outputs between two steps of training; see the Protocol.

        Raises:
            InputError: the tuned model, the base model or a package is missing, or a row is too long.
            BackendError: the engine failed, or the backend was closed.
        """
        found = self._measure(model, [(row.input, (row.output,)) for row in rows], examples)
        # An empty output of a base model without an end token has no token to learn.
        return [likelihood.nats / max(likelihood.tokens, 1) for (likelihood,) in found]

    def choose(
        self,
        model: BaseModelRef | TunedModel,
        inputs: Sequence[Input],
        choices: Sequence[str],
        examples: Sequence[Example] = (),
    ) -> list[str]:
        """Answer each input with the likeliest of some choices, between two steps of training; see the Protocol.

        Raises:
            InputError: as `losses`; or there are no choices.
            BackendError: the engine failed, or the backend was closed.
        """
        if not choices:
            raise InputError("there are no choices to answer with; give one at least")
        found = self._measure(model, [(asked, tuple(choices)) for asked in inputs], examples)
        return [choices[min(range(len(choices)), key=lambda number: row[number].nats)] for row in found]

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
        report = self._queue.call(messages.Measure(base, tuple(rows), adapter, tuple(examples)))
        assert isinstance(report, messages.Measured)  # noqa: S101 - the engine answers a Measure with nothing else
        return report.likelihoods

    def answer(
        self,
        model: BaseModelRef | TunedModel,
        inputs: Sequence[Input],
        options: GenerateOptions,
        on_text: Callable[[str], None] | None = None,
        examples: Sequence[Example] = (),
    ) -> list[Answer]:
        """Answer inputs between two steps of training, and say how each answer ended.

        Args:
            examples: earlier turns before every input's own.
            on_text: given each further part of the answer as it comes, from another thread; for one input alone.

        Raises:
            InputError: the tuned model, the base model or a package is missing, or an input is too long.
            BackendError: the engine failed, or the backend was closed.
        """
        if not inputs:
            return []
        base, adapter = _base_and_adapter(model)
        prompts = [prompt_of(asked, options, adapter, examples) for asked in inputs]
        on_part = None if on_text is None else lambda _position, part: on_text(part.text)
        self._check_base(base)
        command = messages.Generate(base, tuple(prompts), on_part is not None, all_or_none=True)
        report = self._queue.call(command, on_part)
        assert isinstance(report, messages.Answers)  # noqa: S101 - the engine answers a Generate with nothing else
        return [answer for answer in report.answers if isinstance(answer, Answer)]

    def ask(
        self, model: BaseModelRef, prompts: Sequence[Prompt], on_parts: Sequence[OnPart | None]
    ) -> list[Future[Answer]]:
        """Have prompts to a base model and its tuned models answered between two steps; all are queued at once.

        Prompts that wait are answered together, each as alone; one whose engine dies is tried once more, unless a part
        of its answer has been passed on.

        Args:
            model: the base model.
            on_parts: of each prompt; given each further part of its answer as it comes, from another thread.

        Returns:
            For each prompt its answer; or why there is none: an InputError (its tuned model is missing or belongs to
            another base model, it is too long, the base model or a package is missing) or a BackendError (the engine
            failed).

        Raises:
            BackendError: the backend was closed.
        """
        pairs = zip(prompts, on_parts, strict=True)
        asked = [Asked(model, prompt, self._check_base, on_part) for prompt, on_part in pairs]
        self._queue.ask(asked)
        return [each.answer for each in asked]

    def leave(self, answer: Future[Answer]) -> None:
        """Take a prompt back: one that waits is not answered, one that is being answered ends at the next token."""
        self._queue.leave(answer)

    def refuse_waiting(self, error: Exception) -> None:
        """End every prompt that waits with an error; what is being answered is answered."""
        self._queue.withdraw(error)

    def _check_base(self, model: BaseModelRef) -> None:
        self._require_packages()
        found = base_model.find(model, self._cache)
        prepared = self._identities.get(model, found.identity)
        if found.identity != prepared:
            raise BaseModelError(
                f"the base model {model.name!r} ({found.origin}) was replaced since it was prepared: it was "
                f"{prepared}, it is {found.identity} now; restore it, or start the command again"
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
    """Return the texts of answers; or of those that there are not, why the first is not."""
    for number, answer in enumerate(answers, 1):
        if isinstance(answer, messages.Refused):
            error = raised(answer)
            return InputError(f"input {number} of {len(answers)} cannot be answered: {error}")
    return [answer.text for answer in answers if isinstance(answer, Answer)]


_CONFORMS: type[Backend] = LocalBackend
_ANSWERS_TOGETHER: type[AnswersTogether] = LocalBackend
