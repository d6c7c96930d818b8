"""The state of the engine's process: base models in memory and the pack in training, and the execution of commands."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tunerun.engine import base_model, messages, prepared_model
from tunerun.engine.failures import failure_of
from tunerun.engine.pack_session import PackSession, isolated
from tunerun.engine.settings import EngineSettings
from tunerun.errors import InputError
from tunerun.job import BaseModelRef, JobState

if TYPE_CHECKING:
    from tunerun.engine.generation import Generation


class Session:
    """Executes commands with one base model in memory, or two while a call needs another one than the pack's.

    Everything but `cancel` has to be called from one thread.

    Args:
        report: sends a report to the parent process.
        cache: the cache directory of base models.
        settings: of the engine.
        number: the engine's number among those of this machine, from 0.
    """

    def __init__(
        self,
        report: Callable[[messages.Report], None],
        cache: Path,
        settings: EngineSettings,
        number: int = 0,
    ) -> None:
        self._report = report
        self._cache = cache
        self._settings = settings
        self._number = number
        self._cancelled: set[str] = set()
        self._paused: set[str] = set()  # a subset of `_cancelled`
        self._loaded: dict[str, Generation] = {}  # by the base model's identity
        self._training: PackSession | None = None

    def cancel(self, command: messages.Cancel) -> None:
        """Cancel a job before its next step or the next pass of a call, or answers at the next token.

        May be called from any thread.

        Args:
            command: its `job` is a job's id, or the id of answers.
        """
        if command.pauses:  # first: `_cancelled` is what the training thread looks at
            self._paused.add(command.job)
        self._cancelled.add(command.job)

    # Calls

    def execute(self, command: messages.Call) -> None:
        """Execute a command whose caller waits, and report its result or its error."""
        self._report(messages.Started())

        def failed(error: Exception) -> None:
            if isinstance(error, InputError):
                self._report(_refused(error))
            else:
                self._forget()
                self._report(messages.Refused(None, (failure_of(error).message,), traceback.format_exc()))

        with isolated(failed):
            if isinstance(command, messages.Prepare):
                prepared_model.prepare(command.model, self._cache)
                self._report(messages.Done())
                return
            generation = self._load(command.model)
            if isinstance(command, messages.Generate):
                self._report(self._generate(generation, command))
            else:
                adapter = None if command.adapter is None else Path(command.adapter)
                losses = generation.measure(command.rows, adapter, command.examples, self._end_cancelled)
                self._report(messages.Measured(tuple(map(tuple, losses))))

    def _generate(self, generation: Generation, command: messages.Generate) -> messages.Answers:
        ids = {command.id, *(command.answer_id(position) for position in range(len(command.prompts)))}
        answers = generation.answer(
            command.prompts,
            (lambda position, part: self._report(messages.Piece(position, part))) if command.stream else None,
            lambda position: not self._cancelled.isdisjoint((command.id, command.answer_id(position))),
            (lambda position, answer: self._report(messages.Answered(position, answer)))
            if command.one_by_one
            else None,
            all_or_none=command.all_or_none,
            between_passes=self._end_cancelled,
        )
        self._cancelled -= ids
        return messages.Answers(
            tuple(_refused(answer) if isinstance(answer, InputError) else answer for answer in answers)
        )

    # Base models

    def _load(self, model: BaseModelRef) -> Generation:
        """Return a base model's generation. To load the model, all others but the pack's are dropped first."""
        from tunerun.engine import network
        from tunerun.engine.generation import Generation

        identity = base_model.find(model, self._cache).identity
        if identity not in self._loaded:
            self._forget()  # before loading, because two large models may not fit into memory
            import torch

            if self._settings.threads is not None:
                torch.set_num_threads(self._settings.threads)
            device = network.choose_device(self._settings.device, self._number)
            base = network.load(model, self._cache, device, self._settings)
            self._loaded[identity] = Generation(base)
        return self._loaded[identity]

    def _forget(self) -> None:
        """Drop all base models except the pack's from memory."""
        kept = None if self._training is None else self._training.base
        self._loaded = {identity: model for identity, model in self._loaded.items() if model.base is kept}

    # The pack

    @property
    def is_training(self) -> bool:
        """Whether a pack is in training."""
        return self._training is not None

    def train(self, command: messages.Train) -> None:
        """Add jobs to the pack, or start one; jobs of another base model than the pack's are reported as failed."""

        def failed(error: Exception) -> None:
            self._forget()
            for packed in command.pack:
                self._report(messages.JobEnded(packed.job, JobState.FAILED, failure=failure_of(error)))

        training: PackSession | None = None
        with isolated(failed):
            base = self._load(command.pack[0].request.model).base
            if self._training is None:
                from tunerun.engine import pack

                most = pack.most_members(base, command.pack[0].request)
                most = most if command.most is None else min(most, command.most)
                self._training = PackSession(base, command, most, self._report, self._cancelled, self._paused)
            elif self._training.base is not base:
                raise InputError("a pack has one base model; jobs of another one wait for its end")
            training = self._training
        if training is not None:
            training.add(command.pack)
            self._end_if_empty()

    def step(self) -> None:
        """Take one step of the pack and report its results; does nothing without a pack."""
        if self._training is not None:
            self._training.step()
            self._end_if_empty()

    def _end_cancelled(self) -> None:
        """End the pack's cancelled jobs while a call is executed: the next step comes only after the call's end."""
        if self._training is not None and self._cancelled:
            self._training.end_cancelled()
            self._end_if_empty()

    def _end_if_empty(self) -> None:
        training = self._training
        if training is not None and training.is_over:
            self._training = None
            if training.is_suspect:  # the error may have left hooks or damaged state on the base model
                self._loaded.clear()


def _refused(error: InputError) -> messages.Refused:
    return messages.Refused(type(error).__name__, error.problems)
