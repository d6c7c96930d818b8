"""Metrics are found by name, with their options; those of other packages too."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tunerun import schema
from tunerun.compose.validation import validate
from tunerun.errors import ConfigError, MissingPackageError
from tunerun.metrics import Metric, RowMetric, Unit, names, resolve, resolve_stored, summaries
from tunerun.metrics.answer_loss import AnswerLoss
from tunerun.metrics.bleu import Bleu
from tunerun.metrics.exact_match import ExactMatch
from tunerun.metrics.macro_f1 import MacroF1
from tunerun.metrics.registry import require_packages
from tunerun.section import Section

_CONFORM: tuple[Metric, ...] = (ExactMatch(), MacroF1(), Bleu(), AnswerLoss())


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install a package beside tunerun that brings metrics."""
    info = tmp_path / "site" / "length_metric-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: length-metric\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[tunerun.metrics]\n"
        "same_length = length_metric:SameLength\n"
        "no_metric = length_metric:Nothing\n"
        "broken = length_metric_missing:Metric\n"
        "exact_match = length_metric:Nothing\n"
    )
    (tmp_path / "site" / "length_metric.py").write_text(
        "from pydantic import Field\n"
        "from tunerun.metrics import RowMetric\n"
        "class Nothing: ...\n"
        "class SameLength(RowMetric):\n"
        "    'Whether the answer is as long as the expected one.'\n"
        "    name = 'same_length'\n"
        "    slack: int = Field(0, description='How many.')\n"
        "    def score(self, expected: str, answer: str) -> float:\n"
        "        return float(abs(len(expected) - len(answer)) <= self.slack)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "length_metric", raising=False)
    return tmp_path


def problems(evaluation: dict[str, Any]) -> list[str]:
    class Alone(Section):
        evaluation: schema.Evaluation

    issues = validate(Alone, {"evaluation": evaluation})[1]
    return [f"{'.'.join(map(str, location))}: {message}" for location, message in issues]


def test_every_metric_says_what_it_is() -> None:
    """Each metric has its own name, a sentence, a unit and a direction."""
    assert names()[0] == "exact_match"
    judge = {"base_url": "http://127.0.0.1:8000/v1", "model": "m", "rubric": "Is it right?"}
    required = {"regex": {"pattern": "a"}, "judge": judge, "judge_preference": judge}
    sentences = summaries()
    for name in names():
        options = required.get(name, {})
        (metric,) = resolve({"metrics": [{"name": name, **options}]})
        assert metric.name == name
        assert len(sentences[name]) > 20
        assert metric.higher_is_better == (metric.unit is not Unit.NATS)
    assert sentences["numeric"].startswith("Whether the last number of the answer")


def test_options_are_given_by_a_mapping() -> None:
    """A name alone has its defaults; a mapping with nothing but a name is the same."""
    section = schema.Evaluation.model_validate(
        {"metrics": ["exact_match", {"name": "numeric", "tolerance": 1}, {"name": "contains"}]}
    )
    assert section.model_dump(mode="json")["metrics"] == [
        "exact_match",
        {"name": "numeric", "tolerance": 1},
        "contains",
    ]
    assert [metric.name for metric in resolve(section)] == ["exact_match", "numeric", "contains"]
    assert resolve(section) == resolve(section.model_dump(mode="json"))


def test_the_deciding_metric_comes_first() -> None:
    """decide_by moves one to the front, and keeps the order of the others."""
    section = schema.Evaluation.model_validate(
        {"metrics": ["exact_match", "accuracy", "numeric"], "decide_by": "numeric"}
    )
    assert [metric.name for metric in resolve(section)] == ["numeric", "exact_match", "accuracy"]
    assert resolve(section) == resolve(section.model_dump(mode="json"))


@pytest.mark.parametrize(
    ("evaluation", "lines"),
    [
        ({"metrics": ["exact_mach"]}, ["evaluation.metrics.0: no metric 'exact_mach'; did you mean 'exact_match'?"]),
        (
            {"metrics": [{"name": "numeric", "tolerence": 1}, {"name": "numeric", "tolerance": -1}]},
            [
                "evaluation.metrics.0.tolerence: unknown option 'tolerence'; did you mean 'tolerance'?",
                "evaluation.metrics.1.tolerance: must be 0 or more, not -1",
            ],
        ),
        (
            {"metrics": [{"name": "accuracy", "x": 1}]},
            ["evaluation.metrics.0.x: unknown option 'x'; it has no options"],
        ),
        ({"metrics": [{"name": "regex"}]}, ["evaluation.metrics.0.pattern: is missing; give it a value"]),
        (
            {"metrics": [{"name": "regex", "pattern": "("}]},
            [
                (
                    "evaluation.metrics.0.pattern: is not a regular expression: missing ), unterminated subpattern at "
                    "position 0"
                )
            ],
        ),
        ({"metrics": [{"tolerance": 1}]}, ["evaluation.metrics.0.name: is missing; give it a value"]),
        (
            {"metrics": [{"name": "exact_match", "ignore": ["cases"]}]},
            [
                (
                    "evaluation.metrics.0.ignore.0: must be one of 'case', 'punctuation', 'articles' or 'white_space'; "
                    "did you mean 'case'?"
                )
            ],
        ),
        (
            {"metrics": [3]},
            ["evaluation.metrics.0: must be the name of a metric, or a mapping of its name and options"],
        ),
        ({"metrics": "exact_match"}, ["evaluation.metrics: must be a list"]),
        ({"metrics": ["numeric", "numeric"]}, ["evaluation.metrics: contains numeric twice; name each metric once"]),
        (
            {"metrics": ["numeric"], "decide_by": "accuracy"},
            ["evaluation.decide_by: must be one of evaluation.metrics: numeric"],
        ),
        ({"choices": ["yes"]}, ["evaluation.choices: must have two choices or more, all different and none empty"]),
        ({"choices": ["a", " a"]}, ["evaluation.choices: must have two choices or more, all different and none empty"]),
        ({"choices": "all"}, ["evaluation.choices: must be null, auto, or a list of texts"]),
        ({"choices": [1, 2]}, ["evaluation.choices: must be null, auto, or a list of texts"]),
        (
            {"metrics": [{"name": "exact_match", "python": "metrics.py:score"}]},
            ["evaluation.metrics.0: exact_match is one of tunerun's own metrics; give yours another name"],
        ),
        (
            {"metrics": [{"name": "mine", "python": "metrics.py"}]},
            ["evaluation.metrics.0.python: must be a file and a function in it, such as metrics.py:score"],
        ),
        (
            {"metrics": [{"name": "mine", "python": "metrics.py:score", "unit": "percent"}]},
            ["evaluation.metrics.0.unit: must be one of 'share', 'hundred' or 'number'"],
        ),
    ],
)
def test_bad_entries_are_named_by_their_key(evaluation: dict[str, Any], lines: list[str]) -> None:
    """Every problem has its dotted key, and the nearest right name where there is one."""
    assert problems(evaluation) == lines


def test_a_stored_evaluation_of_another_version_can_be_read() -> None:
    """A metric that this version does not know is omitted and named; unknown options are ignored."""
    stored = {"metrics": ["exact_match", "telepathy", {"name": "numeric", "tolerance": 1.0, "fuzz": 3}], "x": 1}
    metrics, notes = resolve_stored(stored, {})
    assert [metric.name for metric in metrics] == ["exact_match", "numeric"]
    assert len(notes) == 1
    assert notes[0].startswith("telepathy is not computed: no metric 'telepathy'")
    assert resolve({}) == ()
    with pytest.raises(ConfigError, match="telepathy decides in this sweep, and no metric 'telepathy'"):
        resolve({"metrics": ["telepathy", "exact_match"]})


def test_metrics_of_another_package_are_found(plugin: Path) -> None:
    """An entry point is a metric like any other, with options that are checked."""
    (metric,) = resolve(schema.Evaluation.model_validate({"metrics": [{"name": "same_length", "slack": 1}]}))
    assert isinstance(metric, RowMetric)
    assert metric.rows(["abc", "abc"], ["ab", "a"]).tolist() == [[1.0], [0.0]]
    assert summaries()["same_length"] == "Whether the answer is as long as the expected one. `slack`: How many."
    assert problems({"metrics": [{"name": "same_length", "slak": 1}]}) == [
        "evaluation.metrics.0.slak: unknown option 'slak'; did you mean 'slack'?"
    ]


def test_a_broken_metric_of_another_package_is_named(plugin: Path) -> None:
    """The error says why it cannot be used; a name of this package cannot be taken."""
    assert problems({"metrics": ["broken"]}) == [
        (
            "evaluation.metrics.0: the entry point length_metric_missing:Metric cannot be loaded: ModuleNotFoundError: "
            "No module named 'length_metric_missing'"
        )
    ]
    assert problems({"metrics": ["no_metric"]}) == [
        (
            "evaluation.metrics.0: the entry point length_metric:Nothing is not a tunerun.metrics.MetricModel whose name "
            "is 'no_metric'"
        )
    ]
    assert isinstance(resolve({"metrics": ["exact_match"]})[0], ExactMatch)
    assert "cannot be loaded" in summaries()["broken"]


def test_a_metric_whose_package_is_missing_names_the_extra() -> None:
    """The message has the package and the line that installs it."""

    class Unmeasured(RowMetric):
        name = "unmeasured"
        packages = ("no_such_package",)

    with pytest.raises(MissingPackageError, match=r"unmeasured needs no_such_package.*pip install 'tunerun\[text\]'"):
        require_packages([ExactMatch(), Unmeasured()])


def test_the_json_schema_has_every_option() -> None:
    """Editors are offered the names, and the options of each."""
    document = json.dumps(schema.json_schema())
    assert all(name in document for name in ("macro_f1", "tolerance", "metrics.py:score", "whole_words"))


def test_a_section_made_by_hand_is_checked() -> None:
    """Python code that makes the section gets the same refusals as YAML."""
    with pytest.raises(ValidationError, match="did you mean 'exact_match'"):
        schema.Evaluation(metrics=["exact-match"])
