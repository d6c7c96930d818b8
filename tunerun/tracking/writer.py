"""The tracker: a thread that replays the ledger into MLflow while a sweep runs, so that training never waits for it."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from tunerun.errors import LedgerError, TrackingError
from tunerun.ledger import FILE_NAME, Ledger
from tunerun.ledger.subjects import key_of_subject, subject_of_sweep
from tunerun.locks import holder_of
from tunerun.redaction import redact
from tunerun.schema import Tracking
from tunerun.tracking.address import choose, parse_address
from tunerun.tracking.connection import RefusedError
from tunerun.tracking.replay import Replay, SyncReport
from tunerun.tracking.run_projection import VIEW, FrozenSweep
from tunerun.tracking.store import Store
from tunerun.tracking.view import runs_path, sorted_path

LOCK_WAIT_S = 20.0
"""How long a last replay, or one that was asked for, waits for another process that is replaying."""


def open_tracker(tracking: Tracking, runs: Path) -> Tracker | None:
    """Return the tracker of a config, None if it has none; nothing is imported or opened yet.

    Args:
        tracking: the section of the config.
        runs: the folder of the ledger, `paths.runs`.

    Raises:
        ConfigError: the tracking URI, of the config or the environment, is not one that MLflow can keep runs in.
    """
    if tracking.kind == "none":
        return None
    return Tracker(runs / FILE_NAME, choose(tracking, runs, "").address.uri)


class Tracker:
    """Brings one MLflow store up to date with one ledger, now or every few seconds.

    What goes wrong with MLflow is never raised but kept in `problem`: the ledger has everything, and the next replay
    brings it. Processes that share a ledger take turns by a lock beside it; one that finds it taken skips its turn.

    Args:
        ledger_path: the ledger's file; need not exist before the first replay.
        uri: a tracking URI; it may hold a password, which is never displayed.
        interval_s: seconds between two replays.

    Attributes:
        uri: the tracking URI, a SQLite path made absolute.
        name: the same without user and password.
        store: the store, for what is not in the ledger; not to be used beside the thread.
        problem: what went wrong last, in one line for the user; None: nothing did.

    Raises:
        ConfigError: MLflow cannot keep runs at the URI.
    """

    def __init__(self, ledger_path: Path, uri: str, interval_s: float = 3.0) -> None:
        address = parse_address(uri, ledger_path.parent)
        self.uri = address.uri
        self.name = address.name
        self.problem: str | None = None
        self._ledger_path = ledger_path
        self._was_rebuilt = False

        def void_marks() -> None:
            # In a connection of its own: the store is opened by whichever thread uses it first.
            with Ledger(ledger_path) as ledger:
                self._was_rebuilt = ledger.void_marks(self.name) > 0 or self._was_rebuilt

        self.store = Store(address, before_new=void_marks)
        self._interval_s = interval_s
        self._sweep_id: str | None = None
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, sweep_id: str) -> None:
        """Replay a sweep that this process runs, until closed, in a thread of its own."""
        self._sweep_id = sweep_id
        # A daemon: a store that does not answer must not keep a finished process from ending.
        self._thread = threading.Thread(
            target=self._replay_until_closed, args=[sweep_id], name="tunerun-tracker", daemon=True
        )
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        """Replay a last time and stop, in at most `timeout_s` seconds; what is then missing is in `problem`.

        What is not finished by now was interrupted: its runs are closed.
        """
        self._closing.set()
        if self._thread is None:
            return
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self.problem = (
                f"MLflow at {self.name}: not up to date after {timeout_s:g} s; nothing is lost: the ledger has it, "
                "and `tunerun sync` brings MLflow up to date"
            )
        self._thread = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(timeout_s=LOCK_WAIT_S)

    def sync(self, sweep_ids: Sequence[str] | None = None) -> SyncReport:
        """Bring MLflow up to date now, in this thread.

        Args:
            sweep_ids: None: all sweeps of the ledger.

        Raises:
            LedgerError: the ledger cannot be read.
            NotFoundError: the ledger holds no such sweep.
        """
        with Ledger(self._ledger_path) as ledger:
            replay = Replay(ledger, self.store, self.name, self._is_run)
            wanted = [sweep.id for sweep in ledger.sweeps()] if sweep_ids is None else list(sweep_ids)
            self._turn(replay, wanted, LOCK_WAIT_S)
            return SyncReport(len(wanted), replay.runs, replay.points, self.problem)

    def run_ids(self, ledger: Ledger, sweep_id: str) -> dict[int, str]:
        """Return the run ids of the trials that MLflow has, by number, from the ledger's marks."""
        sweep = FrozenSweep(ledger, sweep_id)
        marks = ledger.trial_marks(self.name, sweep_id, sweep.trial_prefix)
        by_key = {key_of_subject(subject): mark.run_id for subject, mark in marks.items()}
        return {t.number: run_id for t in sweep.trials if (run_id := by_key.get(t.key)) is not None}

    @property
    def notice(self) -> str | None:
        """What was done about a store that was missing or could not be used, in a line for the user; None: nothing."""
        if self.store.connection.notice is not None:
            return f"MLflow's store {self.store.connection.notice}; its runs come from the ledger"
        if self._was_rebuilt:
            return f"MLflow's store at {self.name} was not there: made again from the ledger"
        return None

    def _is_run(self, sweep_id: str) -> bool:
        # Not by its lock, which this process still holds while the last replay closes what was interrupted.
        if sweep_id == self._sweep_id:
            return not self._closing.is_set()
        return holder_of(self._ledger_path.parent, sweep_id) is not None

    @property
    def server(self) -> str | None:
        """The address of the tracking server without user and password; None: `tunerun ui` starts one."""
        return self.name if self.uri.startswith("http") else None

    def link(self, ledger: Ledger, sweep_id: str, metric: str | None = None, *, ascending: bool = False) -> str | None:
        """Return the path of a sweep's view on MLflow's page, from the ledger's marks alone.

        Args:
            ledger: has the marks.
            sweep_id: the sweep.
            metric: what the runs are sorted by while MLflow does not have the view; None: by their start.
            ascending: whether less of it is better.

        Returns:
            None: MLflow does not have the experiment yet.
        """
        marks = ledger.marks(self.name, f"{sweep_id}/")
        experiment = next((m.document["experiment"] for m in marks.values() if "experiment" in m.document), None)
        if experiment is None:
            return None
        own = marks.get(subject_of_sweep(sweep_id))
        view = None if own is None else own.document.get(VIEW)
        if view is not None or metric is None:
            return runs_path(experiment, view)
        return sorted_path(experiment, metric, ascending=ascending)

    def _replay_until_closed(self, sweep_id: str) -> None:
        try:
            with Ledger(self._ledger_path) as ledger:
                replay = Replay(ledger, self.store, self.name, self._is_run)
                is_caught_up = False
                while not self._closing.is_set():
                    self._turn(replay, [sweep_id], 0)
                    # Once, what other commands of the same ledger could not send while MLflow was down.
                    if self.problem is None and not (is_caught_up or self._closing.is_set()):
                        self._turn(replay, replay.overdue(), 0)
                        is_caught_up = self.problem is None
                    self._closing.wait(self._interval_s)
                self._turn(replay, [sweep_id], LOCK_WAIT_S)
        except LedgerError as error:
            self.problem = str(error)

    def _turn(self, replay: Replay, sweep_ids: Sequence[str], lock_wait_s: float) -> None:
        """Replay some sweeps; after a refusal the next sweep is replayed, and if MLflow does not answer, none."""
        problem = None
        lock = FileLock(self._ledger_path.with_name(self._ledger_path.name + ".tracker.lock"), timeout=lock_wait_s)
        try:
            with lock:
                for sweep_id in sweep_ids:
                    try:
                        replay.sweep(sweep_id)
                    except RefusedError as error:
                        problem = problem or str(error)
            self.problem = problem
        except TrackingError as error:
            self.problem = str(error)
        except Timeout:
            if lock_wait_s > 0:
                self.problem = (
                    f"MLflow at {self.name}: another process is bringing it up to date; "
                    "`tunerun sync` does so again when it is done"
                )
        except LedgerError:
            raise
        except Exception as error:  # noqa: BLE001 - otherwise the thread would end without a message to the user
            last = traceback.extract_tb(error.__traceback__)[-1]
            cause = redact(f"{type(error).__name__}: {error}".partition("\n")[0])
            self.problem = (
                f"MLflow at {self.name}: not up to date, by a fault of tunerun or MLflow: {cause} "
                f"({Path(last.filename).name}:{last.lineno}); nothing is lost: the ledger has it, and `tunerun sync` "
                "brings MLflow up to date"
            )
