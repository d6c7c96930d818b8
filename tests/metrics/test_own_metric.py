"""A user's own metric: a function in a file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tunerun.errors import ConfigError, MetricError
from tunerun.metrics import CodeFile, Metric, Unit, code_files, load_code, resolve, resolve_stored

GOOD = """import dataclasses
from math import isclose

@dataclasses.dataclass
class Pair:
    expected: str
    answer: str

def score(expected, answer):
    pair = Pair(expected, answer)
    return pair.expected[0] == pair.answer[0]
"""


def own(file: Path, source: str, **options: Any) -> Metric:
    file.write_text(source)
    return resolve({"metrics": [{"name": "mine", "python": f"{file}:score", **options}]})[0]


def test_a_function_is_a_metric(tmp_path: Path) -> None:
    """True and false, whole numbers and fractions are scores."""
    metric = own(tmp_path / "metrics.py", GOOD)
    assert (metric.name, metric.unit, metric.higher_is_better) == ("mine", Unit.SHARE, True)
    rows = metric.rows(["a", "b"], ["apple", "apple"])
    assert rows.tolist() == [[1.0], [0.0]]
    assert metric.value(rows.mean(axis=0)) == 0.5
    assert not list(tmp_path.glob("__pycache__"))


def test_options_say_unit_and_direction(tmp_path: Path) -> None:
    """A metric with `unit: number` may return any number, and less may be better."""
    source = "def score(expected, answer): return len(answer) * 3"
    metric = own(tmp_path / "metrics.py", source, unit="number", higher_is_better=False)
    assert (metric.unit, metric.higher_is_better) == (Unit.NUMBER, False)
    assert metric.rows(["a"], ["apple"]).tolist() == [[15.0]]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "def score(expected, answer):\n    return 1 / len(answer)\n",
            r"evaluation\.metrics\.mine: .*metrics\.py:2: held-out row 2: ZeroDivisionError: division by zero",
        ),
        ("import no_such_module\ndef score(e, a): return 1\n", r"metrics\.py:1: ModuleNotFoundError: No module named"),
        ("import sys\ndef score(e, a): sys.exit()\n", r"metrics\.py:2: held-out row 1: SystemExit"),
        ("def score(e, a):\n  return 'x'\n", r"metrics\.py:score: held-out row 1: returned a str; a score is a finite"),
        ("def score(e, a): pass\n", "held-out row 1: returned a NoneType; a score is a finite number, true or false"),
        ("def score(e, a): return 3.5\n", "returned 3.5; a score is from 0 to 1 with this unit; set unit: number"),
        ("def score(e, a): return float('nan')\n", "returned nan; a score is a finite number, true or false"),
        ("def score(e): return 1\n", r"metrics\.py:score: held-out row 1: TypeError: score\(\) takes 1"),
        ("score = 3\n", r"held-out row 1: TypeError: 'int' object is not callable"),
        ("x = 3\n", "AttributeError: module"),
        ("def score(:\n", r"metrics\.py:1: SyntaxError"),
    ],
)
def test_broken_code_is_named_by_file_line_and_row(tmp_path: Path, source: str, message: str) -> None:
    """The message says where the user's code failed, and on which row."""
    with pytest.raises((ConfigError, MetricError), match=message):
        own(tmp_path / "metrics.py", source).rows(["a", "b"], ["a", ""])


def test_code_that_cannot_run_is_found_before_anything_is_trained(tmp_path: Path) -> None:
    """Loading runs each file once, and names all that fail; the functions are not called."""
    broken = own(tmp_path / "metrics.py", "import no_such_module\ndef score(e, a): return 1\n")
    fine = own(tmp_path / "fine.py", "def score(e, a): raise ValueError\n")
    with pytest.raises(ConfigError, match=r"^evaluation\.metrics\.mine: .*metrics\.py:1: ModuleNotFoundError"):
        load_code([fine, broken])
    load_code([fine])


def test_the_file_is_hashed_and_not_run(tmp_path: Path) -> None:
    """A plan reads the file, and none of its code runs."""
    file = tmp_path / "metrics.py"
    source = f"open({str(tmp_path / 'ran')!r}, 'w')\ndef score(expected, answer): return 1\n"
    metric = own(file, source)
    assert code_files([metric]) == [CodeFile("mine", f"{file}:score", hashlib.sha256(source.encode()).hexdigest())]
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, r"evaluation\.metrics\.mine: .*metrics\.py: No such file or directory"),
        ("def scored(e, a): ...\n", "defines no function score; it has scored"),
        ("", r"defines no function score; write def score\(expected, answer\)"),
        ("def score(:\n", r"metrics\.py:1: is not Python: invalid syntax"),
        ("\0", "is not Python"),
    ],
)
def test_a_file_that_cannot_work_is_refused_before_it_runs(tmp_path: Path, source: str | None, message: str) -> None:
    """A file that is not there, is not Python or lacks the function is found when it is hashed."""
    metric = own(tmp_path / "metrics.py", source or "")
    if source is None:
        (tmp_path / "metrics.py").unlink()
    with pytest.raises(ConfigError, match=message):
        code_files([metric])


@pytest.mark.parametrize(("change", "why"), [("gone", "is gone"), ("changed", "has changed")])
def test_a_frozen_sweep_is_not_scored_by_another_file(tmp_path: Path, change: str, why: str) -> None:
    """Without its file, or with another one, a metric is left out and named; where it decides, it is refused."""
    file = tmp_path / "metrics.py"
    metric = own(file, GOOD)
    entry = {"name": "mine", "python": f"{file}:score"}
    frozen = {"mine": {"python": f"{file}:score", "sha256": code_files([metric])[0].sha256}}
    assert resolve_stored({"metrics": [entry]}, frozen) == ((metric,), [])
    if change == "gone":
        file.unlink()
    else:
        file.write_text(GOOD + "\n")
    metrics, notes = resolve_stored({"metrics": ["exact_match", entry]}, frozen)
    assert [each.name for each in metrics] == ["exact_match"]
    assert len(notes) == 1
    assert notes[0].startswith("mine is not computed: ")
    assert why in notes[0]
    with pytest.raises(ConfigError, match=f"mine decides in this sweep, and .* {why}"):
        resolve_stored({"metrics": ["exact_match", entry], "decide_by": "mine"}, frozen)
