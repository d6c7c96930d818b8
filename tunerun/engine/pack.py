"""A pack: training runs of one base model that share each pass of its frozen weights.

A run that fails, diverges or is cancelled leaves the pack without affecting the others: each run has its own adapter,
its own optimiser and its own index in the batch dimension, and no operation mixes values across that dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from tunerun.engine import forms
from tunerun.engine.failures import CancelledJobError, failure_of
from tunerun.engine.network import LoadedModel
from tunerun.engine.passes import Computed, Passes, Share
from tunerun.engine.training_run import Observer, TrainingOutcome, TrainingRun
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
        """Take one optimiser step of every run.

        Yields:
            The requests that end before or with this step: succeeded, failed or cancelled. Errors of one run are
            outcomes too; they are not raised.
        """
        yield from self.leave_cancelled()
        yield from self._join()
        runs = list(self._runs)  # the numbers that `compute` yields index this snapshot, also after a run has left
        shares = [run.share for run in runs]
        for number, computed in self._passes.compute(shares, learns=True):
            others = [runs[other] for other in computed.together] if isinstance(computed, Computed) else []
            yield from self._guarded(runs[number], _learned(runs[number], shares[number], computed, others))
        yield from self._end_epochs([run for run in runs if run.requests and run.has_ended_epoch])
        self._runs = [run for run in self._runs if run.requests]

    def leave_cancelled(self) -> Iterator[TrainingOutcome]:
        """Yield the requests that were cancelled and stop training them, without taking a step."""
        for request in [one for one in self._waiting if self._observer.is_cancelled(one)]:
            self._waiting.remove(request)
            yield TrainingOutcome(request, JobState.CANCELLED)
        for run in self._runs:
            yield from self._guarded(run, run.leave_cancelled(keep=self._keep_cancelled))
        self._runs = [run for run in self._runs if run.requests]

    def _join(self) -> Iterator[TrainingOutcome]:
        # Some architectures mix rows of a batch, so only one adapter at a time is right for them.
        most = self._most if forms.choose(self._base).takes_packs else 1
        while self._waiting and len(self._runs) < most:
            served = _served_with(self._waiting[0])
            requests = [request for request in self._waiting if _served_with(request) == served]
            self._waiting = [request for request in self._waiting if request not in requests]
            self._observer.began(requests)
            yield from self._begun(requests)

    def _begun(self, requests: Sequence[TuningRequest]) -> Iterator[TrainingOutcome]:
        """Start a training run; yield its requests as failed if it cannot start."""

        def begin() -> Iterator[TrainingOutcome]:
            self._runs.append(TrainingRun(requests, self._base, self._observer, self._states))
            yield from ()  # makes this a generator, so that `_isolated` catches what the constructor raises

        return _isolated(begin(), lambda _is_cancelled: requests)

    def _end_epochs(self, runs: Sequence[TrainingRun]) -> Iterator[TrainingOutcome]:
        """Compute the validation losses of runs that finished an epoch, in shared passes, and end what is complete."""
        # A run measures one adapter for each `average_last` among its requests; all of them share passes here.
        adapters = [(run, epochs, adapter) for run in runs for epochs, adapter in run.to_measure().items()]
        nats: dict[TrainingRun, dict[int, float]] = {run: {} for run in runs}
        for batches in zip_longest(*(run.held_out() for run, _epochs, _adapter in adapters)):
            now = [
                (*one, rows)
                for one, rows in zip(adapters, batches, strict=True)
                if rows is not None and one[0].requests
            ]
            # Checked before each pass: a large validation set takes much longer than a step.
            for run in {run for run, *_rest in now if not run.is_wanted}:
                yield from self._drop(run, CancelledJobError())
            now = [one for one in now if one[0].requests]
            shares = [Share(adapter, rows) for _run, _epochs, adapter, rows in now]
            for number, computed in self._passes.compute(shares, learns=False):
                run, epochs = now[number][:2]
                if isinstance(computed, Exception):
                    yield from self._drop(run, computed)
                else:
                    nats[run][epochs] = nats[run].get(epochs, 0.0) + computed.nats
        for run in runs:
            if run.requests:
                yield from self._guarded(run, run.hand_out(nats[run]))

    def _guarded(self, run: TrainingRun, ended: Iterator[TrainingOutcome]) -> Iterator[TrainingOutcome]:
        """Yield the outcomes of one run's work; if it raises, end all requests of that run only."""
        yield from _isolated(ended, lambda is_cancelled: run.drop(is_cancelled=is_cancelled))

    def _drop(self, run: TrainingRun, error: Exception) -> Iterator[TrainingOutcome]:
        """End every request of a run that cannot continue."""
        return _ended_by(error, lambda is_cancelled: run.drop(is_cancelled=is_cancelled))


_Dropped = Callable[[bool], Sequence[TuningRequest]]
"""Ends a run and returns its requests; the argument is whether the reason is a cancellation."""


def _isolated(ended: Iterator[TrainingOutcome], drop: _Dropped) -> Iterator[TrainingOutcome]:
    """Yield the outcomes; if producing them raises, end the requests that `drop` returns with that error."""
    try:
        yield from ended
    # Any error: one trial's, for instance from a library that its hyperparameters reach, must not end the others.
    except Exception as error:  # noqa: BLE001 - isolates a trial; the failure carries the traceback
        yield from _ended_by(error, drop)


def _ended_by(error: Exception, drop: _Dropped) -> Iterator[TrainingOutcome]:
    is_cancelled = isinstance(error, CancelledJobError)
    for request in drop(is_cancelled):
        if is_cancelled:
            yield TrainingOutcome(request, JobState.CANCELLED)
        else:
            yield TrainingOutcome(request, JobState.FAILED, failure=failure_of(error))


def _served_with(request: TuningRequest) -> tuple[TuningRequest, bool]:
    """Return a key that is equal for requests that can start as one training run.

    `keeps_best` without validation examples is an error. Such requests get a run of their own, so that only they fail.
    """
    return in_common(request), request.hyperparameters.keeps_best and not request.validation


def _learned(
    run: TrainingRun, share: Share, computed: Computed | Exception, together: Sequence[TrainingRun]
) -> Iterator[TrainingOutcome]:
    if isinstance(computed, Exception):
        raise computed
    run.passed(together)
    run.take_step(share, computed)
    yield from ()  # makes this a generator, so that `_guarded` catches what a step raises
