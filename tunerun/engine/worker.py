"""The engine's own process: reads commands from stdin, follows them one by one, writes reports to stdout.

It ends when its stdin closes, so it cannot outlive the process that started it, however that one dies.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import sys
import threading
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from tunerun.engine import base_model, messages, tuned_model
from tunerun.engine.failures import failure_of
from tunerun.engine.settings import EngineSettings
from tunerun.errors import InputError
from tunerun.job import BaseModelRef, Checkpoint, EpochLoss, JobState, Snapshot, TrainedOn, TuningRequest

if TYPE_CHECKING:
    from tunerun.engine.lora import LearningAdapter
    from tunerun.engine.training_run import Trained

OOM_SCORE = "500"
"""Linux' kernel shall end the engine before the runner; the range is -1000 to 1000 (proc(5))."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the engine until stdin closes."""
    parser = argparse.ArgumentParser(prog="python -m tunerun.engine", description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="the cache directory")
    parser.add_argument("--settings", default="{}", help="EngineSettings as JSON; what is missing has its default")
    parser.add_argument("--number", type=int, default=0, help="which of the engines side by side it is, from 0")
    options = parser.parse_args(arguments)
    with contextlib.suppress(OSError):  # another system, or not allowed: then it is as likely to be ended as any
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE, encoding="ascii")
    commands, reports = _own_streams()
    Worker(commands, reports, options.cache, EngineSettings.from_json(options.settings), options.number).run()


def _own_streams() -> tuple[BinaryIO, BinaryIO]:
    """Take stdin and stdout for the protocol; whatever a library prints goes to stderr, the log."""
    commands = os.fdopen(os.dup(0), "rb")
    reports = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    sys.stdout.flush()
    os.dup2(2, 1)
    return commands, reports


class Worker:
    """Follows commands; holds one base model in memory."""

    def __init__(
        self,
        commands: BinaryIO,
        reports: BinaryIO,
        cache: Path,
        settings: EngineSettings,
        number: int = 0,
    ) -> None:
        self._commands = commands
        self._reports = reports
        self._cache = cache
        self._settings = settings
        self._number = number
        self._queue: queue.Queue[messages.Call | messages.Train] = queue.Queue()
        self._cancelled: set[str] = set()
        self._paused: set[str] = set()  # of the cancelled ones, those that will be continued
        self._generation: Any = None  # a generation.Generation, heavy
        self._base: Any = None  # a network.LoadedModel, heavy

    def run(self) -> None:
        """Follow commands until stdin closes; then the process ends at once, in the middle of whatever it does."""
        threading.Thread(target=self._read, name="commands", daemon=True).start()
        while True:
            command = self._queue.get()
            self._report(messages.Started())
            try:
                self._report(self._follow(command))
            except InputError as error:
                self._report(_refused(error))
            except Exception as error:  # noqa: BLE001 - isolates a command; the report carries the traceback
                self._forget()
                failure = failure_of(error)
                self._report(messages.Refused(None, (failure.message,), traceback.format_exc()))

    def _read(self) -> None:
        try:
            for line in self._commands:
                command = messages.read_command(line)
                if isinstance(command, messages.Cancel):
                    self._cancelled.add(command.job)
                else:
                    self._queue.put(command)
        except ValueError:
            traceback.print_exc()
            os._exit(1)
        # What is half written is a `.partial` folder that the next writer removes.
        os._exit(0)

    def _report(self, report: messages.Report) -> None:
        try:
            self._reports.write(messages.report_line(report))
            self._reports.flush()
        except BrokenPipeError:  # nobody listens any more
            os._exit(0)

    def _follow(self, command: messages.Call | messages.Train) -> messages.Report:
        if isinstance(command, messages.Prepare):
            base_model.prepare(command.model, self._cache)
            return messages.Done()
        if isinstance(command, messages.Generate):
            return self._answer(command)
        if isinstance(command, messages.Measure):
            return self._measure(command)
        self._train(command)
        return messages.Done()

    def _answer(self, command: messages.Generate) -> messages.Answers:
        self._load(command.model)
        ids = {command.id, *(command.answer_id(position) for position in range(len(command.prompts)))}
        answers = self._generation.answer(
            command.prompts,
            (lambda position, part: self._report(messages.Piece(position, part))) if command.stream else None,
            lambda position: not self._cancelled.isdisjoint((command.id, command.answer_id(position))),
            all_or_none=command.all_or_none,
        )
        self._cancelled -= ids
        return messages.Answers(
            tuple(_refused(answer) if isinstance(answer, InputError) else answer for answer in answers)
        )

    def _measure(self, command: messages.Measure) -> messages.Measured:
        self._load(command.model)
        adapter = None if command.adapter is None else Path(command.adapter)
        found = self._generation.measure(command.rows, adapter, command.examples)
        return messages.Measured(tuple(map(tuple, found)))

    def _train(self, command: messages.Train) -> None:
        from tunerun.engine import training

        try:
            self._load(command.pack[0].request.model)
            for packed in command.pack:
                self._base.check_planned(packed.request)
        except Exception as error:  # noqa: BLE001 - isolates a pack; the failure carries the traceback
            self._forget()
            for packed in command.pack:
                self._report(messages.JobEnded(packed.job, JobState.FAILED, failure=failure_of(error)))
            return
        observer = _Reporting(self, command, self._base)
        requests = [packed.request for packed in command.pack]
        jobs = {packed.request.key: packed.job for packed in command.pack}
        for outcome in training.train(
            requests,
            self._base,
            observer,
            most=command.most,
            keep_cancelled=command.keep_cancelled,
            states=Path(command.tuned_models),
        ):
            if outcome.failure is not None and outcome.failure.traceback is not None:
                self._forget()  # after an unforeseen exception nobody knows what state the network is in
            trained_on = observer.trained_on(outcome.trained) if outcome.trained is not None else observer.machine
            self._report(
                messages.JobEnded(
                    jobs[outcome.request.key], outcome.state, outcome.metrics, outcome.failure, trained_on
                )
            )

    def _load(self, model: BaseModelRef) -> None:
        """Have a base model in memory; another one makes room for it."""
        from tunerun.engine import generation, network

        found = base_model.find(model, self._cache)
        if self._base is not None and self._base.identity == found.identity:
            return
        self._forget()
        import torch

        if self._settings.threads is not None:
            torch.set_num_threads(self._settings.threads)
        device = network.choose_device(self._settings.device, self._number)
        self._base = network.load(model, self._cache, device, self._settings)
        self._generation = generation.Generation(self._base)

    def _forget(self) -> None:
        self._base = self._generation = None


def _refused(error: InputError) -> messages.Refused:
    return messages.Refused(type(error).__name__, error.problems)


class _Reporting:
    """Training's observer: tells the other process, and stores tuned models."""

    def __init__(self, worker: Worker, command: messages.Train, base: Any) -> None:
        from tunerun.engine import machine

        self._worker = worker
        self._base = base
        self._folder = Path(command.tuned_models)
        self._jobs = {packed.request.key: packed.job for packed in command.pack}
        self._checkpoints: dict[str, list[Checkpoint]] = {}
        self.machine = machine.trained_on(base.device, base.number_format)

    def trained_on(self, trained: Trained) -> TrainedOn:
        """Return what trained a job, and how."""
        return replace(
            self.machine, form=trained.form, training_run=trained.training_run, packed_with=trained.packed_with
        )

    def began(self, requests: Sequence[TuningRequest]) -> None:
        pass

    def snapshot(self, request: TuningRequest, snapshot: Snapshot) -> None:
        self._worker._report(messages.SnapshotTaken(self._jobs[request.key], snapshot))

    def validated(self, request: TuningRequest, loss: EpochLoss) -> None:
        self._worker._report(messages.EpochMeasured(self._jobs[request.key], loss))

    def kept(self, request: TuningRequest, trained: Trained) -> None:
        step = trained.snapshots[-1]
        folder = tuned_model.epochs_folder(self._folder / request.tuned_model_id) / str(step.epoch)
        # A job of so many epochs would have the same adapter to the bit, so this is what the record says.
        settings = replace(request.hyperparameters, epoch_count=step.epoch)
        finished = tuned_model.FinishedJob("", trained.snapshots, validation=trained.validation)
        self._write(folder, replace(request, hyperparameters=settings), trained.adapter, finished)
        self._note_kept(request, Checkpoint(step.epoch, step.step, str(folder)))

    def kept_before(self, request: TuningRequest, ends: Sequence[Snapshot]) -> None:
        folder = tuned_model.epochs_folder(self._folder / request.tuned_model_id)
        for step in ends:
            self._note_kept(request, Checkpoint(step.epoch, step.step, str(folder / str(step.epoch))))

    def is_paused(self, request: TuningRequest) -> bool:
        return self._jobs[request.key] in self._worker._paused

    def is_cancelled(self, request: TuningRequest) -> bool:
        return self._jobs[request.key] in self._worker._cancelled

    def trained(self, request: TuningRequest, trained: Trained) -> None:
        folder = self._folder / request.tuned_model_id
        end = trained.snapshots[-1]
        last = Checkpoint(end.epoch, end.step, str(folder))
        is_kept = request.keeps_epochs and trained.state is JobState.SUCCEEDED
        finished = tuned_model.FinishedJob(
            self._jobs[request.key],
            trained.snapshots,
            trained.metrics,
            trained.state,
            trained.validation,
            self.trained_on(trained),
            (*self._checkpoints.get(request.key, ()), *([last] if is_kept else [])),
        )
        self._write(folder, request, trained.adapter, finished)
        if is_kept:
            self._note_kept(request, last)

    def _write(
        self, folder: Path, request: TuningRequest, adapter: LearningAdapter, finished: tuned_model.FinishedJob
    ) -> None:
        from tunerun.engine.layers import without_adapter

        left_alone = without_adapter(self._base.network, adapter.matrices)
        record = tuned_model.record_of(request, self._base.identity, self._base.chat, left_alone, self._base.turns)
        tuned_model.write(folder, record, finished, lambda partial: adapter.save(self._base.public_name, partial))

    def _note_kept(self, request: TuningRequest, checkpoint: Checkpoint) -> None:
        self._checkpoints.setdefault(request.key, []).append(checkpoint)
        self._worker._report(messages.EpochKept(self._jobs[request.key], checkpoint))
