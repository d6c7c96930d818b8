"""What the epochs of a training run have left: the adapter that each request would be given after each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from tunerun.engine.lora import LearningAdapter
from tunerun.job import EpochLoss, TuningHyperparameters


class EpochAdapters:
    """The adapters after the epochs that some requests average over, and after the best epoch.

    A mean is of the matrices A and of the matrices B, each by themselves: that is an adapter of the same rank, and what
    the literature calls averaging of adapters or of weights (stochastic weight averaging, arXiv 1803.05407; model
    soups, arXiv 2203.05482). It is not the mean of the products B A, which needs the sum of the ranks; whatever it is
    worth, the validation loss that is reported is its own.

    Args:
        adapter: what learns.
        chosen: the settings of all requests.

    Attributes:
        losses: on held-out examples, after each epoch, by the number of epochs that the adapter is the mean of.
        best: the epoch with the lowest loss of the adapter that learns, the earlier of equal ones; None: there is none.
    """

    def __init__(self, adapter: LearningAdapter, chosen: Sequence[TuningHyperparameters]) -> None:
        self._adapter = adapter
        self._most = max(settings.average_last for settings in chosen)
        self._keeps_best = any(settings.keeps_best for settings in chosen)
        self._last: list[list[torch.Tensor]] = []
        self._best: list[torch.Tensor] = []
        self.losses: dict[int, list[EpochLoss]] = {settings.average_last: [] for settings in chosen}
        self.best: EpochLoss | None = None

    def serves(self, settings: TuningHyperparameters) -> bool:
        """Whether a request with these settings misses nothing of the epochs by now."""
        return settings.average_last in self.losses and (self._keeps_best or not settings.keeps_best)

    def end_epoch(self) -> None:
        """Remember the adapter as it is now, as far as means need it."""
        if self._most > 1:
            self._last = [*self._last, self._adapter.copy()][-self._most :]

    def mean(self, epochs: int) -> LearningAdapter:
        """Return the mean of the adapters after the last so many epochs, or of all if there are fewer.

        It is what learns itself where it is of one epoch, which changes with the next step.
        """
        if epochs == 1:
            return self._adapter
        chosen = self._last[-epochs:]
        return self._adapter.like([torch.stack(values).mean(0) for values in zip(*chosen, strict=True)])

    def measured(self, losses: Mapping[int, EpochLoss]) -> None:
        """Take note of losses after an epoch, by the number of epochs that the adapter is the mean of."""
        for epochs, loss in losses.items():
            self.losses[epochs].append(loss)
        if self._keeps_best and 1 in losses and (self.best is None or losses[1].loss < self.best.loss):
            self.best, self._best = losses[1], self._adapter.copy()

    def of(self, settings: TuningHyperparameters) -> LearningAdapter:
        """Return what a request with these settings is given after this epoch, if it is its last one."""
        return self._adapter.like(self._best) if settings.keeps_best else self.mean(settings.average_last)

    # To resume from

    def state(self) -> dict[str, torch.Tensor]:
        """Return all that `load_state` needs beside `losses` and `best`, as one flat mapping of tensors."""
        kept = {f"last.{place}": values for place, values in enumerate(self._last)}
        if self._best:
            kept["best"] = self._best
        return {f"{name}.{number}": value for name, values in kept.items() for number, value in enumerate(values)}

    def load_state(
        self, state: Mapping[str, torch.Tensor], losses: Mapping[int, Sequence[EpochLoss]], best: EpochLoss | None
    ) -> None:
        """Continue where the epochs of another process were."""
        count = len(self._adapter.parameters())

        def values(name: str) -> list[torch.Tensor]:
            return [state[f"{name}.{number}"] for number in range(count)]

        kept = sum(name.startswith("last.") for name in state) // count
        self._last = [values(f"last.{place}") for place in range(kept)]
        self.best, self._best = best, [] if best is None else values("best")
        self.losses = {epochs: list(losses[epochs]) for epochs in self.losses}
