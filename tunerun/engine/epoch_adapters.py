"""The adapters that epochs of a training run leave: the last one, the best one, and means of the last ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from tunerun.engine.lora import LearningAdapter
from tunerun.job import EpochLoss, TuningHyperparameters


class EpochAdapters:
    """The adapters of earlier epochs that a run's requests need: to average over, or as the best epoch.

    Args:
        adapter: the adapter in training.
        chosen: the hyperparameters of all requests.

    Attributes:
        losses: by `average_last`: the validation loss after each epoch of the mean of that many epochs.
        best: the epoch with the lowest validation loss without averaging, the earlier one of equal losses; None: no
            request keeps the best epoch, or no loss has been measured yet.
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
        """Whether everything is kept that a request with these settings needs of the epochs so far."""
        return settings.average_last in self.losses and (self._keeps_best or not settings.keeps_best)

    def end_epoch(self) -> None:
        """Keep a copy of the current adapter if any mean needs it."""
        if self._most > 1:  # a copy, because the next step changes the adapter in place
            self._last = [*self._last, self._adapter.copy()][-self._most :]

    def mean(self, epochs: int) -> LearningAdapter:
        """Return the mean of the adapters after the last epochs.

        Args:
            epochs: how many, at least one; if fewer have ended, the mean is over these.

        Returns:
            A new adapter; for one epoch the adapter in training itself, which the next step changes.
        """
        if epochs == 1:
            return self._adapter
        # A and B are averaged separately. That is an adapter of the same rank, and what the literature calls averaging
        # of weights (stochastic weight averaging, arXiv 1803.05407; model soups, arXiv 2203.05482). It is not the mean
        # of the products B A, whose rank is the sum of the ranks.
        chosen = self._last[-epochs:]
        return self._adapter.like([torch.stack(values).mean(0) for values in zip(*chosen, strict=True)])

    def measured(self, losses: Mapping[int, EpochLoss]) -> None:
        """Record the losses after an epoch, and keep a copy of the adapter if it is the best so far.

        Args:
            losses: by `average_last`.
        """
        for epochs, loss in losses.items():
            self.losses[epochs].append(loss)
        # Strictly less: of equal losses the earlier epoch is kept.
        if self._keeps_best and 1 in losses and (self.best is None or losses[1].loss < self.best.loss):
            self.best, self._best = losses[1], self._adapter.copy()

    def of(self, settings: TuningHyperparameters) -> LearningAdapter:
        """Return the adapter for a request with these settings whose last epoch has just ended."""
        return self._adapter.like(self._best) if settings.keeps_best else self.mean(settings.average_last)

    def state(self) -> dict[str, torch.Tensor]:
        """Return copies of the kept adapters as tensors by name, for `load_state`."""
        kept = {f"last.{place}": values for place, values in enumerate(self._last)}
        if self._best:
            kept["best"] = self._best
        return {f"{name}.{number}": value for name, values in kept.items() for number, value in enumerate(values)}

    def load_state(
        self, state: Mapping[str, torch.Tensor], losses: Mapping[int, Sequence[EpochLoss]], best: EpochLoss | None
    ) -> None:
        """Restore what another process kept.

        Args:
            state: from `state`.
            losses: as the attribute.
            best: as the attribute.
        """
        count = len(self._adapter.parameters())

        def values(name: str) -> list[torch.Tensor]:
            return [state[f"{name}.{number}"] for number in range(count)]

        kept = sum(name.startswith("last.") for name in state) // count
        self._last = [values(f"last.{place}") for place in range(kept)]
        self.best, self._best = best, [] if best is None else values("best")
        self.losses = {epochs: list(losses[epochs]) for epochs in self.losses}
