"""A pack: training runs of one base model that share each pass of its frozen weights.

A run that fails, diverges or is cancelled leaves the pack and changes nothing of the others: each has its own adapter,
its own optimiser and its own place in the batch dimension, which no number crosses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from tunerun.engine import forms
from tunerun.engine.failures import CancelledJobError, failure_of
from tunerun.engine.network import LoadedModel
from tunerun.engine.passes import Computed, Passes, Share
from tunerun.engine.training_run import Observer, Outcome, TrainingRun
from tunerun.job import JobState, TuningRequest, in_common


class Pack:
    """Requests to tune one base model, trained together one step at a time.

    Args:
        base: the base model, which is bare between two steps.
        observer: called from the thread that steps.
        most: training runs that train at the same time.
        keep_cancelled: whether the adapter of a request that is cancelled after its first step is kept.
        states: the folder of the tuned models, in which runs keep what they need to continue in another process; None:
            they begin again there.
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
        """Train requests as well: within a run that has everything in common with them, or when there is room."""
        for request in requests:
            run = next((run for run in self._runs if run.takes(request)), None)
            if run is None:
                self._waiting.append(request)
            else:
                self._observer.began([*run.requests, request])
                run.add(request)

    def step(self) -> Iterator[Outcome]:
        """Take one step of every run; yield the requests that end before it or with it."""
        yield from self.leave_cancelled()
        yield from self._join()
        runs = list(self._runs)
        shares = [run.share for run in runs]
        for number, computed in self._passes.compute(shares, learns=True):
            others = [runs[other] for other in computed.together] if isinstance(computed, Computed) else []
            yield from self._guarded(runs[number], _learned(runs[number], shares[number], computed, others))
        yield from self._end_epochs([run for run in runs if run.requests and run.has_ended_epoch])
        self._runs = [run for run in self._runs if run.requests]

    def leave_cancelled(self) -> Iterator[Outcome]:
        """Yield the requests that were cancelled; they are not trained any more. Computes nothing."""
        for request in [one for one in self._waiting if self._observer.is_cancelled(one)]:
            self._waiting.remove(request)
            yield Outcome(request, JobState.CANCELLED)
        for run in self._runs:
            yield from self._guarded(run, run.leave_cancelled(keep=self._keep_cancelled))
        self._runs = [run for run in self._runs if run.requests]

    def _join(self) -> Iterator[Outcome]:
        most = self._most if forms.choose(self._base).takes_packs else 1
        while self._waiting and len(self._runs) < most:
            served = _served_with(self._waiting[0])
            requests = [request for request in self._waiting if _served_with(request) == served]
            self._waiting = [request for request in self._waiting if request not in requests]
            self._observer.began(requests)
            yield from self._begun(requests)

    def _begun(self, requests: Sequence[TuningRequest]) -> Iterator[Outcome]:
        """Begin a run; yield the requests that end because it cannot begin."""

        def begin() -> Iterator[Outcome]:
            self._runs.append(TrainingRun(requests, self._base, self._observer, self._states))
            yield from ()  # a generator, so that what it raises is isolated as the rest of a run is

        return _isolated(begin(), lambda _is_cancelled: requests)

    def _end_epochs(self, runs: Sequence[TrainingRun]) -> Iterator[Outcome]:
        """Measure in shared passes what the runs have learned that have ended an epoch, and hand out what is due."""
        adapters = [(run, epochs, adapter) for run in runs for epochs, adapter in run.to_measure().items()]
        nats: dict[TrainingRun, dict[int, float]] = {run: {} for run in runs}
        for batches in zip_longest(*(run.held_out() for run, _epochs, _adapter in adapters)):
            now = [
                (*one, rows)
                for one, rows in zip(adapters, batches, strict=True)
                if rows is not None and one[0].requests
            ]
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

    def _guarded(self, run: TrainingRun, ended: Iterator[Outcome]) -> Iterator[Outcome]:
        """Yield the requests that end by something of a run; all of them if it fails."""
        yield from _isolated(ended, lambda is_cancelled: run.drop(is_cancelled=is_cancelled))

    def _drop(self, run: TrainingRun, error: Exception) -> Iterator[Outcome]:
        """End every request of a run that cannot be continued."""
        return _ended_by(error, lambda is_cancelled: run.drop(is_cancelled=is_cancelled))


_Dropped = Callable[[bool], Sequence[TuningRequest]]
"""What ends with a run; given whether it is cancelled."""


def _isolated(ended: Iterator[Outcome], drop: _Dropped) -> Iterator[Outcome]:
    """Yield the requests that end by something of a run; if it fails, for whatever reason, those that end with it."""
    try:
        yield from ended
    # Any error: one of a single trial, such as of a library that its hyperparameters reach, would else end the others.
    except Exception as error:  # noqa: BLE001 - isolates a trial; the failure carries the traceback
        yield from _ended_by(error, drop)


def _ended_by(error: Exception, drop: _Dropped) -> Iterator[Outcome]:
    is_cancelled = isinstance(error, CancelledJobError)
    for request in drop(is_cancelled):
        if is_cancelled:
            yield Outcome(request, JobState.CANCELLED)
        else:
            yield Outcome(request, JobState.FAILED, failure=failure_of(error))


def _served_with(request: TuningRequest) -> tuple[TuningRequest, bool]:
    """What requests are alike in that begin as one run; one that asks for what cannot be measured is alone with it."""
    return in_common(request), request.hyperparameters.keeps_best and not request.validation


def _learned(
    run: TrainingRun, share: Share, computed: Computed | Exception, together: Sequence[TrainingRun]
) -> Iterator[Outcome]:
    if isinstance(computed, Exception):
        raise computed
    run.passed(together)
    run.take_step(share, computed)
    yield from ()  # a generator, so that what it raises is isolated as the rest of a run is
