"""What a trial's loss curves say about `epoch_count`, by one rule for each shape.

The curves are the mean training loss of each epoch, L1 to Ln, and the loss on the held-out examples after each epoch,
V1 to Vn, where the backend measures it. `best` is the epoch with the lowest V, the earliest of equal ones. Of V,
differences of up to a twentieth count as none: of its whole fall V1 - min(V) or of min(V), whichever is larger, so that
neither a curve that falls to nearly nothing nor one that never falls is read for its noise.

1. too short: fewer than 3 epochs.
2. unstable: a loss is not finite; or no epoch has a lower L than the first; or Ln lies above min(L) by more than a
   fifth of the whole fall L1 - min(L); or Vn lies above V of the best epoch by more than the twentieth, and Ln above L
   of that epoch. A smaller learning rate is advised.
3. overfitting from epoch `best`: Vn lies above V of the best epoch by more than the twentieth, while L did not rise
   from that epoch to the last. `epoch_count: best` or `keep: best` is advised.
4. flat after epoch e: from e on, no epoch is lower than e by more than the twentieth, and e is not the last; the first
   such e. `epoch_count: e` gives the same. V is read; without it L, and the twentieth is one of its whole fall.
5. still falling: none of these. More epochs are advised.

The Gemini API's tuning guide (as last served, 2025-04-28) advises to take fewer epochs where the loss goes flat, and
more where it still falls. The shares are our choice. Whether the answers are better is for the verdict to say: a
validation loss can rise while more answers are right.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from tunerun.job import EpochLoss, Snapshot

UNSTABLE_SHARE = 1 / 5
FLAT_SHARE = 1 / 20
MIN_EPOCHS = 3


class Shape(StrEnum):
    """What a trial's loss curves show."""

    SHORT = "too short"
    UNSTABLE = "unstable"
    OVERFITTING = "overfitting"
    FLAT = "flat"
    FALLING = "still falling"


@dataclass(frozen=True)
class Advice:
    """What the curves show, and what to do.

    Attributes:
        text: in one clause.
        after: the epoch after which it is flat or overfitting; None: it is neither.
    """

    shape: Shape
    text: str
    after: int | None = None

    @property
    def summary(self) -> str:
        """What the curves show, in four words at most."""
        return f"{self.shape}" if self.after is None else f"{self.shape} after {self.after}"


def epoch_means(snapshots: Sequence[Snapshot]) -> list[float]:
    """Return the mean of `mean_loss` over the steps of each epoch, from the first epoch; in nats per output token."""
    losses: dict[int, list[float]] = defaultdict(list)
    for snapshot in snapshots:
        losses[snapshot.epoch].append(snapshot.mean_loss)
    return [sum(values) / len(values) for _, values in sorted(losses.items())]


def finished_epochs(snapshots: Sequence[Snapshot], *, is_done: bool) -> list[Snapshot]:
    """Return the snapshots of whole epochs.

    Args:
        is_done: whether the job has succeeded, so that its last epoch is whole too.
    """
    # A snapshot does not say whether it is the last of its epoch; the next epoch's first one does.
    return [s for s in snapshots if is_done or s.epoch < snapshots[-1].epoch]


def advise(training: Sequence[float], validation: Sequence[EpochLoss] = (), *, keeps_best: bool = False) -> Advice:
    """Read a trial's curves by the rules at the top of this module.

    Args:
        training: the mean training loss of each epoch.
        validation: the loss after each epoch; not read where an epoch is missing.
        keeps_best: whether the tuned model is that of the best epoch.
    """
    if len(training) < MIN_EPOCHS:
        return Advice(Shape.SHORT, "too short to read")
    # A backend may report only some epochs, and an average over others would be compared with the wrong ones.
    held_out = [one.loss for one in validation]
    if [one.epoch for one in validation] != list(range(1, len(training) + 1)):
        held_out = []
    fall = training[0] - min(training)
    is_finite = all(map(math.isfinite, (*training, *held_out)))
    if not is_finite or fall <= 0 or training[-1] - min(training) > UNSTABLE_SHARE * fall:
        return Advice(Shape.UNSTABLE, "unstable: try a smaller learning rate")

    name, losses, least = "training", list(training), FLAT_SHARE * fall
    if held_out:
        lowest = min(held_out)
        best = held_out.index(lowest) + 1
        # A twentieth of the fall or of the loss, whichever is larger: a curve that falls to nearly nothing, or one that
        # never falls, is not read for its noise.
        name, losses, least = "validation", held_out, FLAT_SHARE * max(held_out[0] - lowest, lowest)
        if held_out[-1] - lowest > least:
            if training[-1] > training[best - 1]:
                text = f"unstable: both losses rise after epoch {best}; try a smaller learning rate"
                return Advice(Shape.UNSTABLE, text)
            what_to_do = (
                f"epoch {best} was kept" if keeps_best else f"set epoch_count: {best}, or hyperparameters.keep: best"
            )
            text = (
                f"overfitting after epoch {best}: the validation loss rises from {lowest:.3g} to {held_out[-1]:.3g} "
                f"while the training loss does not; {what_to_do}"
            )
            return Advice(Shape.OVERFITTING, text, best)

    for epoch in range(1, len(losses)):
        if losses[epoch - 1] - min(losses[epoch:]) <= least:
            text = f"flat after epoch {epoch}: epoch_count: {epoch} gives the same {name} loss"
            return Advice(Shape.FLAT, text, epoch)
    return Advice(Shape.FALLING, f"still falling: more epochs lower the {name} loss further")
