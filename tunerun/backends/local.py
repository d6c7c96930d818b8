"""The backend `local`: the embedded engine, in a process of its own on this machine.

One thread per backend talks to the engine: it takes what waits (calls before jobs, jobs in their order), sends it, and
listens until it is done. The engine starts with the first thing to do, and again after it died.
"""

from __future__ import annotations

import re
import threading
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from pydantic import Field

from tunerun import errors, schema
from tunerun.backends.base import NO_CURSORS, Backend, Capabilities
from tunerun.engine import base_model, messages, packages, tuned_model
from tunerun.engine.process import EngineProcess
from tunerun.errors import AccessError, BackendError, BaseModelError, InputError
from tunerun.job import (
    Answer,
    AnswerPart,
    BaseModelRef,
    Checkpoint,
    EpochLoss,
    Example,
    Failure,
    FailureKind,
    GenerateOptions,
    Input,
    JobRef,
    JobState,
    JobStatus,
    Likelihood,
    Prompt,
    Snapshot,
    TrainedOn,
    TunedModel,
    TuningRequest,
    prompt_of,
)

KIND = "local"
IS_HOSTED = False


class LocalSection(schema.Backend):
    """The embedded engine, on this machine."""

    kind: Literal["local"] = Field(description="local")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto: cuda, else mps, else cpu.")
    threads: int | None = Field(
        None,
        ge=1,
        description="CPU threads; null: as many as torch takes by itself.",
        json_schema_extra={"unit": "CPU threads"},
    )


SECTION = LocalSection

_TUNED_MODEL_ID = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")  # as the Gemini API's tunedModelId

_CAPABILITIES = Capabilities(
    kind=KIND,
    address="",
    max_input_characters=None,
    max_output_characters=None,
    source="none: the base model's context length limits an example",
    max_in_flight=1,
    survives_runner=False,
    is_hosted=IS_HOSTED,
    has_prices=False,
    trains_exact_prefixes=True,  # at a constant learning rate, on the same device and threads
    precision="float32",
    measures_epochs=True,
    keeps_best=True,
    measures_losses=True,
    trains_conversations=True,
)


def capabilities(_section: LocalSection) -> Capabilities:
    """What the embedded engine can do, whatever its section says."""
    return _CAPABILITIES


def open_backend(section: LocalSection, runs: Path, cache: Path) -> Backend:
    """Make the backend; its engine starts with the first thing to do."""
    return LocalBackend(runs=runs, cache=cache, device=section.device, threads=section.threads)


_NOT_KNOWN = Failure(
    FailureKind.LOST, "the engine does not know this job: the process that ran it is gone; run the command again"
)
_REFUSED_PAUSE_S = 1.0
"""Between two attempts to start an engine that this machine's limits keep from starting. Our choice."""

_CLOSED = Failure(FailureKind.LOST, "the runner ended while this job was under way; run the command again")


@dataclass
class _Job:
    """A job of this process; changed under the backend's lock only."""

    id: str
    request: TuningRequest
    state: JobState = JobState.QUEUED
    snapshots: list[Snapshot] = field(default_factory=list)
    validation: list[EpochLoss] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    metrics: Mapping[str, float] = field(default_factory=dict)
    failure: Failure | None = None
    trained_on: TrainedOn | None = None
    cancelled: bool = False

    @property
    def ref(self) -> JobRef:
        return JobRef(KIND, self.id)


@dataclass
class _Call:
    """A command whose caller waits for it."""

    command: messages.Call
    on_part: Callable[[int, AnswerPart], None] | None = None
    answer: Future[messages.Report] = field(default_factory=Future)


class LocalBackend:
    """Runs jobs one after another on this machine's embedded engine.

    Args:
        runs: the runs directory; tuned models go to `tuned_models/<id>/`, the engine's log to `logs/engine.log`.
        cache: the cache directory of base models.
        device: `auto` (cuda, else mps, else cpu), `cpu`, `cuda` or `mps`.
        threads: CPU threads; None: as many as torch takes by itself.
        keep_cancelled: whether a job that is cancelled after its first step leaves a tuned model all the same.
    """

    def __init__(
        self,
        runs: Path,
        cache: Path,
        device: str = "auto",
        threads: int | None = None,
        *,
        keep_cancelled: bool = False,
    ) -> None:
        self._tuned_models = runs.absolute() / "tuned_models"
        self._log = runs.absolute() / "logs" / "engine.log"
        self._cache = cache
        self._device = device
        self._threads = threads
        self._keep_cancelled = keep_cancelled
        self._changed = threading.Condition()
        self._identities: dict[BaseModelRef, str] = {}
        self._calls: deque[_Call] = deque()
        self._waiting: deque[_Job] = deque()
        self._jobs: dict[str, _Job] = {}
        self._job_of_key: dict[str, _Job] = {}
        self._current: _Job | _Call | None = None
        self._engine: EngineProcess | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._refusal: str | None = None  # why the engine's process could not be started the last time

    @property
    def engine_process_id(self) -> int | None:
        """The operating system's number of the engine's process; None: it was not started, or has died."""
        engine = self._engine
        return engine.process_id if engine is not None else None

    @property
    def calls_waiting(self) -> int:
        """How many calls wait for the job before them."""
        return len(self._calls)

    def capabilities(self) -> Capabilities:
        """Return the limits; see the Protocol."""
        return _CAPABILITIES

    def prepare(self, models: Sequence[BaseModelRef]) -> None:
        """Find every base model, and convert or fetch those that are not ready.

        Raises:
            MissingPackageError: the extra `local` is not installed.
            BaseModelError: some cannot be found or made ready; holds all problems.
        """
        packages.require(*packages.NEEDED)
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
                self._call(messages.Prepare(model))
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
        if not _TUNED_MODEL_ID.fullmatch(request.tuned_model_id):
            raise InputError(
                f"the tuned model's id {request.tuned_model_id!r} is not allowed; an id has 1 to 40 lower case "
                "letters, digits and dashes, begins with a letter and does not end with a dash; choose another name"
            )
        folder = self._tuned_models / request.tuned_model_id
        with self._changed:
            self._check_open()
            standing = self.find(request.key, request.tuned_model_id)
            if standing is not None:
                return standing
            if folder.exists() and tuned_model.read(folder).key != request.key:
                raise InputError(
                    f"{folder} holds a tuned model of another trial; an id belongs to one trial; "
                    "move that folder away, or choose another name"
                )
            packages.require(*packages.NEEDED)
            base_model.find(request.model, self._cache)
            job = _Job(f"{request.tuned_model_id}.{uuid.uuid4().hex[:12]}", request)
            self._jobs[job.id] = self._job_of_key[request.key] = job
            self._waiting.append(job)
            self._wake()
            return job.ref

    def find(self, key: str, tuned_model_id: str) -> JobRef | None:
        """Return the job of a key, by this process or by the folder that it left; see the Protocol."""
        with self._changed:
            known = self._job_of_key.get(key)
            if known is not None and not known.state.is_finished:
                return known.ref
        folder = self._tuned_models / tuned_model_id
        finished = tuned_model.read_finished(folder)
        if finished is None or finished.state is not JobState.SUCCEEDED or tuned_model.read(folder).key != key:
            return None
        return JobRef(KIND, finished.job)

    def _folder(self, job_id: str) -> Path:
        return self._tuned_models / job_id.partition(".")[0]

    def forget(self, ref: JobRef) -> None:
        """Keep nothing of a finished job: who runs for months has many; its folder still answers for it."""
        with self._changed:
            job = self._jobs.get(ref.id)
            if job is not None and job.state.is_finished:
                del self._jobs[ref.id]
                if self._job_of_key.get(job.request.key) is job:
                    del self._job_of_key[job.request.key]

    def poll(self, refs: Sequence[JobRef], after: Mapping[JobRef, int] = NO_CURSORS) -> Mapping[JobRef, JobStatus]:
        """Return what is new of each job; see the Protocol.

        Raises:
            AccessError: this machine's limits keep the engine from starting.
        """
        with self._changed:
            if self._refusal is not None:
                raise AccessError(self._refusal)
        return {ref: self._status(ref).after(after.get(ref, 0)) for ref in refs}

    def _status(self, ref: JobRef) -> JobStatus:
        with self._changed:
            job = self._jobs.get(ref.id) if ref.backend == KIND else None
            if job is None:
                return self._status_of_folder(ref)
            left = tuned_model.read_finished(self._folder(job.id)) if job.state.is_finished else None
            is_there = left is not None and left.job == job.id
            tuned = self._tuned_model(self._folder(job.id), job.request.model) if is_there else None
            return JobStatus(
                job.state,
                tuple(job.snapshots),
                dict(job.metrics),
                tuned,
                job.failure,
                tuple(job.validation),
                job.trained_on,
                tuple(job.checkpoints),
            )

    def _status_of_folder(self, ref: JobRef) -> JobStatus:
        """Return the status of an earlier process' job: as its tuned model's folder says, else lost."""
        identifier = ref.id.partition(".")[0]
        if ref.backend == KIND and _TUNED_MODEL_ID.fullmatch(identifier):
            folder = self._folder(ref.id)
            finished = tuned_model.read_finished(folder)
            if finished is not None and finished.job == ref.id:
                tuned = self._tuned_model(folder, tuned_model.read(folder).base_model)
                return JobStatus(
                    finished.state,
                    finished.snapshots,
                    finished.metrics,
                    tuned,
                    validation=finished.validation,
                    trained_on=finished.trained_on,
                    checkpoints=finished.checkpoints,
                )
        return JobStatus(JobState.FAILED, failure=_NOT_KNOWN)

    def _tuned_model(self, folder: Path, model: BaseModelRef) -> TunedModel:
        try:
            weights = tuned_model.read(folder).weights
        except errors.NotFoundError:  # removed since; the error comes when it is loaded
            weights = None
        return TunedModel(f"tunedModels/{folder.name}", model, str(folder), weights)

    def cancel(self, ref: JobRef) -> None:
        """Stop a job before its next step; see the Protocol."""
        with self._changed:
            job = self._jobs.get(ref.id) if ref.backend == KIND else None
            if job is None:
                return
            if job.state == JobState.QUEUED:
                self._waiting.remove(job)
                job.state = JobState.CANCELLED
            elif job.state == JobState.RUNNING:
                job.cancelled = True
                if self._engine is not None:
                    self._engine.send(messages.Cancel(job.id))

    def generate(
        self,
        model: BaseModelRef | TunedModel,
        inputs: Sequence[Input],
        options: GenerateOptions,
        examples: Sequence[Example] = (),
    ) -> list[str]:
        """Answer inputs between two jobs; see the Protocol, and `answer`."""
        return [answer.text for answer in self.answer(model, inputs, options, examples=examples)]

    def losses(
        self, model: BaseModelRef | TunedModel, rows: Sequence[Example], examples: Sequence[Example] = ()
    ) -> list[float]:
        """Measure the loss of expected outputs between two jobs; see the Protocol.

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
        """Answer each input with the likeliest of some choices, between two jobs; see the Protocol.

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
        report = self._call(messages.Measure(base, tuple(rows), adapter, tuple(examples)))
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
        """Answer inputs between two jobs, and say how each answer ended.

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
        found = self._answers(base, prompts, on_part, all_or_none=True)
        return [answer for answer in found if isinstance(answer, Answer)]

    def answer_prompts(
        self,
        model: BaseModelRef,
        prompts: Sequence[Prompt],
        on_part: Callable[[int, AnswerPart], None] | None = None,
    ) -> list[Answer | InputError]:
        """Answer prompts to one base model and its tuned models between two jobs, in shared batches.

        Each prompt has its own options and its own tuned model; its answer is the same as alone.

        Args:
            model: the base model of all prompts.
            on_part: given a prompt's position and each further part of its answer as it comes, from another thread.

        Returns:
            For each prompt, in order, its answer, or why it has none: its tuned model is missing or belongs to another
            base model, or it is too long.

        Raises:
            InputError: the base model or a package is missing.
            BackendError: the engine failed, or the backend was closed.
        """
        return self._answers(model, prompts, on_part, all_or_none=False)

    def _answers(
        self,
        model: BaseModelRef,
        prompts: Sequence[Prompt],
        on_part: Callable[[int, AnswerPart], None] | None,
        *,
        all_or_none: bool,
    ) -> list[Answer | InputError]:
        if not prompts:
            return []
        self._check_base(model)
        streams = on_part is not None
        command = messages.Generate(model, tuple(prompts), streams, all_or_none, id=uuid.uuid4().hex)
        report = self._call(command, on_part)
        assert isinstance(report, messages.Answers)  # noqa: S101 - the engine answers a Generate with nothing else
        return [_answer_or_error(answer) for answer in report.answers]

    def _check_base(self, model: BaseModelRef) -> None:
        packages.require(*packages.NEEDED)
        found = base_model.find(model, self._cache)
        prepared = self._identities.get(model, found.identity)
        if found.identity != prepared:
            raise BaseModelError(
                f"the base model {model.name!r} ({found.origin}) was replaced since it was prepared: it was "
                f"{prepared}, it is {found.identity} now; restore it, or start the command again"
            )

    def stop_answering(self, position: int | None = None) -> None:
        """End answers that are being made at their next token, because their callers have left.

        Args:
            position: of the prompt in `answer_prompts`; None: all of them.
        """
        with self._changed:
            command = self._current.command if isinstance(self._current, _Call) else None
            if isinstance(command, messages.Generate) and self._engine is not None:
                ended = command.id if position is None else command.answer_id(position)
                self._engine.send(messages.Cancel(ended))

    def _call(
        self, command: messages.Call, on_part: Callable[[int, AnswerPart], None] | None = None
    ) -> messages.Report:
        call = _Call(command, on_part)
        with self._changed:
            self._check_open()
            self._calls.append(call)
            self._wake()
        return call.answer.result()

    def _check_open(self) -> None:
        if self._closed:
            raise BackendError("the backend `local` was closed; open another one")

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="tunerun-local", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _serve(self) -> None:
        try:
            self._take_turns()
        finally:  # whatever ended this thread, nobody waits for it in vain
            with self._changed:
                self._closed = True
                self._settle_all()

    def _take_turns(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._calls or self._waiting)
                if self._closed:
                    return
                work = self._calls.popleft() if self._calls else self._waiting.popleft()
                if isinstance(work, _Job):
                    work.state = JobState.RUNNING
                self._current = work
            while not self._follow(work):
                pass  # the engine died before it took the work: another one does
            self._current = None

    def _follow(self, work: _Job | _Call) -> bool:
        """Send one piece of work and listen until it is done or the engine is dead.

        Returns:
            Whether the work is settled; not so if an engine that had worked before died without taking it.
        """
        try:
            engine = self._send(work)
        except OSError as error:
            self._put_back(work, error)
            return True
        except ValueError as error:
            with self._changed:
                self._settle(work, _not_sent(error))
            return True
        if engine is None:
            return True
        was_idle, taken = engine.has_reported, False
        while (report := engine.receive()) is not None:
            taken = True
            with self._changed:
                if self._take(work, report):
                    return True
        failure = engine.death()
        with self._changed:
            self._engine = None
            if was_idle and not taken and not self._closed:
                return False
            self._settle(work, _CLOSED if self._closed else failure)
            return True

    def _put_back(self, work: _Job | _Call, error: OSError) -> None:
        """Keep a job for which no process could be started: this machine's limits are not the job's fault."""
        reason = (
            f"the engine's process cannot start: {error.strerror}; raise this machine's limits (ulimit -n for open "
            "files, -u for processes) or free its memory, then run the same command again"
        )
        with self._changed:
            if isinstance(work, _Call):
                work.answer.set_exception(AccessError(reason))
                return
            self._refusal = reason
            work.state = JobState.QUEUED
            self._waiting.appendleft(work)
            self._changed.wait(_REFUSED_PAUSE_S)

    def _send(self, work: _Job | _Call) -> EngineProcess | None:
        """Send work to the engine, started if need be; None: the backend was closed meanwhile."""
        with self._changed:
            if self._closed:
                self._settle(work, _CLOSED)
                return None
            if self._engine is None:
                self._engine = EngineProcess(self._cache, self._device, self._threads, self._log)
                self._refusal = None
            engine = self._engine
        engine.send(self._command(work))
        if isinstance(work, _Job) and work.cancelled:
            engine.send(messages.Cancel(work.id))
        return engine

    def _command(self, work: _Job | _Call) -> messages.Command:
        if isinstance(work, _Call):
            return work.command
        packed = messages.PackedJob(work.id, work.request)
        return messages.Train((packed,), str(self._tuned_models), self._keep_cancelled)

    def _take(self, work: _Job | _Call, report: messages.Report) -> bool:
        """Note a report; return whether the work is done."""
        if isinstance(work, _Job):
            if isinstance(report, messages.SnapshotTaken):
                work.snapshots.append(report.snapshot)
            elif isinstance(report, messages.EpochMeasured):
                work.validation.append(report.loss)
            elif isinstance(report, messages.EpochKept):
                work.checkpoints.append(report.checkpoint)
            elif isinstance(report, messages.JobEnded):
                work.metrics, work.failure, work.state = report.metrics, report.failure, report.state
                work.trained_on = report.trained_on
                # Whoever serves for months has many finished jobs; none needs its examples any more.
                work.request = replace(work.request, training=(), validation=())
            elif isinstance(report, messages.Refused):
                self._settle(work, Failure(FailureKind.CRASHED, "; ".join(report.problems), report.traceback))
        elif isinstance(report, messages.Refused):
            work.answer.set_exception(_raised(report))
        elif isinstance(report, messages.Answers | messages.Measured | messages.Done):
            work.answer.set_result(report)
        elif isinstance(report, messages.Piece) and work.on_part is not None:
            work.on_part(report.position, report.part)
        return isinstance(report, messages.Done | messages.Answers | messages.Measured | messages.Refused)

    def _settle(self, work: _Job | _Call, failure: Failure) -> None:
        """End work that the engine will not end."""
        if isinstance(work, _Call):
            work.answer.set_exception(call_error(work.command, failure))
        elif not work.state.is_finished:
            finished = tuned_model.read_finished(self._folder(work.id))
            if finished is not None and finished.job == work.id:  # it died between the last write and its report
                work.metrics, work.state = finished.metrics, finished.state
                work.trained_on = finished.trained_on
                work.validation, work.checkpoints = list(finished.validation), list(finished.checkpoints)
            else:
                work.failure, work.state = failure, JobState.FAILED

    def _settle_all(self) -> None:
        """End everything that is not, as the engine will end nothing any more."""
        self._waiting.clear()
        for job in self._jobs.values():
            self._settle(job, _CLOSED)
        if isinstance(self._current, _Call) and not self._current.answer.done():
            self._settle(self._current, _CLOSED)
        while self._calls:
            self._settle(self._calls.popleft(), _CLOSED)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._changed:
            self._closed = True
            engine, thread = self._engine, self._thread
            self._changed.notify_all()
        if engine is not None:
            engine.end()
        if thread is not None:
            thread.join()
        if engine is not None:
            engine.death()


def _base_and_adapter(model: BaseModelRef | TunedModel) -> tuple[BaseModelRef, str | None]:
    """Return the base model and the tuned model's folder.

    Raises:
        NotFoundError: the folder holds no tuned model.
    """
    if isinstance(model, BaseModelRef):
        return model, None
    tuned_model.read(Path(model.location))
    return model.model, model.location


def call_error(command: messages.Call, failure: Failure) -> errors.TunerunError:
    """Return what a caller is told whose engine died; a base model that fits no memory is the user's to change."""
    if isinstance(command, messages.Prepare) and failure.kind is FailureKind.OUT_OF_MEMORY:
        return BaseModelError(
            f"the base model {command.model.name!r} does not fit this machine's memory: the engine's process was "
            "killed while it loaded the weights in float32 (4 bytes a parameter); free memory, or choose a "
            "smaller base model"
        )
    return BackendError(failure.message)


def _not_sent(error: ValueError) -> Failure:
    # Half a character (a lone surrogate) cannot be written as JSON.
    return Failure(FailureKind.INVALID, f"a text of the request is no valid Unicode: {error}; mend the dataset's file")


def _raised(report: messages.Refused) -> errors.TunerunError:
    """Return the error that the engine's process raised, as the same class here."""
    kind = getattr(errors, report.error or "", None)
    if isinstance(kind, type) and issubclass(kind, InputError):
        return kind(report.problems)
    return BackendError("; ".join(report.problems) + (f"\n{report.traceback}" if report.traceback else ""))


def _answer_or_error(answer: Answer | messages.Refused) -> Answer | InputError:
    if isinstance(answer, Answer):
        return answer
    error = _raised(answer)
    assert isinstance(error, InputError)  # noqa: S101 - the engine refuses a prompt for nothing else
    return error


_CONFORMS: type[Backend] = LocalBackend
