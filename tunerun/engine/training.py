"""Supervised training of adapters: loss on the tokens of learned answers only, AdamW, a constant learning rate.

The learning rate is constant and the order of an epoch depends on (seed, epoch) alone, so a job of 3 epochs is bit for
bit the first 3 epochs of a job of 10.
"""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.nn.functional import cross_entropy

from tunerun.engine.encoding import Batch, EncodedExample, batches_by_length, collate, encode_examples
from tunerun.engine.failures import CancelledJobError, DivergedError, failure_of
from tunerun.engine.network import LoadedModel, fresh_adapter, learned_adapter
from tunerun.errors import InputError
from tunerun.job import EpochLoss, Failure, JobState, Snapshot, TuningHyperparameters, TuningRequest

WEIGHT_DECAY = 0.0
"""Of AdamW. Our choice: the Gemini guide names no decay, and there is no hyperparameter to set one by."""

VALIDATION_ROWS = 16
"""Examples measured at once. Our choice, not measured: more rows need more memory for their logits."""


class Observer(Protocol):
    """What a pack's training tells, and asks, between two steps."""

    def snapshot(self, request: TuningRequest, snapshot: Snapshot) -> None:
        """Take note of an optimiser step."""

    def validated(self, request: TuningRequest, loss: EpochLoss) -> None:
        """Take note of the loss on held-out examples after an epoch."""

    def kept(
        self,
        request: TuningRequest,
        adapted: Any,
        step: Snapshot,
        snapshots: Sequence[Snapshot],
        validation: Sequence[EpochLoss],
    ) -> None:
        """Store the adapter as it is after an epoch that is not the last.

        Args:
            step: the last one of the epoch.
        """

    def is_cancelled(self, request: TuningRequest) -> bool:
        """Whether the job shall stop now."""

    def trained(
        self,
        request: TuningRequest,
        adapted: Any,
        snapshots: Sequence[Snapshot],
        validation: Sequence[EpochLoss],
        metrics: dict[str, float],
        state: JobState,
    ) -> None:
        """Store the adapter, which is gone after this call."""


@dataclass(frozen=True)
class Outcome:
    """How one job of a pack ended."""

    state: JobState
    metrics: dict[str, float] = field(default_factory=dict)
    failure: Failure | None = None


def train(
    pack: Sequence[TuningRequest], base: LoadedModel, observer: Observer, *, keep_cancelled: bool = False
) -> Iterator[Outcome]:
    """Train a pack of requests that share a base model; one that fails does not touch the others.

    Args:
        pack: the requests; they run one after another.
        base: their base model, which is left as it was.
        observer: called from this thread.
        keep_cancelled: store the adapter of a job that is cancelled after its first step.

    Yields:
        An outcome for each request, in order.
    """
    for request in pack:
        try:
            metrics = _train_one(request, base, observer, keep_cancelled=keep_cancelled)
        except CancelledJobError:
            yield Outcome(JobState.CANCELLED)
        except Exception as error:  # noqa: BLE001 - isolates a job; the failure carries the traceback
            yield Outcome(JobState.FAILED, failure=failure_of(error))
        else:
            yield Outcome(JobState.SUCCEEDED, metrics)


def _train_one(
    request: TuningRequest, base: LoadedModel, observer: Observer, *, keep_cancelled: bool
) -> dict[str, float]:
    training = _encode(request, base, "training")
    validation = _encode(request, base, "validation")
    if not training:
        raise InputError("the request holds no training examples; at least one is needed; check dataset.path")
    if request.hyperparameters.keeps_best and not validation:
        raise InputError("hyperparameters.keep: best needs held-out examples; set dataset.validation, or keep the last")
    metrics: dict[str, float] = {}
    if validation:
        metrics["validation/base_loss"] = _base_loss(base, validation, request, observer)
    steps_per_epoch = -(-len(training) // request.hyperparameters.batch_size)
    with adapter_of(request, base) as adapted:
        snapshots: list[Snapshot] = []
        losses: list[EpochLoss] = []
        best = _BestEpoch(adapted) if request.hyperparameters.keeps_best else None
        measuring_s, started = 0.0, time.perf_counter()
        try:
            for snapshot in _steps(request, base, adapted, training, observer):
                snapshots.append(snapshot)
                observer.snapshot(request, snapshot)
                if snapshot.step % steps_per_epoch:
                    continue
                _check_finite(adapted, snapshot)
                if validation:
                    paused = time.perf_counter()
                    # Nothing of the training changes by it: no gradient is taken, and no random number.
                    loss = _mean_loss(base, adapted, validation, request, observer)
                    _check_loss(loss, f"the validation loss after epoch {snapshot.epoch}")
                    losses.append(EpochLoss(snapshot.epoch, loss))
                    observer.validated(request, losses[-1])
                    if best is not None:
                        best.see(losses[-1])
                    measuring_s += time.perf_counter() - paused
                if request.keeps_epochs and snapshot.epoch < request.hyperparameters.epoch_count:
                    paused = time.perf_counter()
                    observer.kept(request, adapted, snapshot, snapshots, losses)
                    measuring_s += time.perf_counter() - paused
        except CancelledJobError:
            if keep_cancelled and snapshots:
                observer.trained(request, adapted, snapshots, losses, metrics, JobState.CANCELLED)
            raise
        metrics["train/seconds"] = time.perf_counter() - started - measuring_s
        metrics["tokens/train"] = float(sum(map(len, training)) * request.hyperparameters.epoch_count)
        if losses:
            metrics["validation/loss"] = losses[-1].loss
        if best is not None:
            kept = best.restore()
            metrics |= {"validation/loss": kept.loss, "train/kept_epoch": float(kept.epoch)}
        observer.trained(request, adapted, snapshots, losses, metrics, JobState.SUCCEEDED)
    return metrics


class _BestEpoch:
    """A copy of an adapter as it was after the epoch with the lowest validation loss, the earlier of equal ones."""

    def __init__(self, adapted: Any) -> None:
        self._learned = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
        self._weights: list[torch.Tensor] = []
        self._loss = EpochLoss(0, math.inf)

    def see(self, loss: EpochLoss) -> None:
        if loss.loss < self._loss.loss:
            self._loss = loss
            self._weights = [parameter.detach().clone() for parameter in self._learned]

    @torch.no_grad()
    def restore(self) -> EpochLoss:
        """Give the adapter back what it had learned by then, and say when that was."""
        for parameter, weights in zip(self._learned, self._weights, strict=True):
            parameter.copy_(weights)
        return self._loss


def adapter_of(request: TuningRequest, base: LoadedModel) -> AbstractContextManager[Any]:
    """Return the adapter that a request begins with, on the base model while the context lasts.

    Raises:
        InputError: the tuned model to start from is not there, or belongs to another base model.
    """
    if request.start_from is None:
        return fresh_adapter(base, request.hyperparameters, request.seed)
    return learned_adapter(base, Path(request.start_from))


def _encode(request: TuningRequest, base: LoadedModel, part: str) -> list[EncodedExample]:
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


def epoch_order(seed: int, epoch: int, count: int) -> list[int]:
    """Return the order of an epoch's examples; depends on nothing else."""
    order = list(range(count))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order


def _steps(
    request: TuningRequest, base: LoadedModel, adapted: Any, training: list[EncodedExample], observer: Observer
) -> Iterator[Snapshot]:
    rows = request.hyperparameters.batch_size
    optimisation = Optimisation(base, adapted, request.hyperparameters)
    step = 0
    for epoch in range(1, request.hyperparameters.epoch_count + 1):
        order = epoch_order(request.seed, epoch, len(training))
        for start in range(0, len(order), rows):
            if observer.is_cancelled(request):
                raise CancelledJobError
            chosen = [training[position] for position in order[start : start + rows]]
            loss = optimisation.step(collate(chosen, base.pad_id, base.device))
            step += 1
            _check_loss(loss, f"the loss of step {step} (epoch {epoch})")
            yield Snapshot(step=step, epoch=epoch, mean_loss=loss, compute_time=time.time())


class Optimisation:
    """An adapter and the AdamW that teaches it."""

    def __init__(self, base: LoadedModel, adapted: Any, hyperparameters: TuningHyperparameters) -> None:
        self._base = base
        self._adapted = adapted
        self._optimiser = torch.optim.AdamW(
            [parameter for parameter in adapted.parameters() if parameter.requires_grad],
            lr=hyperparameters.effective_learning_rate,
            weight_decay=WEIGHT_DECAY,
            fused=True,
        )

    def step(self, batch: Batch) -> float:
        """Take one step; return the batch's mean loss before it, in nats per learned token."""
        loss = total_loss(self._base, self._adapted, batch) / batch.learned
        value = float(loss.detach())
        if math.isfinite(value):
            torch.autograd.backward(loss)
            self._optimiser.step()
            self._optimiser.zero_grad(set_to_none=True)
        return value


def total_loss(base: LoadedModel, network: Any, batch: Batch) -> torch.Tensor:
    """Return the summed negative log likelihood of a batch's learned tokens, in nats."""
    kept = {"logits_to_keep": batch.kept} if base.keeps_logits else {}
    logits = network(input_ids=batch.tokens, use_cache=False, **kept).logits[:, -batch.kept :]
    return cross_entropy(logits.float().flatten(0, 1), batch.labels.flatten(), reduction="sum")


@torch.no_grad()
def _mean_loss(
    base: LoadedModel, network: Any, examples: list[EncodedExample], request: TuningRequest, observer: Observer
) -> float:
    """Return the mean loss over all learned tokens of the examples, in nats."""
    total, learned = 0.0, 0
    for positions in batches_by_length([len(example) for example in examples], VALIDATION_ROWS):
        if observer.is_cancelled(request):
            raise CancelledJobError
        batch = collate([examples[position] for position in positions], base.pad_id, base.device)
        total += float(total_loss(base, network, batch))
        learned += batch.learned
    return total / learned


def _base_loss(base: LoadedModel, examples: list[EncodedExample], request: TuningRequest, observer: Observer) -> float:
    """Return the untouched base model's loss, measured once for the same examples."""
    content = [(example.prompt, example.target, example.earlier) for example in examples]
    digest = hashlib.sha256(repr(content).encode()).hexdigest()
    if digest not in base.base_losses:
        base.base_losses[digest] = _mean_loss(base, base.network, examples, request, observer)
    return base.base_losses[digest]


def _check_loss(loss: float, what: str) -> None:
    if not math.isfinite(loss):
        raise DivergedError(f"{what} is {loss}; it has to be finite; lower hyperparameters.learning_rate")


def _check_finite(adapted: Any, after: Snapshot) -> None:
    learned = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    if not all(bool(torch.isfinite(parameter).all()) for parameter in learned):
        raise DivergedError(
            f"the adapter holds NaN or infinity after step {after.step} (epoch {after.epoch}); it has to be finite; "
            "lower hyperparameters.learning_rate"
        )
