"""What a plan takes from a record: the examples in the place of files, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tunerun.dataset import LoadedDataset


@dataclass(frozen=True)
class Recorded:
    """What is not in the experiment of a sweep that is made from the record of another one.

    Attributes:
        examples: of each point, by its number; None: the files of the experiment's datasets are read.
        round: how often everything had been run anew under this name, which is part of the keys; None: as the ledger
            says.
        rerun: tells this rerun from the sweep that it repeats and from its other reruns, for they have the same keys;
            empty: a sweep of its own.
        document: what the ledger freezes of its origin: `rerun_of` or `parent`.
    """

    examples: Mapping[int, LoadedDataset] | None = None
    round: int | None = None
    rerun: str = ""
    document: Mapping[str, Any] = field(default_factory=dict)


NOTHING = Recorded()
"""Of an experiment that is planned from its config and files alone."""
