"""Trains requests without an engine's process, until all have ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tunerun.engine.network import LoadedModel
from tunerun.engine.observer import Observer, TrainingOutcome
from tunerun.engine.pack import Pack
from tunerun.job import TuningRequest


def train(
    requests: Sequence[TuningRequest], base: LoadedModel, observer: Observer, *, most: int = 1
) -> Iterator[TrainingOutcome]:
    """Train requests that share a base model; yield their outcomes in the order in which they end."""
    pack = Pack(base, observer, most=most)
    pack.add(requests)
    while not pack.is_empty:
        yield from pack.step()
