"""Warnings about examples that can be used."""

from pathlib import Path

import pytest

from tests.dataset.files import load, numbers, written
from tunerun.schema import HeldOut

GUIDE = "(Gemini API model tuning guide, as last served 2025-04-28)"


@pytest.mark.parametrize(
    ("count", "advice"),
    [
        (1, [f"1 example to train on; at least 20 are advised {GUIDE}; add more"]),
        (19, [f"19 examples to train on; at least 20 are advised {GUIDE}; add more"]),
        (20, [f"20 examples to train on; 100 to 500 are advised {GUIDE}; add more"]),
        (99, [f"99 examples to train on; 100 to 500 are advised {GUIDE}; add more"]),
        (100, []),
    ],
)
def test_advice_on_the_number(tmp_path: Path, count: int, advice: list[str]) -> None:
    """Too few examples are a warning, the stronger of two."""
    path = written(tmp_path / "a.jsonl", numbers(count))
    assert list(load(path).warnings) == [f"{path}: {line}" for line in advice]


@pytest.mark.slow
def test_advice_on_bytes(tmp_path: Path) -> None:
    """More than 4 MB to train on are a warning, counted in bytes of UTF-8."""
    path = written(tmp_path / "a.jsonl", [{"text_input": "é" * 21_000 + str(n), "output": "2"} for n in range(100)])
    assert load(path).warnings == (
        f"{path}: 4.2 MB to train on; the Gemini API takes 4 MB {GUIDE}; dataset.limit cuts it",
    )


def test_no_limits(tmp_path: Path) -> None:
    """Where the backend has no limits, texts may have any length; those of the Gemini API are advice."""
    rows = [*numbers(100), {"text_input": "x" * 40_001, "output": "y"}, {"text_input": "x", "output": "y" * 5_001}]
    path = written(tmp_path / "a.jsonl", rows)
    loaded = load(path)
    assert len(loaded.training.examples) == 102
    (advice,) = loaded.warnings
    assert advice.startswith(
        f"{path}:101, {path}:102: longer than the Gemini API takes: 40,000 characters of text_input"
    )


def test_limit_beyond_the_rows(tmp_path: Path) -> None:
    """A limit that is more than there is is a warning."""
    path = written(tmp_path / "a.jsonl", numbers(120))
    loaded = load(path, limit=500)
    assert loaded.warnings == (
        f"{path}: dataset.limit=500 is more than the 120 rows to train on; all of them are used",
    )


def test_stratifying_with_some_single_rows(tmp_path: Path) -> None:
    """Values that have one row are named: nothing measures them."""
    rows = [{**row, "kind": "rare" if n == 7 else "often"} for n, row in enumerate(numbers(200))]
    path = written(tmp_path / "a.jsonl", rows)
    assert load(path, stratify_by="kind", validation=HeldOut(fraction=0.2)).warnings == (
        (
            f"{path}: dataset.stratify_by=kind: 1 value has a single row, kept to train on and never measured: 'rare'; "
            "add rows of them, or set dataset.stratify_by=null to hold some out"
        ),
    )


def test_unused_columns(tmp_path: Path) -> None:
    """Columns that nothing uses are one warning, however many they are."""
    extra = {f"c{n}": "x" for n in range(12)}
    path = written(tmp_path / "a.jsonl", [{**row, "label": n, **extra} for n, row in enumerate(numbers(100))])
    names = ", ".join(f"'c{n}'" for n in range(10))
    assert load(path, stratify_by="label").warnings == (
        f"{path}: nothing uses the columns {names} and 2 more; name them in the template if they matter",
    )


def test_repetition(tmp_path: Path) -> None:
    """Exact duplicates and contradictions are one warning each, with the first places."""
    rows = [*numbers(100), *numbers(5), {"text_input": "7", "output": "seven"}, {"text_input": "0", "output": "1"}]
    path = written(tmp_path / "a.jsonl", rows)
    remedy = "keep one, or let the template tell them apart"
    repeated = ", ".join(f"{path}:{n} and {path}:{n + 100}" for n in (1, 2, 3))
    assert load(path).warnings == (
        f"exact duplicates among the training examples (6): {repeated}, ...; remove them unless they should weigh more",
        f"different outputs for one text_input among the training examples (1): {path}:8 and {path}:106; {remedy}",
    )


def test_leakage(tmp_path: Path) -> None:
    """An example in both the training and the held-out file is a warning with both places."""
    path = written(tmp_path / "a.jsonl", numbers(100))
    held_out = written(tmp_path / "b.jsonl", numbers(9, start=93))
    warnings = load(path, test=HeldOut(path=held_out)).warnings
    assert len(warnings) == 5
    line = "have the same input, trained on and held out; remove one of them"
    assert warnings[0] == f"{path}:94 and {held_out}:1 {line}"
    assert warnings[4] == f"{path}:98 and {held_out}:5 {line} (and 2 more like this)"
