"""What a plan needs from the ledger: finished trials, training speeds, and earlier sweeps of the same name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tunerun.job import JobState
from tunerun.ledger import Ledger, Spending, SweepRecord, TrialRecord


@dataclass
class History:
    """The ledger's content when planning started.

    Attributes:
        path: the ledger's file, which need not exist.
        states: final state of every trial key whose last job is finished.
        sweeps: sweeps of the experiment's name, the newest last.
        spending: cost of each of these sweeps, by sweep id.
        settled: the same without running jobs.
        rates: training seconds per token of successful jobs, by backend and base model.
    """

    path: Path
    states: Mapping[str, JobState] = field(default_factory=dict)
    sweeps: Sequence[SweepRecord] = ()
    spending: Mapping[str, Spending] = field(default_factory=dict)
    settled: Mapping[str, Spending] = field(default_factory=dict)
    rates: Mapping[tuple[str, str], float] = field(default_factory=dict)

    @property
    def newest(self) -> SweepRecord | None:
        """The newest sweep of the experiment's name; None: the experiment has never run."""
        return self.sweeps[-1] if self.sweeps else None

    @property
    def round(self) -> int:
        """The number of times that `--fresh` restarted every trial under this name."""
        return 0 if self.newest is None else int(self.newest.document.get("round", 0))

    @cached_property
    def newest_trials(self) -> list[TrialRecord]:
        """The trials of the newest sweep; read on first use, because there may be thousands."""
        if self.newest is None:
            return []
        with Ledger.open_read_only(self.path) as ledger:
            return ledger.trials(self.newest.id)

    @cached_property
    def answered_by_baselines(self) -> frozenset[tuple[str, str, str]]:
        """What baselines of any sweep have answered, as keyed: subject, digest of the held-out set, answer method."""
        if not self.path.exists():
            return frozenset()
        with Ledger.open_read_only(self.path) as ledger:
            return ledger.answered_by_baselines()

    def baseline_tokens(self, sweep: str) -> int | None:
        """Return the tokens planned for a sweep's baselines when it was frozen; None: it is not frozen."""
        if sweep not in self.spending:
            return None
        with Ledger.open_read_only(self.path) as ledger:
            return sum(int(record.document.get("tokens", 0)) for record in ledger.baselines(sweep))

    def newest_result(self, other_than: str) -> tuple[SweepRecord, TrialRecord] | None:
        """Return the newest sweep with a successful trial, and that trial; None: there is nothing to compare with.

        Args:
            other_than: the id of a sweep to skip.
        """
        if not any(state is JobState.SUCCEEDED for state in self.states.values()):
            return None
        # A sweep without a successful trial has no result that a change of the data could make incomparable.
        with Ledger.open_read_only(self.path) as ledger:
            for sweep in reversed(self.sweeps):
                trials = ledger.trials(sweep.id) if sweep.id != other_than else ()
                first = next((t for t in trials if self.states.get(t.key) is JobState.SUCCEEDED), None)
                if first is not None:
                    return sweep, first
        return None

    def is_unfinished(self, sweep: str) -> bool:
        """Return whether this is the newest sweep and some of its trials have not finished."""
        if self.newest is None or self.newest.id != sweep:
            return False
        return any(trial.key not in self.states for trial in self.newest_trials)


def read_history(path: Path, experiment: str) -> History:
    """Read what a plan needs from a ledger, if it exists; nothing in its folder is changed.

    Args:
        path: the ledger's file.
        experiment: the name whose sweeps are read.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    if not path.exists():
        return History(path)
    # Read-only works on a copy: even a reading connection would write the -shm file of a database in WAL mode.
    with Ledger.open_read_only(path) as ledger:
        sweeps = ledger.sweeps(experiment)
        return History(
            path,
            states=ledger.final_states(),
            sweeps=sweeps,
            spending={sweep.id: ledger.spending(sweep.id) for sweep in sweeps},
            settled={sweep.id: ledger.spending(sweep.id, under_way=False) for sweep in sweeps},
            rates=ledger.seconds_per_token(),
        )
