"""Work for an engine besides training: commands whose caller blocks, and prompts, which are answered in batches."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from tunerun import errors
from tunerun.engine import messages
from tunerun.errors import BackendError, BaseModelError, InputError, UnavailableError
from tunerun.generation import Answer, AnswerPart, Prompt
from tunerun.job import BaseModelRef, Failure, FailureKind

OnPart = Callable[[AnswerPart], None]


class EngineWork(Protocol):
    """One unit of work for the engine. The queue's lock is held while its methods are called, except `command`."""

    @property
    def model(self) -> BaseModelRef:
        """The base model that the engine has to load for it."""

    def command(self) -> messages.Call:
        """Return the command for the engine.

        Raises:
            InputError: it cannot be executed, for example because the base model was replaced.
        """

    def take(self, report: messages.Report) -> bool:
        """Apply a report of the engine; return whether the work is done."""

    def settle(self, failure: Failure) -> None:
        """Handle the death of the engine that was executing it."""

    def refuse(self, error: errors.TunerunError) -> None:
        """Fail, because it cannot be started."""


@dataclass(eq=False)
class BlockingCall:
    """A command whose caller blocks until its last report."""

    message: messages.Call
    on_part: Callable[[int, AnswerPart], None] | None = None
    answer: Future[messages.Report] = field(default_factory=Future)

    @property
    def model(self) -> BaseModelRef:
        """The base model that it needs."""
        return self.message.model

    def command(self) -> messages.Call:
        """The command."""
        return self.message

    def take(self, report: messages.Report) -> bool:
        """Pass parts of an answer on as they arrive; resolve the caller's future with the last report."""
        if isinstance(report, messages.Refused):
            self.answer.set_exception(raised(report))
        elif isinstance(report, messages.Answers | messages.Measured | messages.Done):
            self.answer.set_result(report)
        elif isinstance(report, messages.Piece) and self.on_part is not None:
            self.on_part(report.position, report.part)
        return self.answer.done()

    def settle(self, failure: Failure) -> None:
        """Fail with the error for the engine's death."""
        self.refuse(call_error(self.message, failure))

    def refuse(self, error: errors.TunerunError) -> None:
        """Fail the caller's future, unless it is done."""
        if not self.answer.done():
            self.answer.set_exception(error)


@dataclass(eq=False)
class QueuedPrompt:
    """A queued prompt and the future of its answer.

    Attributes:
        model: the base model.
        check: raises InputError if the base model was replaced; may take a while.
        on_part: called with each new part of the answer; None: the answer is not streamed.
        is_begun: whether a part of the answer was delivered, so that the prompt cannot be retried.
        is_alone: whether it needs a batch of its own, because an engine died while answering it.
    """

    model: BaseModelRef
    prompt: Prompt
    check: Callable[[BaseModelRef], None]
    on_part: OnPart | None = None
    answer: Future[Answer] = field(default_factory=Future)
    is_begun: bool = False
    is_alone: bool = False

    @property
    def is_wanted(self) -> bool:
        """Whether the caller has not cancelled it. Marks the future as running, after which it cannot be cancelled."""
        return not self.answer.done() and (self.answer.running() or self.answer.set_running_or_notify_cancel())

    def joins(self, first: QueuedPrompt) -> bool:
        """Whether it may share a batch with the prompt that was queued first."""
        # The next batch waits for the longest answer of this one, so a prompt with a higher token limit does not join.
        is_apart = self.is_alone or first.is_alone or self.model != first.model
        return not is_apart and self.prompt.options.max_output_tokens <= first.prompt.options.max_output_tokens


class PromptBatch:
    """Prompts that are answered together; no answer depends on the other prompts of the batch."""

    def __init__(self, prompts: Sequence[QueuedPrompt], put_back: Callable[[Sequence[QueuedPrompt]], None]) -> None:
        self.prompts = prompts
        self._put_back = put_back
        self.generate = messages.Generate(
            prompts[0].model,
            tuple(each.prompt for each in prompts),
            stream=any(each.on_part is not None for each in prompts),
            one_by_one=len(prompts) > 1,
            id=uuid.uuid4().hex,
        )

    @property
    def model(self) -> BaseModelRef:
        """The base model of all prompts."""
        return self.prompts[0].model

    def command(self) -> messages.Call:
        """Return the command for all prompts, after checking that their base model was not replaced."""
        self.prompts[0].check(self.prompts[0].model)
        return self.generate

    def take(self, report: messages.Report) -> bool:
        """Resolve each caller's future when its answer is complete; the last report resolves the remaining ones."""
        if isinstance(report, messages.Piece):
            each = self.prompts[report.position]
            if each.on_part is not None:
                each.is_begun = True
                each.on_part(report.part)
        elif isinstance(report, messages.Answered):
            self.prompts[report.position].answer.set_result(report.answer)
        elif isinstance(report, messages.Answers):
            for each, answer in zip(self.prompts, report.answers, strict=True):
                if each.answer.done():
                    continue
                if isinstance(answer, Answer):
                    each.answer.set_result(answer)
                else:
                    each.answer.set_exception(raised(answer))
        elif isinstance(report, messages.Refused):
            self._fail(raised(report))
        return isinstance(report, messages.Answers | messages.Refused)

    def settle(self, failure: Failure) -> None:
        """Queue each prompt again on its own, since any of them may have killed the engine; fail partly sent ones."""
        self._fail(call_error(self.generate, failure))

    def refuse(self, error: errors.TunerunError) -> None:
        """Fail every prompt of the batch."""
        for each in self.prompts:
            if not each.answer.done():
                each.answer.set_exception(error)

    def _fail(self, error: errors.TunerunError) -> None:
        # A part that was delivered cannot be taken back, and a prompt that was alone is the cause.
        waiting = [each for each in self.prompts if not each.answer.done()]
        again = [each for each in waiting if len(self.prompts) > 1 and not each.is_begun]
        for each in waiting:
            if each in again:
                each.is_alone = True
            else:
                each.answer.set_exception(error)
        self._put_back(again)


def call_error(command: messages.Call, failure: Failure) -> errors.TunerunError:
    """Return the error for a caller whose engine died."""
    # Preparing has no batch that could be smaller: the user has to choose another base model or another machine.
    if isinstance(command, messages.Prepare) and failure.kind is FailureKind.OUT_OF_MEMORY:
        return BaseModelError(
            f"the base model {command.model.name!r} does not fit this machine's memory: the engine's process was "
            "killed while it converted the weights to float32 (4 bytes per parameter); free memory, or choose a "
            "smaller base model"
        )
    if failure.kind is FailureKind.LOST:  # with its machine, so it may be retried on another one
        return UnavailableError(failure.message)
    return BackendError(failure.message)


def raised(report: messages.Refused) -> errors.TunerunError:
    """Return the error that the engine's process raised, as an instance of the same class."""
    kind = getattr(errors, report.error or "", None)
    if isinstance(kind, type) and issubclass(kind, InputError):
        return kind(report.problems)
    return BackendError("; ".join(report.problems) + (f"\n{report.traceback}" if report.traceback else ""))
