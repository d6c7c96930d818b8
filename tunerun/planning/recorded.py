"""What a plan takes from a record: the examples in the place of files, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tunerun.dataset import LoadedDataset
from tunerun.judges.prompt import Rating
from tunerun.provenance import Facts


@dataclass(frozen=True)
class Recorded:
    """What is not in the experiment of a sweep that is made from the record of another one.

    Attributes:
        examples: of each point, by its number; None: the files of the experiment's datasets are read.
        round: how often every trial had been run again under this name, which is part of the keys; None: as the ledger
            says.
        rerun: tells this rerun from the sweep that it repeats and from its other reruns, for they have the same keys;
            empty: a sweep of its own.
        document: what the ledger freezes of its origin: `rerun_of` or `parent`.
        facts: of the sweep that was recorded.
        judges: what its document says of its judges.
        ratings: its judgements by judge and item: a rerun asks no judge.
    """

    examples: Mapping[int, LoadedDataset] | None = None
    round: int | None = None
    rerun: str = ""
    document: Mapping[str, Any] = field(default_factory=dict)
    facts: Facts = field(default_factory=Facts)
    judges: Mapping[str, Any] = field(default_factory=dict)
    ratings: Mapping[tuple[str, str], Rating] = field(default_factory=dict)

    def with_files(self, facts: Facts) -> Facts:
        """The facts of this machine, with the files that were read for the record and not here."""
        return replace(
            facts,
            config_files=facts.config_files or self.facts.config_files,
            data_files=facts.data_files if self.examples is None else self.facts.data_files,
        )


NOTHING = Recorded()
"""Of an experiment that is planned from its config and files alone."""
