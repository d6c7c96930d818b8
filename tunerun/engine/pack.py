"""A pack: training runs of one base model that share each pass of its frozen weights. `Pack.step` is the training loop.

A run that fails, diverges or is cancelled leaves the pack without affecting the others: each run has its own adapter,
its own optimiser and its own index in the batch dimension, and no operation mixes values across that dimension.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

from tunerun.engine import forms, machine, memory, model_shape, pass_limits
from tunerun.engine.encoding import encode_examples
from tunerun.engine.failures import CancelledJobError, failure_of
from tunerun.engine.memory import Workload
from tunerun.engine.network import LoadedModel
from tunerun.engine.observer import Observer, TrainingOutcome
from tunerun.engine.passes import Passes, Share
from tunerun.engine.training_run import TrainingRun
from tunerun.job import JobState, TuningRequest, in_common


class Pack:
    """Requests to tune one base model, trained together one step at a time. Not thread-safe.

    Args:
        base: the base model; no adapter is attached to it between two steps.
        observer: receives progress; called from the thread that calls `step`.
        most: the largest number of training runs that train at the same time.
        keep_cancelled: whether to keep the adapter of a request that is cancelled after its first step.
        states: the folder of the tuned models, where runs save the state from which another process can resume; None:
            save nothing, so another process starts them from the beginning.
    """

    def __init__(
        self,
        base: LoadedModel,
        observer: Observer,
        *,
        most: int = 1,
        keep_cancelled: bool = False,
        states: Path | None = None,
    ) -> None:
        self._base = base
        self._observer = observer
        self._most = most
        self._states = states
        self._passes = Passes(base, most)
        self._keep_cancelled = keep_cancelled
        self._runs: list[TrainingRun] = []
        self._waiting: list[TuningRequest] = []

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left to train."""
        return not self._runs and not self._waiting

    def add(self, requests: Sequence[TuningRequest]) -> None:
        """Queue requests; one that an active training run can also serve joins that run at once.

        Args:
            requests: to tune the pack's base model.
        """
        for request in requests:
            run = next((run for run in self._runs if run.takes(request)), None)
            if run is None:
                self._waiting.append(request)
            else:
                self._observer.began([*run.requests, request])
                run.add(request)

    def step(self) -> Iterator[TrainingOutcome]:
        """Take one optimiser step of every run, and end the epochs that are complete with it.

        Yields:
            The requests that end before or with this step: succeeded, failed or cancelled. Errors of one run are
            outcomes too; they are not raised.
        """
        yield from self.leave_cancelled()
        yield from self._start_waiting()

        # Forward, loss, backward: `Passes` leaves the gradient of each run's mean loss in the run's own adapter. A run
        # may leave while the others are computed, so numbers index this copy of the list.
        runs = list(self._runs)
        shares = [run.next_share() for run in runs]
        for number, computed in self._passes.compute(shares, learns=True):
            run = runs[number]
            if isinstance(computed, Exception):
                yield from self._end_run(run, computed)
                continue
            # Clipping, AdamW's step, the snapshot.
            try:
                run.take_step(shares[number], computed, [runs[other] for other in computed.together])
            except Exception as error:  # noqa: BLE001 - isolates a trial; the failure carries the traceback
                yield from self._end_run(run, error)

        # Validation, then checkpoints, the tuned models of requests that end, and the state to resume from.
        ended = [run for run in runs if run.requests and run.has_ended_epoch]
        nats = yield from self._validate(ended)
        for run in [run for run in ended if run.requests]:
            yield from self._isolated(run, run.end_epoch(nats[run]))
        self._runs = [run for run in self._runs if run.requests]

    def leave_cancelled(self) -> Iterator[TrainingOutcome]:
        """Yield the requests that were cancelled and stop training them, without taking a step."""
        for request in [one for one in self._waiting if self._observer.is_cancelled(one)]:
            self._waiting.remove(request)
            yield TrainingOutcome(request, JobState.CANCELLED)
        for run in self._runs:
            yield from self._isolated(run, run.leave_cancelled(keep=self._keep_cancelled))
        self._runs = [run for run in self._runs if run.requests]

    def _start_waiting(self) -> Iterator[TrainingOutcome]:
        """Start training runs while there is room; yield the requests whose run cannot start."""
        # Some architectures mix rows of a batch, so only one adapter at a time is right for them.
        most = self._most if forms.choose(self._base).takes_packs else 1
        while self._waiting and len(self._runs) < most:
            served = _served_with(self._waiting[0])
            requests = [request for request in self._waiting if _served_with(request) == served]
            self._waiting = [request for request in self._waiting if request not in requests]
            self._observer.began(requests)
            # Not `_isolated`: the run does not exist yet. Encoding its examples or reading its saved state may fail.
            try:
                self._runs.append(TrainingRun(requests, self._base, self._observer, self._states))
            except Exception as error:  # noqa: BLE001 - isolates a trial; the failure carries the traceback
                yield from _outcomes(requests, error)

    def _validate(
        self, runs: Sequence[TrainingRun]
    ) -> Generator[TrainingOutcome, None, Mapping[TrainingRun, dict[int, float]]]:
        """Compute the validation losses of runs that finished an epoch, in shared passes.

        Yields:
            The requests that end meanwhile.

        Returns:
            For each run the argument of its `end_epoch`.
        """
        # A run measures one adapter for each `average_last` among its requests; all of them share passes here.
        adapters = [(run, *one) for run in runs for one in run.adapters_to_validate().items()]
        nats: dict[TrainingRun, dict[int, float]] = {run: {} for run in runs}
        for batches in zip_longest(*(run.validation_batches() for run, _epochs, _adapter in adapters)):
            now = [
                (*one, rows)
                for one, rows in zip(adapters, batches, strict=True)
                if rows is not None and one[0].requests
            ]
            # Checked before each pass: a large validation set takes much longer than a step.
            for run in {run for run, *_rest in now if not run.is_wanted}:
                yield from self._end_run(run, CancelledJobError())
            now = [one for one in now if one[0].requests]
            shares = [Share(adapter, rows) for _run, _epochs, adapter, rows in now]
            for number, computed in self._passes.compute(shares, learns=False):
                run, epochs = now[number][:2]
                if isinstance(computed, Exception):
                    yield from self._end_run(run, computed)
                else:
                    nats[run][epochs] = nats[run].get(epochs, 0.0) + computed.nats
        return nats

    def _isolated(self, run: TrainingRun, ended: Iterator[TrainingOutcome]) -> Iterator[TrainingOutcome]:
        """Yield the outcomes of one run's work; if it raises, end all requests of that run only."""
        try:
            yield from ended
        # Any error: one trial's, for instance from a library that its hyperparameters reach, must not end the others.
        except Exception as error:  # noqa: BLE001 - isolates a trial; the failure carries the traceback
            yield from self._end_run(run, error)

    def _end_run(self, run: TrainingRun, error: Exception) -> Iterator[TrainingOutcome]:
        """End every request of a run that cannot continue."""
        return _outcomes(run.drop(is_cancelled=isinstance(error, CancelledJobError)), error)


def _outcomes(requests: Sequence[TuningRequest], error: Exception) -> Iterator[TrainingOutcome]:
    for request in requests:
        if isinstance(error, CancelledJobError):
            yield TrainingOutcome(request, JobState.CANCELLED)
        else:
            yield TrainingOutcome(request, JobState.FAILED, failure=failure_of(error))


def _served_with(request: TuningRequest) -> tuple[TuningRequest, bool]:
    """Return a key that is equal for requests that can start as one training run.

    `keeps_best` without validation examples is an error. Such requests get a run of their own, so that only they fail.
    """
    return in_common(request), request.hyperparameters.keeps_best and not request.validation


def most_members(base: LoadedModel, request: TuningRequest) -> int:
    """Return how many training runs like that of a request can share a pass, at least one.

    With `packing: auto` as many as fit into memory, otherwise the configured number.

    Args:
        base: the base model, on its device and with its settings.
        request: a typical request; memory is estimated for a batch of its longest examples.
    """
    device, packing = base.device.type, base.settings.packing
    most = pass_limits.most_members(packing, device)
    shape = model_shape.of_config(base.network.config.to_dict())
    available = machine.obtainable_bytes(base.device, base.settings.engines)
    if packing != "auto" or shape is None or available is None or not request.training:
        return most
    rows = min(request.hyperparameters.batch_size, base.settings.micro_batch or request.hyperparameters.batch_size)
    # Longest by characters: tokenising all examples twice would take as long as an epoch of a small model.
    longest = sorted(request.training, key=lambda example: len(example.text_input) + len(example.output))[-rows:]
    encoded = encode_examples(base.tokenizer, base.chat, longest, base.turns)
    workload = Workload(
        number_format=base.number_format,
        is_quantised=base.settings.is_quantised,
        device=device,
        adapter_rank=request.hyperparameters.adapter_rank,
        rows=rows,
        tokens=max(map(len, encoded)),
        learned=max(example.learned for example in encoded),
        gradient_checkpointing=base.settings.gradient_checkpointing,
    )
    return max(1, memory.members_that_fit(shape, workload, available, most))
