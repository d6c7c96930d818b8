"""What a plan takes from the record of another sweep: examples instead of files, and its origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tunerun.dataset import LoadedDataset
from tunerun.judges.prompt import Rating
from tunerun.provenance import Facts


@dataclass(frozen=True)
class Recorded:
    """Data of a recorded sweep that a plan made from it needs in addition to its experiment.

    Attributes:
        examples: of each point, by its number; None: read the files of the experiment's datasets.
        round: the record's number of `--fresh` restarts, which is part of the keys; None: take it from the ledger.
        rerun: distinguishes this rerun from the sweep that it repeats and from other reruns, which all have the same
            keys; empty: not a rerun.
        document: what the ledger freezes about the origin: `rerun_of` or `parent`.
        facts: environment and files of the recorded sweep.
        judges: the judges' entries in the recorded sweep's document.
        ratings: recorded judgements by judge and item; a rerun calls no judge.
    """

    examples: Mapping[int, LoadedDataset] | None = None
    round: int | None = None
    rerun: str = ""
    document: Mapping[str, Any] = field(default_factory=dict)
    facts: Facts = field(default_factory=Facts)
    judges: Mapping[str, Any] = field(default_factory=dict)
    ratings: Mapping[tuple[str, str], Rating] = field(default_factory=dict)

    def with_files(self, facts: Facts) -> Facts:
        """Return this machine's facts, completed with files that were read for the record but not here."""
        return replace(
            facts,
            config_files=facts.config_files or self.facts.config_files,
            data_files=facts.data_files if self.examples is None else self.facts.data_files,
        )


NOTHING = Recorded()
"""For an experiment that is planned from its config and files alone."""
