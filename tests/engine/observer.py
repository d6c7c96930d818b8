"""Training's observer for tests: keeps its calls in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunerun.engine.observer import Trained, TrainingOutcome
from tunerun.job import EpochLoss, Snapshot, TuningRequest


class Recording:
    """Keeps snapshots and adapters by key; cancels a request after `cancel_after` steps."""

    def __init__(self, cancel_after: int | None = None, folder: Path | None = None) -> None:
        self.snapshots: dict[str, list[Snapshot]] = {}
        self.validation: dict[str, list[EpochLoss]] = {}
        self.kept_steps: dict[str, list[int]] = {}
        self.adapters: dict[str, dict[str, Any]] = {}
        self.finished: dict[str, Trained] = {}
        self.outcomes: dict[str, TrainingOutcome] = {}
        self.paused: set[str] = set()
        self.without_state: list[tuple[str, str]] = []
        self._cancel_after = cancel_after
        self._folder = folder

    def began(self, requests: Sequence[TuningRequest]) -> None:
        pass

    def snapshot(self, request: TuningRequest, snapshot: Snapshot) -> None:
        self.snapshots.setdefault(request.key, []).append(snapshot)

    def validated(self, request: TuningRequest, loss: EpochLoss) -> None:
        self.validation.setdefault(request.key, []).append(loss)

    def kept(self, request: TuningRequest, trained: Trained) -> None:
        self.kept_steps.setdefault(request.key, []).append(trained.snapshots[-1].step)

    def state_not_kept(self, request: TuningRequest, reason: str) -> None:
        self.without_state.append((request.key, reason))

    def kept_before(self, request: TuningRequest, ends: Sequence[Snapshot]) -> None:
        self.kept_steps.setdefault(request.key, []).extend(one.step for one in ends)

    def is_paused(self, request: TuningRequest) -> bool:
        return request.key in self.paused

    def is_cancelled(self, request: TuningRequest) -> bool:
        return self._cancel_after is not None and len(self.snapshots.get(request.key, ())) >= self._cancel_after

    def trained(self, request: TuningRequest, trained: Trained) -> None:
        self.finished[request.key] = trained
        self.adapters[request.key] = {name: matrix.detach().clone() for name, matrix in trained.adapter.named().items()}
        if self._folder is not None:
            trained.adapter.save((request.model.source, None), self._folder / request.tuned_model_id)

    def losses(self, request: TuningRequest) -> list[float]:
        return [snapshot.mean_loss for snapshot in self.snapshots.get(request.key, ())]
