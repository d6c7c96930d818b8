"""Calls of an engine: commands whose caller waits, and prompts, which are answered together."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from tunerun import errors
from tunerun.engine import messages
from tunerun.errors import BackendError, BaseModelError, InputError, UnavailableError
from tunerun.job import Answer, AnswerPart, BaseModelRef, Failure, FailureKind, Prompt

OnPart = Callable[[AnswerPart], None]


class Work(Protocol):
    """A call on its way to the engine and back. Its methods are called under the queue's lock, but for `command`."""

    @property
    def model(self) -> BaseModelRef:
        """The base model that it needs."""

    def command(self) -> messages.Call:
        """The command for the engine.

        Raises:
            InputError: it cannot be done.
        """

    def take(self, report: messages.Report) -> bool:
        """Note a report of the engine; whether the call is done."""

    def settle(self, failure: Failure) -> None:
        """End: the engine will not do it."""

    def refuse(self, error: errors.TunerunError) -> None:
        """End, because it cannot be begun."""


@dataclass(eq=False)
class Call:
    """A command whose caller waits for it."""

    asked: messages.Call
    on_part: Callable[[int, AnswerPart], None] | None = None
    answer: Future[messages.Report] = field(default_factory=Future)

    @property
    def model(self) -> BaseModelRef:
        """The base model that it needs."""
        return self.asked.model

    def command(self) -> messages.Call:
        """The command."""
        return self.asked

    def take(self, report: messages.Report) -> bool:
        """The caller has its answer with the last report, and parts of it before."""
        if isinstance(report, messages.Refused):
            self.answer.set_exception(raised(report))
        elif isinstance(report, messages.Answers | messages.Measured | messages.Done):
            self.answer.set_result(report)
        elif isinstance(report, messages.Piece) and self.on_part is not None:
            self.on_part(report.position, report.part)
        return self.answer.done()

    def settle(self, failure: Failure) -> None:
        """The caller has an error."""
        self.refuse(call_error(self.asked, failure))

    def refuse(self, error: errors.TunerunError) -> None:
        """The caller has an error."""
        if not self.answer.done():
            self.answer.set_exception(error)


@dataclass(eq=False)
class Asked:
    """A prompt on its way to its answer.

    Attributes:
        check: whether its base model can still be asked; may take a while.
        is_begun: whether a part of the answer has been passed on.
        is_alone: whether it is answered without others, because an engine has died with it.
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
        """Whether its caller still waits; called when its turn has come, from when on it cannot be cancelled."""
        return not self.answer.done() and (self.answer.running() or self.answer.set_running_or_notify_cancel())

    def joins(self, first: Asked) -> bool:
        """Whether it may be answered together with a prompt before it.

        What comes next waits for the batch's longest answer, so none joins that may be longer than the first.
        """
        is_apart = self.is_alone or first.is_alone or self.model != first.model
        return not is_apart and self.prompt.options.max_output_tokens <= first.prompt.options.max_output_tokens


class Batch:
    """Prompts that are answered together: what each is answered does not depend on the others."""

    def __init__(self, asked: Sequence[Asked], put_back: Callable[[Sequence[Asked]], None]) -> None:
        self.asked = asked
        self._put_back = put_back
        self.generate = messages.Generate(
            asked[0].model,
            tuple(each.prompt for each in asked),
            stream=any(each.on_part is not None for each in asked),
            one_by_one=len(asked) > 1,
            id=uuid.uuid4().hex,
        )

    @property
    def model(self) -> BaseModelRef:
        """The base model of all prompts."""
        return self.asked[0].model

    def command(self) -> messages.Call:
        """All prompts at once, where their base model is what it was."""
        self.asked[0].check(self.asked[0].model)
        return self.generate

    def take(self, report: messages.Report) -> bool:
        """Each caller gets its answer once it is whole, and parts of it before; the last report has what is left."""
        if isinstance(report, messages.Piece):
            each = self.asked[report.position]
            if each.on_part is not None:
                each.is_begun = True
                each.on_part(report.part)
        elif isinstance(report, messages.Answered):
            self.asked[report.position].answer.set_result(report.answer)
        elif isinstance(report, messages.Answers):
            for each, answer in zip(self.asked, report.answers, strict=True):
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
        """Each prompt is tried alone, because one may have ended the engine; but not what is sent in part already."""
        self._fail(call_error(self.generate, failure))

    def refuse(self, error: errors.TunerunError) -> None:
        """Every caller has an error."""
        for each in self.asked:
            if not each.answer.done():
                each.answer.set_exception(error)

    def _fail(self, error: errors.TunerunError) -> None:
        waiting = [each for each in self.asked if not each.answer.done()]
        again = [each for each in waiting if len(self.asked) > 1 and not each.is_begun]
        for each in waiting:
            if each in again:
                each.is_alone = True
            else:
                each.answer.set_exception(error)
        self._put_back(again)


def call_error(command: messages.Call, failure: Failure) -> errors.TunerunError:
    """Return the error for a caller whose engine died.

    A base model that fits no memory is for the user to change; a call that was lost with its machine may be repeated.
    """
    if isinstance(command, messages.Prepare) and failure.kind is FailureKind.OUT_OF_MEMORY:
        return BaseModelError(
            f"the base model {command.model.name!r} does not fit this machine's memory: the engine's process was "
            "killed while it converted the weights to float32 (4 bytes a parameter); free memory, or choose a "
            "smaller base model"
        )
    if failure.kind is FailureKind.LOST:
        return UnavailableError(failure.message)
    return BackendError(failure.message)


def raised(report: messages.Refused) -> errors.TunerunError:
    """Return the error that the engine's process raised, as the same class here."""
    kind = getattr(errors, report.error or "", None)
    if isinstance(kind, type) and issubclass(kind, InputError):
        return kind(report.problems)
    return BackendError("; ".join(report.problems) + (f"\n{report.traceback}" if report.traceback else ""))
