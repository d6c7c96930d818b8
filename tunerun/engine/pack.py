"""A pack: training runs of one base model that share each pass of its frozen weights.

A run that fails, diverges or is cancelled leaves the pack and changes nothing of the others: each has its own adapter,
its own optimiser and its own place in the batch dimension, which no number crosses.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import torch

from tunerun.engine import forms, lora
from tunerun.engine.adapters import MixingError
from tunerun.engine.failures import CancelledJobError, failure_of
from tunerun.engine.network import LoadedModel
from tunerun.engine.training_run import Observer, Outcome, TrainingRun
from tunerun.job import JobState, TuningRequest, in_common


class Pack:
    """Requests to tune one base model, trained together one step at a time.

    Args:
        base: the base model, which is bare between two steps.
        observer: called from the thread that steps.
        most: training runs that train at the same time.
        keep_cancelled: whether the adapter of a request that is cancelled after its first step is kept.
    """

    def __init__(self, base: LoadedModel, observer: Observer, *, most: int = 1, keep_cancelled: bool = False) -> None:
        self._base = base
        self._observer = observer
        self._most = most
        self._width = most
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
                run.add(request)
                self._observer.began(run.requests)

    def step(self) -> Iterator[Outcome]:
        """Take one step of every run; yield the requests that end before it or with it."""
        yield from self._leave()
        yield from self._join()
        runs = list(self._runs)
        start = 0
        while start < len(runs):
            together = runs[start : start + self._width]
            try:
                losses, seconds = self._pass(together)
            except Exception as error:  # noqa: BLE001 - isolates a pack; the failure carries the traceback
                for run in together:
                    run.forget_gradients()
                if len(together) > 1:
                    self._width = 1 if isinstance(error, MixingError) else -(-len(together) // 2)
                    continue  # these again, fewer at once: no run has changed
                yield from self._drop(together[0], error)
            else:
                for run, loss in zip(together, losses, strict=True):
                    yield from self._guarded(run, run.take_step(loss, seconds))
            start += len(together)
        self._runs = [run for run in self._runs if run.requests]

    def _leave(self) -> Iterator[Outcome]:
        for request in [one for one in self._waiting if self._observer.is_cancelled(one)]:
            self._waiting.remove(request)
            yield Outcome(request, JobState.CANCELLED)
        for run in self._runs:
            yield from self._guarded(run, run.leave_cancelled(keep=self._keep_cancelled))
        self._runs = [run for run in self._runs if run.requests]

    def _join(self) -> Iterator[Outcome]:
        most = self._most if forms.choose(self._base).takes_packs else 1
        while self._waiting and len(self._runs) < most:
            common = in_common(self._waiting[0])
            requests = [request for request in self._waiting if in_common(request) == common]
            self._waiting = [request for request in self._waiting if request not in requests]
            self._observer.began(requests)
            try:
                self._runs.append(TrainingRun(requests, self._base, self._observer))
            except CancelledJobError:
                yield from (Outcome(request, JobState.CANCELLED) for request in requests)
            except Exception as error:  # noqa: BLE001 - isolates a run; the failure carries the traceback
                yield from (_failed(request, error) for request in requests)

    def _pass(self, runs: Sequence[TrainingRun]) -> tuple[list[float], float]:
        """Compute the losses and gradients of the next step of some runs, all at once."""
        started = time.perf_counter()
        members = [run.next_rows() for run in runs]
        learned = torch.tensor([sum(row.learned for row in rows) for rows in members], device=self._base.device)
        with lora.on(self._base.network, [run.adapter for run in runs]):
            means = forms.choose(self._base).losses(self._base, members) / learned
            values = means.tolist()
            finite = torch.isfinite(means)
            if bool(finite.any()):
                torch.autograd.backward(means[finite].sum())
        for run in runs:
            run.passed(runs)
        return values, (time.perf_counter() - started) / len(runs)

    def _guarded(self, run: TrainingRun, ended: Iterator[Outcome]) -> Iterator[Outcome]:
        """Yield the requests that end by something of a run; all of them if it fails."""
        try:
            yield from ended
        except Exception as error:  # noqa: BLE001 - isolates a run; the failure carries the traceback
            yield from self._drop(run, error)

    def _drop(self, run: TrainingRun, error: Exception) -> Iterator[Outcome]:
        """End every request of a run that cannot be continued."""
        requests, run.requests = run.requests, []
        if isinstance(error, CancelledJobError):
            yield from (Outcome(request, JobState.CANCELLED) for request in requests)
        else:
            yield from (_failed(request, error) for request in requests)


def _failed(request: TuningRequest, error: Exception) -> Outcome:
    return Outcome(request, JobState.FAILED, failure=failure_of(error))
