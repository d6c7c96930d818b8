"""A small sweep at a scripted service, run as a command, and everything that can be read about it afterwards."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.crash.kills import Ended, Kill, run_until
from tests.rigs import gemini_service, openai_service
from tests.rigs.gemini_service import GeminiService
from tests.rigs.http_service import HttpService
from tests.rigs.openai_service import OpenAIService
from tunerun.ledger import Ledger

ROWS = [{"text_input": str(n), "output": str(n + 1)} for n in range(8)]
ENVIRONMENT = {"GEMINI_API_KEY": "planted-key", "OPENAI_API_KEY": "planted-key", "MLFLOW_DISABLE_TELEMETRY": "true"}
STEPS_PER_LOOK = 3
"""A job of four or six steps is found running once, and finished the next time."""


def right_when_tuned(name: str, text: str) -> str:
    return str(int(text) + 1) if name.startswith(("tunedModels", "ft:")) else text


@dataclass(frozen=True)
class Wire:
    """A backend and the scripted service that it speaks to.

    Attributes:
        overrides: of the config, given the service's address.
        begin: gives the service its script.
        effects: everything that the service was asked to create and did.
    """

    overrides: Callable[[str], list[str]]
    begin: Callable[[Any], None]
    effects: Callable[[Any], list[str]]


def _begin_gemini(service: GeminiService) -> None:
    service.script = gemini_service.Script(steps_per_look=STEPS_PER_LOOK, answer=right_when_tuned)


def _begin_openai(service: OpenAIService) -> None:
    service.script = openai_service.Script(steps_per_look=STEPS_PER_LOOK, answer=right_when_tuned)


def _created_and_uploaded(service: OpenAIService) -> list[str]:
    return [*service.created, *(hashlib.sha256(content).hexdigest() for content in service.uploads)]


GEMINI = Wire(
    lambda address: ["backend=gemini", f"backend.base_url={address}"],
    _begin_gemini,
    lambda service: list(service.created),
)
OPENAI = Wire(
    lambda address: [
        "backend=openai",
        f"backend.base_url={address}/v1",
        "hyperparameters.learning_rate=null",
        "hyperparameters.learning_rate_multiplier=1",
    ],
    _begin_openai,
    _created_and_uploaded,
)


@dataclass(frozen=True)
class Outcome:
    """What a user finds: the result as JSON without MLflow's ids, what MLflow shows, and what the service was asked."""

    document: dict[str, Any]
    shown: dict[tuple[str, str], Any]
    created: Counter[str]


class Rig:
    """A folder with examples, a service, and the sweep's command line.

    Args:
        folder: for everything.
        store: an empty MLflow store to copy, which is quicker than making one; None: no tracker.
        makes_store: let the run make its own store; nothing is copied.
        wire: of the service.
    """

    def __init__(
        self,
        folder: Path,
        service: HttpService,
        store: Path | None,
        sweep: str,
        *,
        makes_store: bool = False,
        wire: Wire = GEMINI,
    ) -> None:
        self.service = service
        self._wire = wire
        self.sweep = sweep
        self._folder = folder
        self._store = store
        self._is_tracked = store is not None or makes_store
        self._runs = 0
        (folder / "rows.json").write_text(json.dumps(ROWS))
        (folder / "held_out.json").write_text(json.dumps(ROWS[:1]))
        self.arguments = [
            "run",
            "--json",
            "name=numbers",
            f"dataset.path={folder / 'rows.json'}",
            f"dataset.validation.path={folder / 'held_out.json'}",
            *wire.overrides(service.address),
            "backend.poll_interval_s=0.0",
            "backend.max_in_flight=2",
            "runner.backoff_s=0.0",
            "evaluation.baselines.examples=[0]",
            sweep,
            *([] if self._is_tracked else ["tracking=none"]),
        ]

    def place(self) -> Path:
        """A new folder to run in, and a service that remembers nothing."""
        self.service.forget()
        self._wire.begin(self.service)
        self._runs += 1
        place = self._folder / str(self._runs)
        (place / "runs").mkdir(parents=True)
        if self._store is not None:
            shutil.copy(self._store, place / "runs" / "mlflow.db")
        return place

    def run(self, place: Path, kill: Kill | None = None) -> Ended:
        return run_until(kill, self.arguments, place, ENVIRONMENT, self.service)

    def outcome(self, place: Path, ended: Ended) -> Outcome:
        """What can be read after a successful run; fails if the run failed or a curve has gaps."""
        assert ended.exit_code == 0, ended.stderr
        document = json.loads(ended.stdout)
        for trial in document["trials"]:
            trial.pop("mlflow_run_id")
        _check_curves(place / "runs", document["sweep"])
        shown = {} if not self._is_tracked else _shown(place / "runs" / "mlflow.db")
        return Outcome(document, shown, Counter(self._wire.effects(self.service)))

    def survives(self, *kills: Kill) -> tuple[bool, Outcome]:
        """Run with one kill after the other, then to the end.

        Returns:
            Whether the first kill happened, and the outcome.
        """
        place = self.place()
        struck = []
        for kill in kills:
            ended = self.run(place, kill)
            struck.append(ended.was_killed)
        if struck[-1]:
            ended = self.run(place)
        outcome = self.outcome(place, ended)
        shutil.rmtree(place)
        return struck[0], outcome


def _check_curves(runs: Path, sweep: str) -> None:
    """One job for each key, with every step once."""
    with Ledger(runs / "ledger.db") as ledger:
        for trial in ledger.trials(sweep):
            jobs = ledger.jobs(trial.key)
            assert len(jobs) == 1, [job.state for job in jobs]
            assert [s.step for s in ledger.snapshots(jobs[0].id)] == list(range(1, trial.steps + 1))


def states(store: Path) -> dict[tuple[str, str], str]:
    """The state of every run in MLflow, by kind and trial."""
    return {identity: found[0] for identity, found in _shown(store).items()}


def _shown(store: Path) -> dict[tuple[str, str], Any]:
    """State, params and points of every run, by kind and trial; fails where two runs share those."""
    database = sqlite3.connect(f"file:{store}?mode=ro", uri=True)
    try:
        runs = dict(database.execute("SELECT run_uuid, status FROM runs WHERE lifecycle_stage = 'active'"))
        found: dict[tuple[str, str], Any] = {}
        for run, status in runs.items():
            tags = dict(database.execute("SELECT key, value FROM tags WHERE run_uuid = ?", [run]))
            identity = (tags["tunerun.kind"], tags.get("tunerun.trial", tags.get("tunerun.key", "")))
            assert identity not in found, f"two runs for {identity}"
            points = database.execute("SELECT key, step, value FROM metrics WHERE run_uuid = ?", [run]).fetchall()
            params = dict(database.execute("SELECT key, value FROM params WHERE run_uuid = ?", [run]))
            found[identity] = (status, params, sorted(points))
        return found
    finally:
        database.close()
