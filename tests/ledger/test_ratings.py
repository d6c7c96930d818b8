"""Judgements are kept once, whatever asked for them."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tunerun.errors import LedgerError
from tunerun.ledger import LOSSES, Ledger, holds_texts, rated_by


def test_a_judgement_is_kept_once_by_judge_and_item(tmp_path: Path) -> None:
    """The first rating is kept; another judge's rating of the same item is separate."""
    with Ledger(tmp_path / "ledger.db") as ledger:
        ledger.record_rating("judge", "item", 4.0, "good", usd=0.25, sweep="x-1")
        ledger.record_rating("judge", "item", 1.0, "bad", usd=0.25, sweep="x-1")
        ledger.record_rating("judge", "other", None, "hm", usd=0.5, sweep="x-1")
        ledger.record_rating("another", "item", 2.0, "weak", usd=8.0, sweep="x-2")
    with Ledger.open_read_only(tmp_path / "ledger.db") as ledger:
        assert ledger.ratings("judge", ["item", "other", *map(str, range(1000))]) == {
            "item": (4.0, "good"),
            "other": (None, "hm"),
        }
        assert ledger.spending("x-1").usd == 0.75
        assert ledger.spending("x-2").usd == 8.0


def test_agreement_is_kept_by_judge_and_sample(tmp_path: Path) -> None:
    """A newer measurement takes the place of an older one of the same sample."""
    with Ledger(tmp_path / "ledger.db") as ledger:
        ledger.record_agreement("judge", "sample", {"pairs": 3})
        ledger.record_agreement("judge", "sample", {"pairs": 4})
        assert ledger.agreements(["judge", "another"]) == {("judge", "sample"): {"pairs": 4}}


def test_a_judgement_that_has_changed_on_the_disk_is_found(tmp_path: Path) -> None:
    """Its checksum covers the score."""
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        ledger.record_rating("judge", "item", 4.0, "good")
    raw = sqlite3.connect(path)
    raw.execute("UPDATE rating SET score = 5")
    raw.commit()
    raw.close()
    with Ledger(path) as ledger, pytest.raises(LedgerError, match="bytes of its table 'rating' have changed"):
        ledger.ratings("judge", ["item"])


def test_a_judges_words_are_not_a_models_answers() -> None:
    """Its key says so, and depends on the judge and on how the answers were obtained."""
    assert not holds_texts(rated_by("judge", "asked"))
    assert rated_by("judge", "asked") != rated_by("judge", "otherwise") != rated_by("another", "asked")
    assert holds_texts("0" * 64)
    assert not holds_texts(LOSSES)
