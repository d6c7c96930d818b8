"""Stored interpolations and their values now."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.experiments import planned
from tunerun.compose import load
from tunerun.errors import ConfigError
from tunerun.interpolation import resolved, resolved_record, resolved_section
from tunerun.job import BaseModelRef

BASE = ["name=x", "dataset.path=rows.csv"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${oc.env:A}", "a"),
        ("x/${oc.env:A}/${oc.env:B}", "x/a/b"),
        ("${oc.env:UNSET,'it\\'s, \\\\ }'}", "it's, \\ }"),
        ("${oc.env:UNSET,${oc.env:B}}", "b"),
        ("${oc.env:A,${oc.env:UNSET}}!", None),
        ("${oc.env:UNSET,7}", "7"),
        ("${oc.decode:${oc.env:A}}", "a"),
        ("{{ text }} ${paths.runs}", "{{ text }} ${paths.runs}"),
    ],
)
def test_an_interpolation_has_the_value_of_now(text: str, value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """All forms that a stored config may hold; every other text is itself."""
    monkeypatch.setenv("A", "a")
    monkeypatch.setenv("B", "b")
    if value is None:
        with pytest.raises(ConfigError, match="the environment variable UNSET is not set"):
            resolved(text)
    else:
        assert resolved(text) == value


@pytest.mark.parametrize("text", ["${oc.env:A", "${oc.env:}", "${oc.decode:${oc.env:A}"])
def test_a_damaged_interpolation_is_an_error(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in no stored config."""
    monkeypatch.setenv("A", "a")
    with pytest.raises(ConfigError, match="an interpolation"):
        resolved(text)


def test_all_variables_that_are_not_set_are_named_with_their_keys() -> None:
    """One line each."""
    with pytest.raises(ConfigError, match=r"backend.base_url: the environment variable P is not set") as caught:
        resolved_section({"base_url": "${oc.env:P}", "list": ["${oc.env:Q}"], "kind": "gemini", "n": 3}, "backend")
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["backend.base_url", "backend.list.0"]


def test_a_record_keeps_values_that_are_not_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a record without interpolations is the same object."""
    monkeypatch.setenv("A", "a")
    model = BaseModelRef("name", "${oc.env:A}", context_length=3)
    assert resolved_record(model) == BaseModelRef("name", "a", context_length=3)
    assert resolved_record(resolved_record(model)) is not model


@pytest.mark.process
@pytest.mark.parametrize(
    ("typed", "key", "text"),
    [
        (["model.source=${oc.env:V}"], "model.source", "${oc.env:V}"),
        (["model.source=pre-${oc.env:V}-post"], "model.source", "pre-${oc.env:V}-post"),
        (["model.source='${oc.decode:${oc.env:V}}'"], "model.source", "${oc.decode:${oc.env:V}}"),
        (["model.name=${oc.env:V}", "model.source=${model.name}/x"], "model.source", "${oc.env:V}/x"),
        (["model.revision=${oc.env:V}", "model.source=${.revision}"], "model.source", "${oc.env:V}"),
        (["model.source='${oc.env:W,${oc.env:V}}'"], "model.source", "${oc.env:W,${oc.env:V}}"),
        (["model.source='${oc.select:model.revision}'", "model.revision=${oc.env:V}"], "model.source", "${oc.env:V}"),
        (["model.source='${oc.${model.name}:V}'", "model.name=env"], "model.source", "${oc.env:V}"),
        (["dataset={path: '${oc.env:V}'}"], "dataset.path", "${oc.env:V}"),
        (["tracking.uri='sqlite:///${paths.runs}/x.db'", "paths.runs=${oc.env:V}"], "tracking.uri", "sqlite:///${oc.env:V}/x.db"),
    ],
)  # fmt: skip
def test_what_comes_from_the_environment_is_known_through_every_other_key(
    typed: list[str], key: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Directly, in the middle of a text, decoded, and by interpolation of another key."""
    monkeypatch.setenv("V", "planted")
    for more in ([], ["seed=1,2"], ["template=plain,question_context"]):
        for point in load([*BASE, *typed, *more]).points:
            assert point.environment[key] == text
            assert "planted" in resolved(text)


def test_numbers_and_swept_values_are_not_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number is not a secret, and a value that a point sets itself is not looked up."""
    monkeypatch.setenv("V", "7")
    experiment = load([*BASE, "seed='${oc.decode:${oc.env:V}}'", "model.revision=${oc.env:V}", "model.source=a,b"])
    assert [(point.config.seed, point.environment) for point in experiment.points] == [
        (7, {"model.revision": "${oc.env:V}"})
    ] * 2


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (
            "name=${oc.env:V}",
            r"command line: name: the value of \$\{oc.env:V\} would be stored, because it names the sweep",
        ),
        ("template.output='{{ output }}${oc.env:V}'", r"template.output: .* would be stored, .* with every example"),
        ("template.output='{{ output }}${model.revision}'", r"template.output: .* would be stored"),
        ("+sweep.axes.seed='${oc.env:V}'", r"sweep.axes.seed: .* would be stored"),
    ],
)
def test_where_a_value_cannot_be_kept_out_it_is_refused(
    typed: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names, templates and swept values are written into what is kept."""
    monkeypatch.setenv("V", "7")
    with pytest.raises(ConfigError, match=words) as caught:
        load([*BASE, "model.revision=${oc.env:V}", typed])
    assert "'7'" not in str(caught.value)


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


@pytest.mark.process
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=TEXTS.filter(bool))
def test_a_stored_text_resolves_to_what_the_config_had(value: str) -> None:
    """Whatever the environment holds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("V", value)
        point = load([*BASE, "model.source=pre-${oc.env:V}", "model.revision='${oc.env:V}'"]).points[0]
        assert resolved(point.environment["model.source"]) == point.config.model.source
        assert resolved(point.environment["model.revision"]) == point.config.model.revision


def test_a_trial_freezes_the_interpolations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the config, and in whatever is derived from the values."""
    monkeypatch.setenv("V", "planted")
    (trial,) = planned(tmp_path, "dataset.license=${oc.env:V}").trials
    assert trial.record().config["dataset"]["license"] == "${oc.env:V}"
    assert trial.as_stored({"a": ["the licence planted"], "n": 3}) == {"a": ["the licence ${oc.env:V}"], "n": 3}
