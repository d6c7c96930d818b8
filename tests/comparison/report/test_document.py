"""A report as plain values."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.comparison import verdicts
from tests.comparison.report.sources import answered, held_out, sources
from tunerun.comparison.report import ReportSources, build
from tunerun.comparison.report.answers import MAX_TEXT_CHARACTERS, pack, pack_answers
from tunerun.comparison.report.plots import MarkKind, axis_plots, curve_lines, interval_plots
from tunerun.comparison.report.sources import MOST_CURVE_POINTS, thinned
from tunerun.comparison.results import PointResult, Verdict

EVERY_KIND = [
    verdicts.demo_verdict,
    verdicts.replicates_verdict,
    verdicts.incomplete_verdict,
    verdicts.failed_verdict,
    verdicts.nothing_held_out_verdict,
    verdicts.cannot_tell_verdict,
    verdicts.large_verdict,
    verdicts.two_sweeps_verdict,
]


@pytest.mark.thorough
@pytest.mark.parametrize("make", EVERY_KIND)
@pytest.mark.parametrize("with_sources", [True, False])
def test_every_verdict_has_a_report(make: Callable[[], Verdict], with_sources: bool) -> None:
    """A sweep in which nothing succeeded, was held out or has answered has a report too."""
    verdict = make()
    document = build(verdict, sources(verdict) if with_sources else ReportSources())
    assert document.sentence == verdict.sentence
    assert len(document.points_table.rows) == len(verdict.points)
    assert json.loads(zlib.decompress(base64.b64decode(pack(document.drawn())))) == json.loads(
        json.dumps(document.drawn())
    )


def test_points_are_drawn_against_each_baseline() -> None:
    """The one that is hardest to beat comes first; shares are percentages, and a mark says its values in words."""
    plots = interval_plots(verdicts.demo_verdict())
    assert [plot.name for plot in plots] == [
        "exact match: difference to base+4",
        "exact match: difference to base",
        "exact match: difference to majority",
        "exact match",
        "chrf",
        "validation loss",
    ]
    first, values = plots[0], plots[3]
    assert [mark.name[0] for mark in first.marks] == ["1", "0", "3", "2"]
    assert [mark.standing for mark in first.marks[:2]] == [MarkKind.TIED, MarkKind.ADVISED]
    assert first.lines[0].value == 0
    assert first.marks[1].value == 50
    assert first.marks[1].words.startswith("+50 points against base+4; interval ")
    assert "12 rows won, 0 lost" in first.marks[1].words
    assert [(line.words, line.value) for line in values.lines][1] == ("base+4: 12 %", 12.5)
    assert [mark.name for mark in values.marks[-3:]] == ["base", "base+4", "majority"]


def test_marks_are_ordered_by_the_direction_of_their_measure() -> None:
    """Of a loss the lowest value comes first."""
    plot = interval_plots(verdicts.demo_verdict())[-1]
    points = [mark.value for mark in plot.marks if mark.standing is not MarkKind.BASELINE]
    assert points == sorted(points)


def _points(key: str, settings: list[object]) -> Verdict:
    verdict = verdicts.demo_verdict()
    points = [
        replace(verdict.points[n], overrides={key: setting})  # type: ignore[dict-item]
        for n, setting in enumerate(settings)
    ]
    return replace(verdict, points=tuple(points), trials=verdict.trials[: len(points)])


@pytest.mark.parametrize(
    ("key", "settings", "name", "places", "categories", "is_log"),
    [
        ("hyperparameters.epoch_count", [1, 3, 10], "epoch_count", [1, 3, 10], (), False),
        ("hyperparameters.learning_rate", [1e-5, 1e-3], "learning_rate", [1e-5, 1e-3], (), True),
        ("dataset.limit", [5, 10, None], "training examples", [5, 10, 15], (), False),
        ("template", ["plain", "chat"], "template", [0, 1], ("plain", "chat"), False),
        ("dataset.deduplicate", [True, False], "deduplicate", [0, 1], ("true", "false"), False),
        ("hyperparameters.learning_rate_multiplier", [None, 2.0], "learning_rate_multiplier", [0, 1], ("null", "2.0"), False),
    ],
)  # fmt: skip
def test_a_measure_against_an_axis(
    key: str, settings: list[object], name: str, places: list[float], categories: tuple[str, ...], is_log: bool
) -> None:
    """Numbers are a scale, anything else is categories; `dataset.limit: null` is at the number of examples there are."""
    verdict = _points(key, settings)
    plot = axis_plots(verdict, sources(verdict))[0]
    assert (plot.axis, plot.categories, plot.is_log) == (name, categories, is_log)
    assert [place.at for place in plot.series[0].places] == places


def test_points_that_differ_in_one_axis_are_one_line() -> None:
    """Every other setting is the name of a line; a key that no point varies is not an axis."""
    by_rate, *_ = axis_plots(verdicts.demo_verdict(), ReportSources())
    assert [(s.name, [p.at for p in s.places]) for s in by_rate.series] == [
        ("5 epochs", [0.0005, 0.001]),
        ("10 epochs", [0.0005, 0.001]),
    ]
    assert axis_plots(_points("template", ["plain", "plain"]), ReportSources()) == ()


def test_curves_of_replicates_are_named_by_their_seeds() -> None:
    """Three seeds of a point are three curves."""
    verdict = verdicts.replicates_verdict()
    names = [line.name for line in curve_lines(verdict, sources(verdict))]
    assert names[:3] == [f"0: learning_rate 0.001, seed {seed}" for seed in (0, 1, 2)]


def test_a_long_curve_is_thinned_by_means() -> None:
    """A curve of ten thousand steps has a hundred points, none of which is out of place."""
    curve = [(n / 100, float(n)) for n in range(1, 10_001)]
    thin = thinned(curve)
    assert len(thin) == MOST_CURVE_POINTS
    assert thin[0] == (1.0, 50.5)
    assert thin[-1][0] == 100
    assert thinned(curve[:7]) == tuple(curve[:7])
    assert thinned([]) == ()


def test_equal_answers_of_a_row_are_carried_once() -> None:
    """A row has its different answers, and each model the index of its own."""
    verdict = verdicts.demo_verdict()
    document = pack_answers(verdict, sources(verdict)).document
    assert [column[1] for column in document["columns"]] == [
        "point 0", "base+4", "base", "majority", "point 1", "point 2", "point 3",
    ]  # fmt: skip
    _input, expected, texts, right = document["rows"][0]
    assert expected == "one"
    assert len(texts) == len(set(texts)) == len(right)
    for column, (answers,) in zip(document["columns"], document["given"], strict=True):
        assert len(answers) == 24, column


def test_an_answer_that_is_right_for_one_model_alone_is_carried_twice() -> None:
    """Templates can expect different answers to one row."""
    verdict = verdicts.demo_verdict()
    content = sources(verdict)
    rows = content.rows
    keys = [trial.record.key for trial in verdict.trials[:2]]
    same = {key: replace(answered(rows, 0, "same"), right=(n == 0,) * len(rows)) for n, key in enumerate(keys)}
    document = pack_answers(verdict, replace(content, answers=same)).document
    assert document["rows"][0][2:] == [["same", "same"], [1, 0]]


def test_the_report_says_which_answers_it_omits() -> None:
    """The advised point and the baselines are kept first; of two long columns, the first rows."""
    verdict = verdicts.demo_verdict()
    wrong = [f"{n} {'long answer ' * 20}" for n in range(3)]
    content = sources(verdict, wrong)
    assert pack_answers(verdict, content).omitted == ""
    some = pack_answers(verdict, content, max_bytes=600)
    assert 1 <= len(some.document["columns"]) < 7
    assert some.document["columns"][0][1] == "point 0"
    assert some.omitted.startswith("The answers of ")
    few = pack_answers(verdict, content, max_bytes=300)
    assert 0 < len(few.document["rows"]) < 24
    assert few.omitted.startswith("Only the first ")


def test_a_long_text_is_cut_and_says_so() -> None:
    """An answer of many pages does not fill the report."""
    verdict = verdicts.demo_verdict()
    document = pack_answers(verdict, sources(verdict, ["x" * (MAX_TEXT_CHARACTERS + 1234)] * 3)).document
    texts = {text for row in document["rows"] for text in row[2]}
    assert any(text.endswith("... (1,234 more characters)") for text in texts)


def test_two_trials_of_a_point_are_one_column() -> None:
    """The column carries the answers of each seed."""
    verdict = verdicts.replicates_verdict()
    document = pack_answers(verdict, sources(verdict)).document
    assert [len(trials) for trials in document["given"]] == [3, 1, 1, 3]


def test_a_point_whose_trials_have_failed_has_no_column() -> None:
    """Only points that have answered are among the columns of answers."""
    verdict = verdicts.incomplete_verdict()
    point: PointResult = verdict.points[0]
    content = replace(sources(verdict), rows=held_out(24))
    assert [c[1] for c in pack_answers(verdict, content).document["columns"]] == [f"point {point.number}"]
