"""Supervised training of adapters: loss on the tokens of learned answers only, AdamW, a constant learning rate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tunerun.engine.network import LoadedModel
from tunerun.engine.pack import Pack
from tunerun.engine.training_run import Observer, Outcome
from tunerun.job import TuningRequest


def train(
    requests: Sequence[TuningRequest],
    base: LoadedModel,
    observer: Observer,
    *,
    most: int = 1,
    keep_cancelled: bool = False,
    states: Path | None = None,
) -> Iterator[Outcome]:
    """Train requests that share a base model until all have ended. `Pack` describes the arguments.

    Yields:
        One outcome for each request, in the order in which they end.
    """
    pack = Pack(base, observer, most=most, keep_cancelled=keep_cancelled, states=states)
    pack.add(requests)
    while not pack.is_empty:
        yield from pack.step()
