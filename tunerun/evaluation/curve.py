"""What a loss curve says about `epoch_count`, by one documented rule.

The Gemini API's tuning guide advises to take fewer epochs where the loss goes flat, and more where it still falls.
The rule here reads the mean loss of each epoch, L1 to Ln (n at least 3), against the whole fall L1 - min(L):

1. unstable: a loss is not finite, or the last epoch lies above the lowest by more than a fifth of the whole fall, or
   nothing fell at all.
2. flat after epoch e: from e on, no epoch is better than e by more than a twentieth of the whole fall, and e is
   not the last. `epoch_count: e` gives the same.
3. still falling: the last epoch still gained more than a twentieth of the whole fall.

With fewer than 3 epochs the curve says nothing. It is the training loss that is read: what more or fewer epochs do to
held-out examples is for the verdict to say.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from tunerun.job import Snapshot

UNSTABLE_SHARE = 1 / 5
FLAT_SHARE = 1 / 20
MIN_EPOCHS = 3


class Shape(StrEnum):
    """How a loss curve ends."""

    SHORT = "too short"
    UNSTABLE = "unstable"
    FLAT = "flat"
    FALLING = "still falling"


@dataclass(frozen=True)
class Advice:
    """How a curve ends, the epoch after which it is flat, and what to do, in one sentence."""

    shape: Shape
    text: str
    flat_after: int | None = None

    @property
    def summary(self) -> str:
        """How the curve ends, in three words at most."""
        return f"flat after {self.flat_after}" if self.flat_after is not None else f"{self.shape}"


def epoch_means(snapshots: Sequence[Snapshot]) -> list[float]:
    """The mean of `mean_loss` over the steps of each epoch, from the first epoch; in nats per output token."""
    losses: dict[int, list[float]] = defaultdict(list)
    for snapshot in snapshots:
        losses[snapshot.epoch].append(snapshot.mean_loss)
    return [sum(values) / len(values) for _, values in sorted(losses.items())]


def finished_epochs(snapshots: Sequence[Snapshot], *, is_done: bool) -> list[Snapshot]:
    """The part of a loss curve whose epochs are whole: all of a job that has succeeded, else without its last epoch."""
    return [s for s in snapshots if is_done or s.epoch < snapshots[-1].epoch]


def advise(losses: Sequence[float]) -> Advice:
    """Read the mean losses of a curve's epochs by the rule at the top of this module."""
    if len(losses) < MIN_EPOCHS:
        return Advice(Shape.SHORT, "too short to read")
    fall = losses[0] - min(losses)
    if not all(map(math.isfinite, losses)) or fall <= 0 or losses[-1] - min(losses) > UNSTABLE_SHARE * fall:
        return Advice(Shape.UNSTABLE, "unstable: try a smaller learning rate")
    for epoch in range(1, len(losses)):
        if losses[epoch - 1] - min(losses[epoch:]) <= FLAT_SHARE * fall:
            return Advice(
                Shape.FLAT, f"flat after epoch {epoch}: epoch_count: {epoch} gives the same training loss", epoch
            )
    return Advice(Shape.FALLING, "still falling: more epochs lower the training loss further")
