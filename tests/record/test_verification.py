"""A rerun is compared with its record: equal bits where they can be, and the first thing that differs by name."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from tests.experiments import planned
from tests.record.ledgers import changed
from tests.scripted import run_on
from tunerun.cli.rerun import print_checks
from tunerun.cli.run import print_interrupted
from tunerun.job import TrainedOn
from tunerun.ledger import FILE_NAME, Ledger
from tunerun.record import OpenRecord, open_record
from tunerun.record.rerun import RerunRequest, prepare
from tunerun.record.verification import Verification, compare
from tunerun.schema import Paths, Tracking
from tunerun.testing.scripted import ScriptedService

HERE = TrainedOn("cpu", "a CPU", "AVX2", 2, "", "2.13.0+cpu", {"torch": "2.13.0", "peft": "0.21.0"})
BITS, OTHER_BITS = "1" * 64, "2" * 64


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of one trial and its rerun, both trained at the same place, with the same bits."""
    runs = tmp_path_factory.mktemp("project") / "runs"
    run_on(ScriptedService(), planned(runs.parent, "evaluation.baselines.examples=[0]"))
    with open_record("numbers", runs=runs) as record:
        made = prepare(
            record, RerunRequest(Paths(runs=str(runs), cache=str(runs.parent / "cache")), Tracking(kind="none"))
        )
        made.begin()
    run_on(ScriptedService(), made.plan)
    for folder in (runs, made.plan.runs):
        trained(folder, HERE, BITS)
    return runs


@pytest.fixture
def runs(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "runs"))


def trained(runs: Path, on: TrainedOn, weights: str) -> None:
    changed(
        runs,
        "job",
        trained_on=f"'{json.dumps(asdict(on))}'",
        tuned_model=f"json_set(tuned_model, '$.weights', '{weights}')",
    )


def rerun_of(runs: Path) -> Path:
    (folder,) = (runs / "reruns").iterdir()
    return folder


@contextmanager
def both(runs: Path) -> Iterator[tuple[OpenRecord, OpenRecord]]:
    with open_record("numbers", runs=runs) as old, Ledger.open_read_only(rerun_of(runs) / FILE_NAME) as ledger:
        yield old, OpenRecord(ledger, ledger.sweeps()[0], None, "the rerun")


def verified(runs: Path) -> Verification:
    with both(runs) as (old, new):
        return compare(old, new)


def test_the_same_bits_are_one_line(runs: Path) -> None:
    """The line has the answers, and a rerun of a whole sweep has a line for the verdict."""
    verification = verified(runs)
    assert verification.is_equal
    assert verification.lines[0] == "trial 0: adapter: same bits; 10 of 10 answers equal"
    assert verification.lines[1].startswith("the same verdict: ")
    assert verification.to_json()["checks"][0] == {
        "trial": 0,
        "equal": True,
        "compared": True,
        "text": verification.checks[0].line,
    }


def test_a_verdict_that_cannot_be_made_is_called_skipped(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The check is marked as skipped and does not change the exit code."""
    changed(runs, "trial", config="""json_set(config, '$.evaluation.metrics', json('["gone"]'))""")
    verification = verified(runs)
    print_checks(verification)
    same, skipped = capsys.readouterr().out.splitlines()
    assert same.startswith("same  trial 0: ")
    assert skipped.startswith("skipped  the verdict cannot be computed here: evaluation.metrics: gone decides")
    assert verification.is_equal
    assert not verification.checks[1].is_compared


def test_an_interruption_explains_the_same_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`verify` trains in a temporary folder, so the same command starts again."""
    plan = planned(tmp_path)
    print_interrupted(plan, is_kept=True)
    assert capsys.readouterr().err.splitlines()[1] == "interrupted; run the same command to continue:"
    print_interrupted(plan, is_kept=False)
    message = "interrupted; nothing is kept; the same command starts from the beginning:"
    assert capsys.readouterr().err.splitlines()[1] == message


def test_other_bits_at_the_same_place_are_a_difference(runs: Path) -> None:
    """Other bits count as a difference even if losses agree within the tolerance."""
    trained(rerun_of(runs), HERE, OTHER_BITS)
    changed(rerun_of(runs), "snapshot", "step >= 3", mean_loss="mean_loss * 1.001")
    verification = verified(runs)
    assert not verification.is_equal
    (line, _) = verification.lines
    assert "adapter: other bits (sha256 11111111 -> 22222222); the loss differs first at step 3 (" in line
    assert "at most by 0.00033, within 0.01" in line


@pytest.mark.parametrize(
    ("place", "cause", "factor", "is_close"),
    [
        ({"instructions": "AVX512"}, "instruction set AVX2 -> AVX512", 1.001, True),
        ({"threads": 4}, "threads 2 -> 4", 1.001, True),
        ({"threads": 4}, "threads 2 -> 4", 1.1, False),
        ({"device": "cuda", "instructions": "", "threads": 0}, "device cpu -> cuda", 1.001, True),
        ({"threads": 4, "form": "packed"}, "threads 2 -> 4, form alone -> packed", 1.001, True),
    ],
)
def test_elsewhere_losses_agree_within_the_tolerance(
    runs: Path, place: Mapping[str, Any], cause: str, factor: float, is_close: bool
) -> None:
    """With another instruction set, device or number of threads only the losses have to agree."""
    trained(rerun_of(runs), replace(HERE, **place), OTHER_BITS)
    changed(rerun_of(runs), "snapshot", mean_loss=f"mean_loss * {factor}")
    verification = verified(runs)
    assert verification.checks[0].is_equal is is_close
    assert verification.checks[0].line.startswith(cause)
    assert ("not within 0.01" in verification.lines[0]) is not is_close


FORM = ({"form": "packed"}, "form alone -> packed")
PACK = ({"packed_with": ("1" * 64, "2" * 64)}, "packed alone -> with 2 other trials")


@pytest.mark.parametrize(
    ("place", "cause", "epochs", "factor", "is_close"),
    [
        (*FORM, "true", 1.000005, True),
        (*FORM, "true", 1.0001, False),
        (*FORM, "epoch > 1", 1.0005, True),
        (*FORM, "epoch > 1", 1.01, False),
        (*PACK, "epoch > 1", 1.0005, True),
        (*PACK, "epoch > 1", 1.01, False),
    ],
)
def test_another_form_or_pack_on_the_same_machine_has_the_engines_tolerance(
    runs: Path, place: Mapping[str, Any], cause: str, epochs: str, factor: float, is_close: bool
) -> None:
    """Losses have to agree within 1e-5 in the first epoch and within 1e-3 later."""
    for folder in (runs, rerun_of(runs)):
        changed(folder, "snapshot", mean_loss="mean_loss + 1")
    trained(rerun_of(runs), replace(HERE, **place), OTHER_BITS)
    changed(rerun_of(runs), "snapshot", epochs, mean_loss=f"mean_loss * {factor}")
    verification = verified(runs)
    assert verification.checks[0].is_equal is is_close
    assert verification.checks[0].line.startswith(f"{cause}; adapter: other bits")
    assert ("not within 1e-05 in the first epoch and 0.001" in verification.lines[0]) is not is_close


def test_the_same_pack_may_give_other_bits(runs: Path) -> None:
    """The step at which a trial joins a pack depends on timing, so other bits are accepted."""
    for folder in (runs, rerun_of(runs)):
        trained(folder, replace(HERE, packed_with=("1" * 64,)), BITS)
    assert verified(runs).lines[0] == "trial 0: adapter: same bits; 10 of 10 answers equal"
    trained(rerun_of(runs), replace(HERE, packed_with=("1" * 64,)), OTHER_BITS)
    check = verified(runs).checks[0]
    assert check.is_equal
    assert check.line.startswith("trials may have joined the pack at other steps; adapter: other bits")


def test_another_pack_has_to_give_the_same_answers(runs: Path) -> None:
    """Losses alone are not enough; with equal bits the pack is not mentioned."""
    trained(rerun_of(runs), replace(HERE, packed_with=("1" * 64,)), BITS)
    assert verified(runs).lines[0] == "trial 0: adapter: same bits; 10 of 10 answers equal"
    with Ledger(rerun_of(runs) / FILE_NAME) as ledger:
        (trial,) = ledger.trials(ledger.sweeps()[0].id)
        stored = ledger.answers(trial.key, str(trial.validation), trial.asked)
        assert stored is not None
        with sqlite3.connect(ledger.path) as connection:
            connection.execute("DELETE FROM answers WHERE subject = ?", [trial.key])
        connection.close()
        ledger.record_answers(trial.key, str(trial.validation), trial.asked, ["another", *stored.texts[1:]])
    differing = verified(runs).checks[0]
    assert not differing.is_equal
    assert differing.line.startswith("packed alone -> with 1 other trial; adapter: same bits; 9 of 10 answers equal")


def test_a_package_of_another_version_is_named_whatever_the_bits_are(runs: Path) -> None:
    """Another version counts as a difference, because the recorded one can be installed."""
    trained(runs, replace(HERE, packages={"torch": "2.12.1", "peft": "0.21.0"}), BITS)
    verification = verified(runs)
    assert not verification.is_equal
    assert verification.lines[0] == "trial 0: torch 2.12.1 -> 2.13.0; adapter: same bits; 10 of 10 answers equal"


def test_an_earlier_record_is_compared_by_its_losses(runs: Path) -> None:
    """The line says that neither the device nor the adapter's digest is recorded."""
    changed(runs, "job", trained_on="NULL", tuned_model="json_remove(tuned_model, '$.weights')")
    verification = verified(runs)
    assert verification.is_equal
    assert verification.lines[0].startswith(
        "trial 0: what trained it is not recorded; adapter: its digest is not recorded; all "
    )


def test_a_services_bits_are_not_compared(runs: Path) -> None:
    """For hosted models, losses and answers are compared."""
    changed(runs, "trial", config="json_set(config, '$.backend', json('{\"kind\": \"gemini\"}'))")
    verification = verified(runs)
    assert verification.is_equal
    assert verification.lines[0].startswith("trial 0: bits cannot be compared, because a service trained it; all ")


def test_a_trial_that_failed_is_compared_by_its_state(runs: Path) -> None:
    """Only the states of a failed trial are compared."""
    changed(rerun_of(runs), "job", state="'FAILED'", failure='\'{"kind": "crashed", "message": "out"}\'')
    assert verified(runs).lines[0] == "trial 0: is SUCCEEDED in the record, and FAILED now"
