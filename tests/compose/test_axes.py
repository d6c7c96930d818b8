"""Axes become points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra import compose
from hydra.errors import HydraException
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tunerun.compose import config_directories, load
from tunerun.compose.loader import CONFIG_NAME, Loader
from tunerun.errors import ConfigError
from tunerun.job import Scalar
from tunerun.schema import TrialConfig

NEXT = "experiment=next_number"
RATE, EPOCHS, BATCH = "hyperparameters.learning_rate", "hyperparameters.epoch_count", "hyperparameters.batch_size"


def points(*overrides: str) -> list[dict[str, Scalar]]:
    return [point.overrides for point in load([NEXT, *overrides]).points]


def test_axes_multiply_and_the_last_varies_fastest() -> None:
    """The grid of an experiment is the product of its axes, in order."""
    assert points()[:3] == [{RATE: 0.001, EPOCHS: 5}, {RATE: 0.001, EPOCHS: 10}, {RATE: 0.0005, EPOCHS: 5}]
    assert len(points()) == 4


def test_the_values_reach_the_config() -> None:
    """Each point's config has the values that the point sets."""
    for point in load([NEXT]).points:
        hyperparameters = point.config.hyperparameters
        assert (hyperparameters.learning_rate, hyperparameters.epoch_count) == tuple(point.overrides.values())


def test_a_comma_on_the_command_line_adds_an_axis() -> None:
    """A key that the experiment does not sweep becomes a further axis."""
    assert len(points("seed=1,2")) == 8


def test_a_comma_on_the_command_line_replaces_the_axis_of_its_key() -> None:
    """The experiment's axis of that key is gone, at its old place."""
    assert points(f"{RATE}=1e-2,1e-3,1e-4,1e-5", f"{EPOCHS}=1,2")[1] == {RATE: 0.01, EPOCHS: 2}


def test_a_plain_value_pins_an_axis() -> None:
    """A swept key that is typed with one value is not swept, and the pin is kept for the plan to show."""
    experiment = load([NEXT, f"{EPOCHS}=3"])
    assert experiment.pins == {EPOCHS: 3}
    assert [point.overrides for point in experiment.points] == [{RATE: 0.001}, {RATE: 0.0005}]
    assert {point.config.hyperparameters.epoch_count for point in experiment.points} == {3}


def test_zipped_axes_advance_together() -> None:
    """Axes written with zip are paired, and multiply with the others."""
    found = points(f"{EPOCHS}=zip(1,2,3)", "seed=zip(7,8,9)", f"{RATE}=0.1")
    assert found == [{EPOCHS: 1, "seed": 7}, {EPOCHS: 2, "seed": 8}, {EPOCHS: 3, "seed": 9}]


def test_a_group_is_an_axis() -> None:
    """Choices of a group are swept as values are."""
    found = load([NEXT, "sweep.axes=null", "template=plain,question_context"]).points
    assert [point.overrides for point in found] == [{"template": "plain"}, {"template": "question_context"}]
    assert "{{ question }}" in found[1].config.template.text_input


def test_exclusions_leave_combinations_out() -> None:
    """A point that has all values of an entry is left out; one that has some stays."""
    found = points("sweep.exclude=[{hyperparameters.epoch_count: 10, hyperparameters.learning_rate: 0.001}]")
    assert {RATE: 0.001, EPOCHS: 10} not in found
    assert len(found) == 3


def test_axes_may_be_nested_and_lists_in_yaml() -> None:
    """An axis may be written as nested keys and as a YAML list; text with commas in a list stays one value."""
    file = Path("conf/experiment/nested.yaml")
    file.parent.mkdir(parents=True)
    file.write_text(
        "# @package _global_\nname: nested\ndataset: {path: x}\nsweep:\n  axes:\n"
        "    hyperparameters:\n      epoch_count: [1, 2]\n    template.output: ['{{ a }}, {{ b }}', \"it's\"]\n"
    )
    found = [point.overrides for point in load(["experiment=nested"]).points]
    assert found[0] == {EPOCHS: 1, "template.output": "{{ a }}, {{ b }}"}
    assert found[3] == {EPOCHS: 2, "template.output": "it's"}


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,3,5", [1, 3, 5]),
        ("choice(1,3)", [1, 3]),
        ("range(1,4)", [1, 2, 3]),
        ("range(2,10,step=4)", [2, 6]),
        ("zip(4,5)", [4, 5]),
        ("sort(3,1,2)", [1, 2, 3]),
        ("7", [7]),
        (7, [7]),
        ([7, 8], [7, 8]),
    ],
)
def test_the_grammar_is_hydras(text: Any, values: list[int]) -> None:
    """Every form of Hydra's grammar that lists values is an axis."""
    assert [p["seed"] for p in points("sweep.axes=null", f"+sweep.axes.seed={_quoted(text)}")] == values


def _quoted(text: Any) -> str:
    return f"'{text}'" if isinstance(text, str) else str(text)


OVERRIDES = st.lists(
    st.sampled_from(
        [
            "seed=3",
            "hyperparameters.epoch_count=2",
            "hyperparameters.learning_rate=0.5",
            "hyperparameters={epoch_count: 3}",  # no other override deletes it: Hydra would refuse, and ours add it
            "++hyperparameters.adapter_rank=4",
            "~hyperparameters.batch_size",
            "~hyperparameters.adapter_alpha",
            "template=question_context",
            "template.output='{{ x }}'",
            "model=huggingface",
            "model.name=some/name",
            "evaluation=none",
            "evaluation.metrics=[]",
            "paths.runs=elsewhere",
            "++dataset.limit=${seed}",
            "tracking=none",
            "tracking.kind=none",
        ]
    ),
    max_size=6,
)


@pytest.mark.slow
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(OVERRIDES, min_size=1, max_size=4))
def test_expansion_equals_a_full_compose_of_every_point(sweep: list[list[str]]) -> None:
    """The fast expansion gives the config that Hydra composes from the same overrides, whatever came before."""
    with Loader(config_directories()) as loader:
        for overrides in sweep:
            parsed = [loader.parse(text) for text in [NEXT, *overrides]]
            try:
                composed = OmegaConf.to_container(compose(CONFIG_NAME, overrides=[NEXT, *overrides]), resolve=True)
            except (HydraException, OmegaConfBaseException):
                with pytest.raises(ConfigError, match=r"command line: |is missing"):
                    loader.point(parsed)
            else:
                assert loader.point(parsed) == composed


BASES = st.sampled_from(
    [
        [],
        ["dataset.limit=${seed}"],  # read by its absolute path
        ["hyperparameters.batch_size=${.epoch_count}"],  # by a relative one
        ["template.output='{{ x }} ${hyperparameters.learning_rate}'"],  # in the middle of a text
        ["backend.threads=${oc.select:seed,3}"],  # by a resolver
        ["hyperparameters={batch_size: 2}", "seed=9"],
        ["model=huggingface", "model.name=some/name"],
    ]
)
SWEPT = st.sampled_from(
    [
        [f"{EPOCHS}=1,2", "seed=3,4"],
        ["seed=1,2,3", "template.output='{{ a }}','{{ b }}'"],
        ["template=plain,question_context", "seed=5,6"],
        ["hyperparameters.adapter_alpha=1,16", "hyperparameters.learning_rate=0.1,1e-3"],
        ["model.revision=null,v1", "dataset.limit=null,3"],
        ["dataset.path=a.json,b.json", "seed=1,2"],
        ["++hyperparameters.epoch_count=1,2"],
        ["hyperparameters.keep=last,best", "dataset.on_bad_row=error,skip"],  # keys that the YAML leaves to the schema
        [
            "evaluation.baselines.examples=[0,4]",
            "evaluation.generation.temperature=0,0.5",
        ],  # of a section that it leaves out; the examples are the default
    ]
)


@pytest.mark.thorough
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(BASES, SWEPT)
def test_shared_sections_give_what_each_point_composes(base: list[str], swept: list[str]) -> None:
    """A point put together from shared sections has the config of the point composed as a whole."""
    pinned = ["sweep.axes=null", "seed=7", *base]
    experiment = load([NEXT, *pinned, *swept])
    for point in experiment.points[-2:]:
        alone = [f"{key}={_typed(value)}" for key, value in point.overrides.items()]
        alone = [f"++{text}" if swept[0].startswith("++") else text for text in alone]
        assert load([NEXT, *pinned, *alone]).points[0].config == point.config


def _typed(value: Any) -> str:
    return "null" if value is None else f"'{value}'" if isinstance(value, str) and "{" in value else str(value)


def test_points_share_what_they_do_not_touch() -> None:
    """Ten thousand trials keep one dataset, and one set of hyperparameters for each of their values."""
    found = load([NEXT, "sweep.axes=null", "hyperparameters.batch_size=1,2", "seed=1,2,3"]).points
    assert len({id(point.config.dataset) for point in found}) == 1
    assert len({id(point.config.hyperparameters) for point in found}) == 2


def test_a_trial_has_no_checks_across_its_sections() -> None:
    """Sections are validated one by one, so a check across sections would never run."""
    decorators = TrialConfig.__pydantic_decorators__
    assert [*decorators.model_validators, *decorators.field_validators, *decorators.root_validators] == []


def test_a_swept_key_that_is_set_inside_of_a_dictionary_is_refused() -> None:
    """The axis would silently overwrite it; the plain form pins the axis."""
    with pytest.raises(ConfigError, match=r"hyperparameters.epoch_count is swept; pin it by a plain"):
        load(["experiment=next_number", "hyperparameters={epoch_count: 3}"])


def test_a_wrong_item_of_a_list_on_the_command_line_is_located_there() -> None:
    """The error does not name the line of the YAML that the override replaces."""
    with pytest.raises(
        ConfigError, match=r"^command line: evaluation.metrics.0: no metric 'exact_mach'; did you mean 'exact_match'"
    ):
        load(["experiment=next_number", "evaluation.metrics=[exact_mach]"])


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("{hyperparameters.epoch_count: 11}", r"0.hyperparameters.epoch_count: no point has the value 11; the axis has 5, 10"),
        ("{hyperparameters.epoch_count: '10'}", "is text, and the axis has the number or word 10; write it without quotes"),
        ("{hyperparameters.epoch_count: true}", "no point has the value true; the axis has 5, 10"),
        ("{hyperparameters.epoch_cuont: 10}", "is not swept; did you mean 'hyperparameters.epoch_count'"),
        ("{hyperparameters: {epoch_count: 11}}", "0.hyperparameters.epoch_count: no point has the value 11"),
        ("{hyperparameters.epoch_count: [5]}", "must be one value; write an entry for each combination"),
        ("{}", "sweep.exclude.0: is empty"),
    ],
)  # fmt: skip
def test_an_exclusion_that_excludes_nothing_is_refused(entry: str, words: str) -> None:
    """Its points would run and cost money; the error lists the values of the axis."""
    with pytest.raises(ConfigError, match=words):
        points(f"sweep.exclude=[{entry}]")


def test_an_exclusion_of_values_that_never_meet_is_refused() -> None:
    """Zipped axes have each of the values, and no point has both."""
    with pytest.raises(ConfigError, match=r"sweep.exclude.0: excludes nothing: no point has all of its values"):
        points(f"{EPOCHS}=zip(1,2)", "seed=zip(3,4)", "sweep.exclude=[{hyperparameters.epoch_count: 1, seed: 4}]")


@pytest.mark.parametrize(
    "entry",
    ["{hyperparameters.epoch_count: 10.0}", "{hyperparameters: {epoch_count: 10}}", "{hyperparameters.epoch_count: 1e1}"],
)  # fmt: skip
def test_exclusions_compare_numbers_as_numbers_and_may_be_nested(entry: str) -> None:
    """As axes may be: 10, 10.0 and 1e1 are one number."""
    assert [p[EPOCHS] for p in points(f"sweep.exclude=[{entry}]")] == [5, 5]


@pytest.mark.parametrize("typed", [f"{EPOCHS}=3", f"{EPOCHS}=3,4"])
def test_an_exclusion_about_an_axis_that_the_command_line_changed_is_not_a_mistake(typed: str) -> None:
    """The same file without the override needs it."""
    entry = "sweep.exclude=[{hyperparameters.epoch_count: 10, hyperparameters.learning_rate: 0.001}]"
    assert {p[EPOCHS] for p in points(entry, typed) if EPOCHS in p} <= {3, 4}


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("range(0.0001,0.0005,0.0001)", [0.0001, 0.0002, 0.0003, 0.0004]),
        ("range(1e-4,5e-4,1e-4)", [0.0001, 0.0002, 0.0003, 0.0004]),
        ("range(0.5,0.1,-0.1)", [0.5, 0.4, 0.3, 0.2]),
        ("sort(range(0.5,0.1,-0.1))", [0.2, 0.3, 0.4, 0.5]),
        ("range(0.1,0.35,0.1)", [0.1, 0.2, 0.3]),
        ("float(range(1,3))", [1.0, 2.0]),
    ],
)
def test_ranges_are_counted_in_decimal(text: str, values: list[float]) -> None:
    """As written: 0.0003 and not 0.00030000000000000003, which would be another trial."""
    assert [p[RATE] for p in points(f"{EPOCHS}=1", f"{RATE}={text}")] == values


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("range(1,5,0)", r"the step of range\(..\) must not be 0"),
        ("range(0.1,0.5,0)", r"the step of range\(..\) must not be 0"),
        ("range(0,inf)", "must be finite numbers"),
        ("range(0,1,1e-9)", "more than 100,000 values; shorten the axis"),
        ("shuffle(range(0,1000000000))", "more than 100,000 values"),
        ("choice(1,2),3", "cannot be inside another value"),
        ("[choice(1,2)]", "cannot be inside another value"),
        ("{a: range(1,3)}", "cannot be inside another value"),
        ("foo(1)", "'seed': unknown function foo; functions: bool, choice, float"),
        ("shuffle([1,2])", r"shuffle\(..\) takes the values of an axis"),
        ("[" * 200 + "]" * 200, "'seed': brackets are nested 200 deep; at most 50 are allowed"),
        ("{a:" * 200 + "1" + "}" * 200, "'seed': brackets are nested 200 deep"),
        ("choice(" * 200 + ")" * 200, "'seed': brackets are nested 200 deep"),
        ("[" + "1," * 5_000 + "1]", "'seed': a list of 5,001 items; at most 2,000 are allowed; put it into a YAML"),
        ("1," * 200_000, "'seed': 400,005 characters; at most 50,000 are allowed"),
    ],
    ids=lambda text: text[:20],
)
def test_an_override_is_bounded(text: str, words: str) -> None:
    """An override that would exhaust the memory or the parser's stack is one line of error."""
    with pytest.raises(ConfigError, match=words) as caught:
        points(f"seed={text}")
    assert len(caught.value.problems) == 1


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("typed", "found"),
    [
        (["seed=1,2", "seed=3"], [None]),
        (["seed=3", "seed=1,2"], [1, 2]),
        (["seed=1,2", "seed=4,5"], [4, 5]),
        (["seed=1,2", "++seed=3"], [None]),
        (["++seed=3", "seed=range(4,6)"], [4, 5]),
        (["seed=1,2", "~seed"], [None]),
    ],
)
def test_the_last_override_of_a_key_wins_whichever_form_it_has(typed: list[str], found: list[int | None]) -> None:
    """A value after values pins the key, and values after a value sweep it."""
    experiment = load([NEXT, "sweep.axes=null", *typed])
    assert [point.overrides.get("seed") for point in experiment.points] == found
    assert experiment.points[-1].config.seed == {None: 3, 2: 2, 5: 5}[found[-1]] or typed[-1] == "~seed"


def test_a_dictionary_after_the_values_of_a_key_is_refused() -> None:
    """It would be ignored in silence; before them it is overridden, as any earlier override is."""
    with pytest.raises(ConfigError, match=r"hyperparameters.epoch_count is swept; pin it by a plain"):
        points(f"{EPOCHS}=1,2", "hyperparameters={epoch_count: 3}")
    assert {p[EPOCHS] for p in points("hyperparameters={epoch_count: 3}", f"{EPOCHS}=1,2")} == {1, 2}


def test_a_shuffled_axis_has_one_order_for_each_seed() -> None:
    """The experiment's seed puts it in order: each load gives the same sweep, another seed another one."""
    axis = f"{EPOCHS}=shuffle(range(1,30))"
    first, second, other = (points(axis, f"{RATE}=0.1", f"seed={seed}") for seed in (1, 1, 2))
    assert first == second != other
    assert sorted(p[EPOCHS] for p in first) == list(range(1, 30)) == sorted(p[EPOCHS] for p in other)  # type: ignore[type-var]
