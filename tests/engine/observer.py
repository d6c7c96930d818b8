"""Training's observer for tests: keeps what it is told, in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunerun.engine import network
from tunerun.job import EpochLoss, JobState, Snapshot, TuningRequest


class Recording:
    """Keeps snapshots and adapters by key; cancels a request after `cancel_after` steps."""

    def __init__(self, cancel_after: int | None = None, folder: Path | None = None) -> None:
        self.snapshots: dict[str, list[Snapshot]] = {}
        self.validation: dict[str, list[EpochLoss]] = {}
        self.kept_steps: dict[str, list[int]] = {}
        self.adapters: dict[str, dict[str, Any]] = {}
        self._cancel_after = cancel_after
        self._folder = folder

    def snapshot(self, request: TuningRequest, snapshot: Snapshot) -> None:
        self.snapshots.setdefault(request.key, []).append(snapshot)

    def validated(self, request: TuningRequest, loss: EpochLoss) -> None:
        self.validation.setdefault(request.key, []).append(loss)

    def kept(
        self,
        request: TuningRequest,
        adapted: Any,  # noqa: ARG002 - the Protocol's
        step: Snapshot,
        snapshots: Sequence[Snapshot],  # noqa: ARG002 - the Protocol's
        validation: Sequence[EpochLoss],  # noqa: ARG002 - the Protocol's
    ) -> None:
        self.kept_steps.setdefault(request.key, []).append(step.step)

    def is_cancelled(self, request: TuningRequest) -> bool:
        return self._cancel_after is not None and len(self.snapshots.get(request.key, ())) >= self._cancel_after

    def trained(  # the training's own record is not needed: what was told step by step is kept
        self,
        request: TuningRequest,
        adapted: Any,
        snapshots: Sequence[Snapshot],  # noqa: ARG002 - the Protocol's
        validation: Sequence[EpochLoss],  # noqa: ARG002 - the Protocol's
        metrics: dict[str, float],  # noqa: ARG002 - the Protocol's
        state: JobState,  # noqa: ARG002 - the Protocol's
    ) -> None:
        self.adapters[request.key] = {
            name: parameter.detach().clone()
            for name, parameter in adapted.named_parameters()
            if parameter.requires_grad
        }
        if self._folder is not None:
            network.save_adapter(adapted, (request.model.source, None), self._folder / request.tuned_model_id)

    def losses(self, request: TuningRequest) -> list[float]:
        return [snapshot.mean_loss for snapshot in self.snapshots.get(request.key, ())]
