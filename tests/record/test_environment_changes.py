"""What of the environment differs from that of a record, in words."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tests.experiments import planned
from tests.record.ledgers import changed
from tests.scripted import run_on
from tunerun.job import TrainedOn
from tunerun.provenance import Environment
from tunerun.record import open_record
from tunerun.record.environment_changes import environment_notes
from tunerun.testing.scripted import ScriptedService

pytestmark = pytest.mark.process

THEN = Environment("3.11.7", "Debian", "Xeon", ("avx2", "avx512f"), 8, 0, {"torch": "2.13.0", "rich": "14.0"})
ON = TrainedOn("cpu", "Xeon", "AVX512", 8, packages={"torch": "2.13.0"})


def notes(runs: Path, now: Environment) -> list[str]:
    with open_record("numbers", runs=runs) as record:
        return list(environment_notes(record, now))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    run_on(ScriptedService(), planned(tmp_path, "evaluation.baselines.examples=[0]"))
    facts, on = (json.dumps(asdict(each)).replace("'", "''") for each in (THEN, ON))
    changed(tmp_path / "runs", "sweep", document=f"json_set(document, '$.facts', json('{{\"environment\": {facts}}}'))")
    changed(tmp_path / "runs", "job", trained_on=f"'{on}'")
    return tmp_path / "runs"


def test_the_same_environment_has_no_notes(runs: Path) -> None:
    """Equal environments give no notes."""
    assert notes(runs, THEN) == []


def test_differences_of_the_environment_are_named(runs: Path) -> None:
    """Notes name packages, instruction sets, and threads beyond the number of cores."""
    now = replace(THEN, processor="EPYC", instructions=("avx2",), cores=2, packages={"torch": "2.14.0"})
    assert notes(runs, now) == [
        "environment: packages that compute differ: torch 2.13.0 -> 2.14.0",
        "environment: other packages differ: rich 14.0 -> not installed",
        "environment: Xeon -> EPYC, without avx512f",
        (
            "environment: it uses 8 threads as in training, to add in the same order; this machine has 2 "
            "cores, so backend.threads=2 may be faster, with other last bits"
        ),
    ]


def test_a_record_of_an_earlier_version_says_so(runs: Path) -> None:
    """The note says that packages and CPU are not recorded."""
    changed(runs, "sweep", document="json_remove(document, '$.facts')")
    changed(runs, "job", trained_on="NULL")
    (note,) = notes(runs, THEN)
    assert "an earlier tunerun wrote the record" in note
