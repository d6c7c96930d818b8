"""One training run: it serves every trial that differs from the others in which of its epochs it is given alone.

At a constant learning rate, and as the order of an epoch depends on (seed, epoch) alone, a trial of 3 epochs is bit for
bit the first 3 epochs of a trial of 10: they are trained once, and each has its tuned model when its last epoch ends.
So it is with the best epoch, and the mean of the last ones.
"""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError

from tunerun.engine import forms, lora, machine, resuming
from tunerun.engine.encoding import EncodedExample, encode_examples
from tunerun.engine.epoch_adapters import EpochAdapters
from tunerun.engine.failures import CancelledJobError, DivergedError
from tunerun.engine.lora import LearningAdapter
from tunerun.engine.network import LoadedModel
from tunerun.engine.optimisation import Optimiser
from tunerun.engine.passes import Computed, Share
from tunerun.engine.resuming import TrainingState
from tunerun.errors import InputError
from tunerun.job import EpochLoss, Failure, JobState, Snapshot, TuningHyperparameters, TuningRequest, in_common


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

    def kept_before(self, request: TuningRequest, ends: Sequence[Snapshot]) -> None:
        """Take note that the job continues an earlier one: what `kept` stored at these ends of epochs is there.

        Its snapshots and losses are reported again before.
        """

    def state_not_kept(self, request: TuningRequest, reason: str) -> None:
        """Take note, once, that what the job needs to continue in another process cannot be written."""

    def is_cancelled(self, request: TuningRequest) -> bool:
        """Whether the job has to stop now."""

    def is_paused(self, request: TuningRequest) -> bool:
        """Whether a job that has to stop will be continued later."""

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

    A step is: `share`, whose gradient a pass computes, then `take_step`. If that ends an epoch, `end_epoch` says what
    has to be measured of it, and `hand_out` gives the losses to the requests, and their tuned models to those that end.

    Args:
        requests: at least one.
        base: their base model, which is bare between two steps.
        states: the folder in which what it needs to continue in another process is kept while it trains; None: it
            begins again there.

    Attributes:
        requests: those that have not ended.
        adapter: what learns.

    Raises:
        InputError: the requests cannot be trained.
        CancelledJobError: all were cancelled while the base model's loss was measured.
    """

    def __init__(
        self, requests: Sequence[TuningRequest], base: LoadedModel, observer: Observer, states: Path | None = None
    ) -> None:
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
        if any(request.hyperparameters.keeps_best for request in requests) and not self._validation:
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
        self._epochs = EpochAdapters(self.adapter, [request.hyperparameters for request in requests])
        self._snapshots: list[Snapshot] = []
        self._order: tuple[int, list[int]] = (0, [])
        self._seconds = 0.0
        self._packed_with: set[str] = set()
        self._without_state: set[str] = set()  # keys of requests whose observer knows that no state can be kept
        # By key, whether the tuned model after each epoch is kept: of all that may still be given something.
        self._unfinished = {request.key: request.keeps_epochs for request in requests}
        self._served = list(requests)  # those that have ended are among them, not those that were cancelled
        self._state = states and resuming.state_folder(states, in_common(first), base.identity, self.form.name)
        if self._state is not None:
            self._resume(self._state)

    # Between two steps

    def takes(self, request: TuningRequest) -> bool:
        """Whether a request has everything in common with these, and misses nothing of the epochs by now."""
        done = self._finished_epochs
        misses_nothing = done == 0 or (
            self._epochs.serves(request.hyperparameters)
            and len(self._epochs.losses[request.hyperparameters.average_last]) == (done if self._validation else 0)
            and (not request.keeps_epochs or self._unfinished.get(request.key, False))
        )
        is_in_time = request.hyperparameters.epoch_count > done
        return is_in_time and misses_nothing and in_common(request) == in_common(self.requests[0])

    @property
    def _finished_epochs(self) -> int:
        return len(self._snapshots) // self._steps_per_epoch

    @property
    def _steps_per_epoch(self) -> int:
        return -(-len(self._training) // self._settings.batch_size)

    def add(self, request: TuningRequest) -> None:
        """Serve one more request; it is given what has been learned so far."""
        self.requests.append(request)
        self._unfinished[request.key] = request.keeps_epochs
        self._served.append(request)
        self._report_past(request)

    def _report_past(self, request: TuningRequest) -> None:
        for snapshot in self._snapshots:
            self._observer.snapshot(request, snapshot)
        for loss in self._epochs.losses[request.hyperparameters.average_last]:
            self._observer.validated(request, loss)
        if request.keeps_epochs and self._finished_epochs:
            count = self._steps_per_epoch
            self._observer.kept_before(request, self._snapshots[count - 1 :: count])

    def leave_cancelled(self, *, keep: bool) -> Iterator[Outcome]:
        """Yield the requests that were cancelled; they are not served any more.

        Args:
            keep: whether what was learned by then is kept. Of one that is paused it is not, but all that it needs to
                continue is.
        """
        for request in [one for one in self.requests if self._observer.is_cancelled(one)]:
            trained = None
            if self._observer.is_paused(request):
                self.requests.remove(request)
                self._keep_state()
                if self.requests:  # what these reach from now on is not kept for it
                    self._unfinished[request.key] = False
            else:
                trained = self._trained(request, JobState.CANCELLED) if keep and self._snapshots else None
                self._forget(request)
                self._served.remove(request)
                if trained is not None:
                    self._observer.trained(request, trained)
            yield Outcome(request, JobState.CANCELLED, trained=trained)

    def drop(self, *, is_cancelled: bool) -> list[TuningRequest]:
        """End every request; return them. What those that are paused need to continue stays as it was kept last."""
        requests, self.requests = self.requests, []
        is_needed = is_cancelled and any(map(self._observer.is_paused, requests))
        if self._state is not None and not is_needed:
            resuming.remove(self._state)
        return requests

    # A step

    @property
    def share(self) -> Share:
        """What the next step needs of a pass; the same until the step is taken."""
        epoch, place = divmod(len(self._snapshots), self._steps_per_epoch)
        if self._order[0] != epoch + 1:
            self._order = (epoch + 1, epoch_order(self._seed, epoch + 1, len(self._training)))
        count = self._settings.batch_size
        chosen = self._order[1][place * count : (place + 1) * count]
        return Share(self.adapter, [self._training[position] for position in chosen])

    def passed(self, others: Sequence[TrainingRun]) -> None:
        """Note which runs were in a pass with it."""
        self._packed_with.update(request.key for other in others if other is not self for request in other.requests)

    def take_step(self, share: Share, computed: Computed) -> None:
        """Learn from the gradients that a pass has left.

        Args:
            computed: what came of its share in it.

        Raises:
            DivergedError: the loss, or at the end of an epoch the adapter, is NaN or infinite.
        """
        started = time.perf_counter()
        step = len(self._snapshots) + 1
        epoch = (step - 1) // self._steps_per_epoch + 1
        loss = computed.nats / share.learned
        _check_loss(loss, f"the loss of step {step} (epoch {epoch})")
        self._optimiser.step()
        snapshot = Snapshot(step=step, epoch=epoch, mean_loss=loss, compute_time=time.time())
        self._snapshots.append(snapshot)
        self._seconds += computed.seconds + time.perf_counter() - started
        for request in self.requests:
            self._observer.snapshot(request, snapshot)
        if self.has_ended_epoch:
            _check_adapter(self.adapter, snapshot)
            self._epochs.end_epoch()

    # The end of an epoch

    @property
    def has_ended_epoch(self) -> bool:
        """Whether the last step was the last one of an epoch."""
        return bool(self._snapshots) and len(self._snapshots) % self._steps_per_epoch == 0

    @property
    def is_wanted(self) -> bool:
        """Whether not all its requests were cancelled."""
        return not all(self._observer.is_cancelled(request) for request in self.requests)

    def to_measure(self) -> dict[int, LearningAdapter]:
        """Return the adapters whose loss is measured after this epoch, by the number of epochs they are the mean of."""
        if not self._validation:
            return {}
        spans = {request.hyperparameters.average_last for request in self.requests}
        if self._unfinished.keys() - {request.key for request in self.requests}:
            spans.update(self._epochs.losses)  # some may still come
        return {epochs: self._epochs.mean(epochs) for epochs in sorted(spans)}

    def held_out(self) -> Iterator[list[EncodedExample]]:
        """Yield the rows on which the loss is measured, some at a time."""
        for positions in forms.parts(self._base, self._validation):
            yield [self._validation[position] for position in positions]

    def hand_out(self, nats: Mapping[int, float]) -> Iterator[Outcome]:
        """End an epoch.

        Args:
            nats: the summed losses of what `to_measure` returned.

        Yields:
            The requests that end with it.

        Raises:
            DivergedError: a loss is NaN or infinite.
        """
        last = self._snapshots[-1]
        learned = sum(example.learned for example in self._validation)
        for value in nats.values():
            _check_loss(value / learned, f"the validation loss after epoch {last.epoch}")
        self._epochs.measured({epochs: EpochLoss(last.epoch, value / learned) for epochs, value in nats.items()})
        for request in self.requests if nats else ():
            self._observer.validated(request, self._epochs.losses[request.hyperparameters.average_last][-1])
        for request in list(self.requests):
            if request.hyperparameters.epoch_count == last.epoch:
                yield self._end(request)
            elif request.keeps_epochs:
                adapter = self._epochs.mean(request.hyperparameters.average_last)
                self._observer.kept(request, replace(self._trained(request, JobState.RUNNING), adapter=adapter))
        if self.requests:
            self._keep_state()

    def _end(self, request: TuningRequest) -> Outcome:
        chosen = request.hyperparameters
        metrics = self._metrics | {
            "train/seconds": self._seconds,
            "train/peak_bytes": float(machine.peak_bytes(self._base.device)),
            "tokens/train": float(sum(map(len, self._training)) * chosen.epoch_count),
        }
        if losses := self._epochs.losses[chosen.average_last]:
            metrics["validation/loss"] = losses[-1].loss
        if chosen.keeps_best and self._epochs.best is not None:
            best = self._epochs.best
            metrics |= {"validation/loss": best.loss, "train/kept_epoch": float(best.epoch)}
        trained = self._trained(request, JobState.SUCCEEDED, metrics)
        trained = replace(trained, adapter=self._epochs.of(chosen))
        self._observer.trained(request, trained)
        self._forget(request)
        return Outcome(request, JobState.SUCCEEDED, metrics, trained=trained)

    def _trained(self, request: TuningRequest, state: JobState, metrics: dict[str, float] | None = None) -> Trained:
        longest = max(self._served, key=lambda one: one.hyperparameters.epoch_count)
        return Trained(
            self.adapter,
            tuple(self._snapshots),
            tuple(self._epochs.losses[request.hyperparameters.average_last]),
            metrics if metrics is not None else dict(self._metrics),
            state,
            self.form.name,
            "" if longest.key == request.key else longest.key,
            tuple(sorted(self._packed_with)),
        )

    # To continue in another process

    def _resume(self, folder: Path) -> None:
        """Continue where a process was that has died, if that serves every request."""
        found = resuming.read(folder, self._base.device)
        if found is None:
            return
        state, tensors = found
        fewest = min(request.hyperparameters.epoch_count for request in self.requests)
        is_known = all(
            key in state.requests and state.requests[key] >= keeps_epochs
            for key, keeps_epochs in self._unfinished.items()
        )
        if not is_known or len(state.snapshots) // self._steps_per_epoch >= fewest:
            return
        self.adapter.restore([tensors[f"adapter.{name}"] for name in self.adapter.named()])
        self._optimiser.load_state(_beginning_with("optimiser.", tensors))
        self._epochs.load_state(_beginning_with("epochs.", tensors), state.losses, state.best)
        self._snapshots = list(state.snapshots)
        self._seconds = state.seconds
        self._packed_with = set(state.packed_with)
        self._unfinished = state.requests | self._unfinished
        for request in self.requests:
            self._report_past(request)

    def _keep_state(self) -> None:
        if self._state is None:
            return
        parts = {
            "adapter": self.adapter.named(),
            "optimiser": self._optimiser.state(),
            "epochs": self._epochs.state(),
        }
        tensors = {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
        state = TrainingState(
            self._unfinished,
            tuple(self._snapshots),
            {epochs: tuple(losses) for epochs, losses in self._epochs.losses.items()},
            self._epochs.best,
            self._seconds,
            tuple(sorted(self._packed_with)),
        )
        # A full disk must not end a job that needs no room by itself: without a state it begins again if it is killed.
        try:
            resuming.write(self._state, state, tensors)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            for request in [one for one in self.requests if one.key not in self._without_state]:
                self._without_state.add(request.key)
                self._observer.state_not_kept(request, reason)

    def _forget(self, request: TuningRequest) -> None:
        """Serve a request no more; a state that no other one needs is removed."""
        self.requests.remove(request)
        self._unfinished.pop(request.key, None)
        if self._state is None:
            return
        if not self._unfinished:
            resuming.remove(self._state)
        elif not self.requests:
            self._keep_state()

    # The base model's loss on held-out examples

    def _base_loss(self) -> float:
        """Return the untouched base model's loss, measured once for the same examples."""
        content = [(example.prompt, example.target, example.earlier) for example in self._validation]
        digest = hashlib.sha256(repr(content).encode()).hexdigest()
        if digest not in self._base.base_losses:
            self._base.base_losses[digest] = self._mean_loss()
        return self._base.base_losses[digest]

    @torch.no_grad()
    def _mean_loss(self) -> float:
        total = 0.0
        for rows in self.held_out():
            if not self.is_wanted:
                raise CancelledJobError
            total += float(self.form.losses(self._base, [rows])[0])
        return total / sum(example.learned for example in self._validation)


def _beginning_with(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


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
