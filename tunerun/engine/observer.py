"""What training reports while it runs, to whom, and how a request ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tunerun.engine.lora import LearningAdapter
from tunerun.job import EpochLoss, Failure, JobState, Snapshot, TuningRequest


@dataclass(frozen=True)
class Trained:
    """The result of a request, final or so far.

    Attributes:
        adapter: the current adapter; training changes it after the observer's call returns, so save it within the call.
        snapshots: one for each optimiser step so far.
        validation: the validation loss after each epoch so far, of the adapter that this request would get.
        metrics: see `JobStatus.metrics`.
        state: SUCCEEDED, CANCELLED, or RUNNING for an epoch that is not the last.
        form: the name of the layout of rows in a pass; see `engine.forms`.
        training_run: the key of the longest request of the same training run, of which this one is the beginning;
            empty if it is the longest itself.
        packed_with: the keys of the requests of other training runs that shared passes with it, sorted.
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
    """Receives the progress of training and answers whether to continue.

    All methods are called from the thread that trains, between passes. Per request the order is `began`, then
    `snapshot`, `validated` and `kept` epoch by epoch, and `trained` last. Progress that a request inherits (it joined
    an active run, or the run was resumed) is reported with the same calls, followed by `kept_before`.
    """

    def began(self, requests: Sequence[TuningRequest]) -> None:
        """Requests start training, all in one training run. Called again with all of them when another one joins."""

    def snapshot(self, request: TuningRequest, snapshot: Snapshot) -> None:
        """An optimiser step was taken."""

    def validated(self, request: TuningRequest, loss: EpochLoss) -> None:
        """The loss on held-out examples was measured after an epoch."""

    def kept(self, request: TuningRequest, trained: Trained) -> None:
        """Save the adapter of an epoch that is not the last; called for requests that keep every epoch."""

    def kept_before(self, request: TuningRequest, ends: Sequence[Snapshot]) -> None:
        """Epochs that end at these snapshots were saved by `kept` before, for the same request.

        Called after the snapshots and losses of those epochs have been reported again.
        """

    def state_not_kept(self, request: TuningRequest, reason: str) -> None:
        """The state for resuming in another process cannot be written; called once for each request."""

    def is_cancelled(self, request: TuningRequest) -> bool:
        """Whether the request has to stop now."""

    def is_paused(self, request: TuningRequest) -> bool:
        """Whether a cancelled request will be resumed later, so that its state has to be kept."""

    def trained(self, request: TuningRequest, trained: Trained) -> None:
        """Save the adapter of a request that has ended."""


@dataclass(frozen=True)
class TrainingOutcome:
    """How one request ended.

    Attributes:
        request: the request.
        state: SUCCEEDED, FAILED or CANCELLED.
        metrics: see `JobStatus.metrics`.
        failure: why it FAILED; None otherwise.
        trained: the result that was saved; None: nothing was saved.
    """

    request: TuningRequest
    state: JobState
    metrics: dict[str, float] = field(default_factory=dict)
    failure: Failure | None = None
    trained: Trained | None = None
