"""One training run: it serves every trial that differs from the others in its number of epochs alone.

At a constant learning rate, and as the order of an epoch depends on (seed, epoch) alone, a trial of 3 epochs is bit for
bit the first 3 epochs of a trial of 10: they are trained once, and each has its tuned model when its last epoch ends.
"""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from tunerun.engine import forms, lora
from tunerun.engine.encoding import EncodedExample, batches_by_length, encode_examples
from tunerun.engine.failures import CancelledJobError, DivergedError
from tunerun.engine.lora import LearningAdapter
from tunerun.engine.network import LoadedModel
from tunerun.engine.optimisation import Optimiser
from tunerun.errors import InputError
from tunerun.job import EpochLoss, Failure, JobState, Snapshot, TuningHyperparameters, TuningRequest, in_common

VALIDATION_ROWS = 16
"""Examples measured at once. Our choice, not measured: more rows need more memory for their logits."""


@dataclass(frozen=True)
class Trained:
    """What came of a request, or has come of it so far.

    Attributes:
        adapter: as it is now; it changes after the call that it is given to.
        metrics: see `JobStatus.metrics`.
        form: how rows were laid out for a pass.
        training_run: the key of the request whose training run it is the beginning of; empty: it had its own.
        packed_with: the keys of the requests that shared passes with it, sorted.
    """

    adapter: LearningAdapter
    snapshots: tuple[Snapshot, ...]
    validation: tuple[EpochLoss, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    state: JobState = JobState.RUNNING
    form: str = ""
    training_run: str = ""
    packed_with: tuple[str, ...] = ()


class Observer(Protocol):
    """What training reports, and asks, between two steps."""

    def began(self, requests: Sequence[TuningRequest]) -> None:
        """Take note that requests are trained from now on, all by one training run."""

    def snapshot(self, request: TuningRequest, snapshot: Snapshot) -> None:
        """Take note of an optimiser step."""

    def validated(self, request: TuningRequest, loss: EpochLoss) -> None:
        """Take note of the loss on held-out examples after an epoch."""

    def kept(self, request: TuningRequest, trained: Trained) -> None:
        """Store the adapter as it is after an epoch that is not the last."""

    def is_cancelled(self, request: TuningRequest) -> bool:
        """Whether the job has to stop now."""

    def trained(self, request: TuningRequest, trained: Trained) -> None:
        """Store the adapter of a request that has ended."""


@dataclass(frozen=True)
class Outcome:
    """How one request ended.

    Attributes:
        trained: what came of it; None: nothing that is kept.
    """

    request: TuningRequest
    state: JobState
    metrics: dict[str, float] = field(default_factory=dict)
    failure: Failure | None = None
    trained: Trained | None = None


class TrainingRun:
    """The training of requests that have everything `in_common`, one step at a time.

    Args:
        requests: at least one.
        base: their base model, which is bare between two steps.

    Attributes:
        requests: those that have not ended.
        adapter: what learns.

    Raises:
        InputError: the requests cannot be trained.
        CancelledJobError: all were cancelled while the base model's loss was measured.
    """

    def __init__(self, requests: Sequence[TuningRequest], base: LoadedModel, observer: Observer) -> None:
        first = requests[0]
        self.requests = list(requests)
        self._base = base
        self._observer = observer
        self._seed = first.seed
        self._settings: TuningHyperparameters = first.hyperparameters
        self._training = _encoded(first, base, "training")
        self._validation = _encoded(first, base, "validation")
        if not self._training:
            raise InputError("the request holds no training examples; at least one is needed; check dataset.path")
        if self._settings.keeps_best and not self._validation:
            raise InputError(
                "hyperparameters.keep: best needs held-out examples; set dataset.validation, or keep the last"
            )
        self.form = forms.choose(base)
        self._metrics: dict[str, float] = {}
        if self._validation:
            self._metrics["validation/base_loss"] = self._base_loss()
        self.adapter = lora.adapter_of(first, base)
        steps = self._steps_per_epoch * self._settings.epoch_count
        self._optimiser = Optimiser(self.adapter.parameters(), self._settings, steps)
        self._best = _BestEpoch(self.adapter) if self._settings.keeps_best else None
        self._snapshots: list[Snapshot] = []
        self._losses: list[EpochLoss] = []
        self._batches = self._order()
        self._rows: list[EncodedExample] | None = None
        self._seconds = 0.0
        self._packed_with: set[str] = set()

    @property
    def _epoch_count(self) -> int:
        return max(request.hyperparameters.epoch_count for request in self.requests)

    @property
    def _epoch(self) -> int:
        """The last epoch that a step was taken of."""
        return self._snapshots[-1].epoch if self._snapshots else 0

    def _order(self) -> Iterator[list[EncodedExample]]:
        epoch = 0
        while True:
            epoch += 1
            order, rows = epoch_order(self._seed, epoch, len(self._training)), self._settings.batch_size
            for start in range(0, len(order), rows):
                yield [self._training[position] for position in order[start : start + rows]]

    # Between two steps

    def takes(self, request: TuningRequest) -> bool:
        """Whether a request has everything in common with these, and its last epoch has not begun to end."""
        is_in_time = request.hyperparameters.epoch_count > self._finished_epochs
        return is_in_time and in_common(request) == in_common(self.requests[0])

    @property
    def _finished_epochs(self) -> int:
        return len(self._snapshots) // self._steps_per_epoch

    @property
    def _steps_per_epoch(self) -> int:
        return -(-len(self._training) // self._settings.batch_size)

    def add(self, request: TuningRequest) -> None:
        """Serve one more request; it is given what has been learned so far."""
        self.requests.append(request)
        for snapshot in self._snapshots:
            self._observer.snapshot(request, snapshot)
        for loss in self._losses:
            self._observer.validated(request, loss)

    def leave_cancelled(self, *, keep: bool) -> Iterator[Outcome]:
        """Yield the requests that were cancelled; they are not served any more.

        Args:
            keep: whether what was learned by then is kept.
        """
        for request in [one for one in self.requests if self._observer.is_cancelled(one)]:
            trained = self._trained(request, JobState.CANCELLED) if keep and self._snapshots else None
            self.requests.remove(request)
            if trained is not None:
                self._observer.trained(request, trained)
            yield Outcome(request, JobState.CANCELLED, trained=trained)

    # A step

    def next_rows(self) -> list[EncodedExample]:
        """Return the rows of the next step, the same ones until it is taken."""
        if self._rows is None:
            self._rows = next(self._batches)
        return self._rows

    def passed(self, others: Sequence[TrainingRun]) -> None:
        """Note which runs were in a pass with it."""
        self._packed_with.update(request.key for other in others if other is not self for request in other.requests)

    def forget_gradients(self) -> None:
        """Drop what passes have left, such as one that failed in the middle."""
        self._optimiser.forget_gradients()

    def take_step(self, loss: float, seconds: float) -> Iterator[Outcome]:
        """Learn from the gradients that a pass has left, and do what follows from it.

        Args:
            loss: the mean loss of the step's rows, in nats per learned token.
            seconds: its part of the pass.

        Yields:
            The requests that end with it.

        Raises:
            DivergedError: the loss, the adapter or the validation loss is NaN or infinite.
            CancelledJobError: all requests were cancelled.
        """
        started = time.perf_counter()
        step = len(self._snapshots) + 1
        epoch = (step - 1) // self._steps_per_epoch + 1
        _check_loss(loss, f"the loss of step {step} (epoch {epoch})")
        self._optimiser.step()
        self._rows = None
        snapshot = Snapshot(step=step, epoch=epoch, mean_loss=loss, compute_time=time.time())
        self._snapshots.append(snapshot)
        self._seconds += seconds + time.perf_counter() - started
        for request in self.requests:
            self._observer.snapshot(request, snapshot)
        if step % self._steps_per_epoch == 0:
            yield from self._end_epoch(snapshot)

    def _end_epoch(self, last: Snapshot) -> Iterator[Outcome]:
        _check_adapter(self.adapter, last)
        if self._validation:
            loss = self._mean_loss([self.adapter])
            _check_loss(loss, f"the validation loss after epoch {last.epoch}")
            self._losses.append(EpochLoss(last.epoch, loss))
            for request in self.requests:
                self._observer.validated(request, self._losses[-1])
            if self._best is not None:
                self._best.see(self._losses[-1])
        for request in list(self.requests):
            if request.hyperparameters.epoch_count == last.epoch:
                yield self._end(request)
            elif request.keeps_epochs:
                self._observer.kept(request, self._trained(request, JobState.RUNNING))

    def _end(self, request: TuningRequest) -> Outcome:
        metrics = self._metrics | {
            "train/seconds": self._seconds,
            "tokens/train": float(sum(map(len, self._training)) * request.hyperparameters.epoch_count),
        }
        if self._losses:
            metrics["validation/loss"] = self._losses[-1].loss
        now = None
        if self._best is not None:
            now, kept = self.adapter.copy(), self._best.restore()
            metrics |= {"validation/loss": kept.loss, "train/kept_epoch": float(kept.epoch)}
        trained = self._trained(request, JobState.SUCCEEDED, metrics)
        self._observer.trained(request, trained)
        if now is not None:
            self.adapter.restore(now)  # other requests learn on from the last epoch
        self.requests.remove(request)
        return Outcome(request, JobState.SUCCEEDED, metrics, trained=trained)

    def _trained(self, request: TuningRequest, state: JobState, metrics: dict[str, float] | None = None) -> Trained:
        longest = max(self.requests, key=lambda one: one.hyperparameters.epoch_count)
        return Trained(
            self.adapter,
            tuple(self._snapshots),
            tuple(self._losses),
            metrics if metrics is not None else dict(self._metrics),
            state,
            self.form.name,
            "" if longest.key == request.key else longest.key,
            tuple(sorted(self._packed_with)),
        )

    # Losses on held-out examples

    def _base_loss(self) -> float:
        """Return the untouched base model's loss, measured once for the same examples."""
        content = [(example.prompt, example.target, example.earlier) for example in self._validation]
        digest = hashlib.sha256(repr(content).encode()).hexdigest()
        if digest not in self._base.base_losses:
            self._base.base_losses[digest] = self._mean_loss([])
        return self._base.base_losses[digest]

    @torch.no_grad()
    def _mean_loss(self, adapters: Sequence[LearningAdapter]) -> float:
        """Return the mean loss over all learned tokens of the held-out examples, in nats."""
        total, learned = 0.0, 0
        with lora.on(self._base.network, adapters):
            for positions in batches_by_length([len(example) for example in self._validation], VALIDATION_ROWS):
                if all(self._observer.is_cancelled(request) for request in self.requests):
                    raise CancelledJobError
                rows = [self._validation[position] for position in positions]
                total += float(self.form.losses(self._base, [rows])[0])
                learned += sum(row.learned for row in rows)
        return total / learned


class _BestEpoch:
    """A copy of an adapter as it was after the epoch with the lowest validation loss, the earlier of equal ones."""

    def __init__(self, adapter: LearningAdapter) -> None:
        self._adapter = adapter
        self._weights: list[torch.Tensor] = []
        self._loss = EpochLoss(0, math.inf)

    def see(self, loss: EpochLoss) -> None:
        if loss.loss < self._loss.loss:
            self._loss, self._weights = loss, self._adapter.copy()

    def restore(self) -> EpochLoss:
        """Give the adapter back what it had learned by then, and say when that was."""
        self._adapter.restore(self._weights)
        return self._loss


def epoch_order(seed: int, epoch: int, count: int) -> list[int]:
    """Return the order of an epoch's examples; depends on nothing else."""
    order = list(range(count))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order


def _encoded(request: TuningRequest, base: LoadedModel, part: str) -> list[EncodedExample]:
    encoded = encode_examples(base.tokenizer, base.chat, getattr(request, part), base.turns)
    limit = base.context_tokens
    too_long = [number for number, example in enumerate(encoded, start=1) if limit is not None and len(example) > limit]
    if too_long:
        longest = max(len(encoded[number - 1]) for number in too_long)
        raise InputError(
            f"{len(too_long)} of {len(encoded)} {part} examples are longer than the base model's {limit} tokens "
            f"(first: number {too_long[0]}; longest: {longest} tokens); "
            "shorten or drop them, or choose another base model"
        )
    return encoded


def _check_loss(loss: float, what: str) -> None:
    if not math.isfinite(loss):
        raise DivergedError(f"{what} is {loss}; it has to be finite; lower hyperparameters.learning_rate")


def _check_adapter(adapter: LearningAdapter, after: Snapshot) -> None:
    if not adapter.is_finite():
        raise DivergedError(
            f"the adapter holds NaN or infinity after step {after.step} (epoch {after.epoch}); it has to be finite; "
            "lower hyperparameters.learning_rate"
        )
