"""conf directories and overrides become an Experiment, or lines that say what is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tunerun.compose import compose_yaml, config_directories, explain, load, places
from tunerun.compose.explanation import text_of
from tunerun.errors import ConfigError

NEXT = "experiment=next_number"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_defaults_are_the_gemini_guides(examples_file: Path) -> None:
    """Without a choice, epochs, batch size and learning rate are those of the Gemini API's guide."""
    hyperparameters = load(["name=x", f"dataset.path={examples_file}"]).hyperparameters
    assert (5, 4, 0.001) == (hyperparameters.epoch_count, hyperparameters.batch_size, hyperparameters.learning_rate)


def test_an_experiment_wins_over_the_primary_config() -> None:
    """`_self_` comes first, so that what an experiment sets is not undone by config.yaml."""
    write(Path("conf/experiment/seeded.yaml"), "# @package _global_\nname: seeded\nseed: 7\ndataset: {path: x.csv}\n")
    assert load(["experiment=seeded"]).seed == 7


def test_the_command_line_wins_over_an_experiment() -> None:
    """A value that is typed wins over the experiment's, whatever the order."""
    assert load(["evaluation.generation.max_output_tokens=3", NEXT]).evaluation.generation.max_output_tokens == 3


def test_a_users_conf_comes_first_and_uses_shipped_groups() -> None:
    """A file of the user's own conf hides the shipped one of that name, and may build on other shipped ones."""
    write(Path("conf/hyperparameters/default.yaml"), "epoch_count: 9\nbatch_size: 2\n")
    write(Path("conf/dataset/mine.yaml"), "defaults: [file, _self_]\npath: mine.csv\n")
    experiment = load(["name=x", "dataset=mine"])
    assert (9, 2) == (experiment.hyperparameters.epoch_count, experiment.hyperparameters.batch_size)


def test_the_config_directory_of_the_command_line_comes_before_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--config-dir` comes before TUNERUN_CONF, which comes before ./conf, which comes before what is shipped."""
    for name in ("typed", "environment", "conf"):
        Path(name).mkdir()
    monkeypatch.setenv("TUNERUN_CONF", "environment")
    names = [directory.name for directory in config_directories("typed")]
    assert names == ["typed", "environment", "conf", "conf"]
    assert config_directories("typed")[-1] == REPOSITORY / "conf"


def test_a_relative_path_is_looked_for_beside_the_yaml_that_names_it(tmp_path: Path) -> None:
    """A path in a YAML means a file in the current directory, else one beside that YAML."""
    write(tmp_path / "elsewhere/conf/dataset/mine.yaml", "defaults: [file, _self_]\npath: ../rows.csv\n")
    write(tmp_path / "elsewhere/conf/rows.csv", "text_input,output\n1,2\n")
    experiment = load(["name=x", "dataset=mine"], str(tmp_path / "elsewhere/conf"))
    assert experiment.dataset.path == str(tmp_path / "elsewhere/conf/rows.csv")


def test_relative_folders_become_absolute(tmp_path: Path) -> None:
    """Runs and the SQLite store mean the same place from any directory."""
    experiment = load([NEXT])
    assert experiment.paths.runs == str(tmp_path / "runs")
    assert load([NEXT, "tracking.uri=sqlite:///a.db"]).tracking.uri == f"sqlite:///{tmp_path}/a.db"


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("overrides", "lines"),
    [
        (["hyperparameters.epoch_cont=3"], ["command line: hyperparameters.epoch_cont: unknown key 'epoch_cont'; did you mean 'epoch_count'?"]),
        (["+hyperparameters.epoch_cont=3"], ["command line: hyperparameters.epoch_cont: unknown key 'epoch_cont'; did you mean 'epoch_count'?"]),
        (["datset=csv"], ["command line: datset: unknown key 'datset'; did you mean 'dataset'?"]),
        (["experimnt=x"], ["command line: experimnt: unknown key 'experimnt'; did you mean 'experiment'?"]),
        (["template=plian"], ["command line: template: no choice 'plian'; did you mean 'plain'? choices: bank_intents, bank_question, plain, question_context"]),
        (["template=plain,chatty"], ["command line: template: no choice 'chatty'; choices: bank_intents, bank_question, plain, question_context"]),
        (["template=glob(z*)"], ["template=glob(z*): no choice of template matches; choices: bank_intents, bank_question, plain, question_context"]),
        (["hyperparameters.epoch_count=many"], ["command line: hyperparameters.epoch_count: must be a whole number"]),
        (["hyperparameters.epoch_count=2.5"], ["command line: hyperparameters.epoch_count: must be a whole number, not 2.5"]),
        (["hyperparameters.epoch_count=0"], ["command line: hyperparameters.epoch_count: must be 1 or more, not 0"]),
        (["hyperparameters.epoch_count=3,0"], ["command line: hyperparameters.epoch_count: must be 1 or more, not 0"]),
        (["hyperparameters.learning_rate=nan"], ["command line: hyperparameters.learning_rate: must be a finite number, not NaN or infinity"]),
        (["hyperparameters.learning_rate=inf"], ["command line: hyperparameters.learning_rate: must be a finite number, not NaN or infinity"]),
        (["hyperparameters.learning_rate=-1"], ["command line: hyperparameters.learning_rate: must be greater than 0, not -1"]),
        (["hyperparameters.learning_rate_multiplier=2"], ["command line: hyperparameters: learning_rate and learning_rate_multiplier exclude each other; add hyperparameters.learning_rate=null to use the multiplier"]),
        (["dataset.format=jsn"], ["command line: dataset.format: must be one of 'auto', 'json', 'jsonl', 'csv', 'tsv', 'semicolon', 'pipe', 'parquet' or 'arrow'; did you mean 'json'?"]),
        (["dataset.validation.path=x", "dataset.validation.fraction=0.5"], ["command line: dataset.validation: set path or fraction, not both"]),
        (["seed=true"], ["command line: seed: must be a whole number, not True"]),
        (["name=Next_Number"], ["command line: name: must be a slug: small letters, digits, - and _, a letter first, such as next_number"]),
        (["name=a,b"], ["name=a,b: name changes no trial and cannot be swept; run once for each value"]),
        (["sweep.axes.seed=[]"], ["sweep.axes.seed: has no values; give some, such as 1,2,3, or remove the axis"]),
        (["sweep.axes.seed=''"], ["sweep.axes.seed: has no values; give some, such as 1,2,3, or remove the axis"]),
        (["seed=interval(1,5)"], ["seed=interval(1,5): the values of an axis must be listed: 1,2, choice(..), range(..) or zip(..)"]),
        (["seed=[1,2],[3,4]"], ["seed: a value must be text, a number, true, false or null; sweep a group instead"]),
        (["seed=range(0,1000000000)"], ["seed=range(0,1000000000): more than 100,000 values; shorten the axis"]),
        (["seed=range(0,50000)"], ["sweep.axes: 2 x 2 x 50000 points; at most 100,000 are allowed; shorten an axis"]),
        (["seed=zip(1,2)", "hyperparameters.epoch_count=zip(1,2,3)"], ["sweep.axes: axes written with zip(..) must have equally many values: hyperparameters.epoch_count has 3, seed has 2"]),
        (["sweep.exclude=[{sede: 1}]"], ["sweep.exclude.0.sede: is not swept; name one of hyperparameters.epoch_count, hyperparameters.learning_rate"]),
        (["sweep.exclude=[{hyperparameters.epoch_count: 5},{hyperparameters.epoch_count: 10}]"], ["sweep.exclude leaves no point of the sweep; remove an entry"]),
        (["backend.kind=locl"], ["command line: backend.kind: must be one of 'local', 'gemini', 'openai'; did you mean 'local'?"]),
        (["sweep=grid"], ["command line: sweep=grid: the experiment sets sweep.axes itself, which take precedence over the group; set the axes you want, such as hyperparameters.learning_rate=1e-3,1e-4"]),
        (["sweep.axes.seed=1,2"], ["sweep.axes.seed=1,2: write seed=1,2 to add or replace that axis"]),
        (["name=Foo Bar!"], ["'name': this is not an override in Hydra's grammar; write key=value, and quote a value that has spaces, commas, braces or letters beyond ASCII"]),
        (["datset.limit=3"], ["command line: datset: unknown key 'datset'; did you mean 'dataset'?"]),
        (["epoch_count=3"], ["command line: epoch_count: unknown key 'epoch_count'; did you mean 'hyperparameters.epoch_count'?"]),
        (["model.zzz=3"], ["command line: model.zzz: unknown key 'zzz'; known keys: name, source"]),
        (["support"], ["'support': this is not an override in Hydra's grammar; write key=value, such as experiment=NAME or dataset.path=FILE"]),
        (["tracking.kind=wandb"], ["command line: tracking.kind: must be one of 'mlflow' or 'none'"]),
    ],
)  # fmt: skip
def test_each_problem_is_one_line(overrides: list[str], lines: list[str]) -> None:
    """Each mistake is one line: where it was written, the dotted key, what is allowed, the nearest right name."""
    with pytest.raises(ConfigError, match=re.escape(lines[0])) as caught:
        load([NEXT, *overrides])
    assert len(caught.value.problems) == len(lines)


@pytest.mark.parametrize("override", ["hydra/launcher=ray", "hydra.run.dir=x", "hydra/sweeper=optuna"])
def test_hydras_own_launchers_are_refused_with_the_way_to_do_it_here(override: str) -> None:
    """Settings of hydra are refused, and the error says what takes their place."""
    with pytest.raises(ConfigError, match=r"choose where to run with backend=.*what to vary with key=1,2"):
        load([NEXT, override])


def test_all_problems_are_reported_at_once() -> None:
    """Three mistakes give three lines."""
    with pytest.raises(ConfigError, match="unknown key 'sed'") as caught:
        load([NEXT, "sed=1", "hyperparameters.batch_size=0", "backend.device=gpu"])
    assert len(caught.value.problems) == 3


def test_a_mistake_in_a_yaml_is_found_with_its_line() -> None:
    """An error names the file and the line that set the value."""
    write(
        Path("conf/experiment/bad.yaml"),
        "# @package _global_\nname: bad\ndataset: {path: x}\nseed: -1\nhyperparameters:\n  epochs: 2\n",
    )
    with pytest.raises(ConfigError, match=r"conf/experiment/bad.yaml:4: seed: must be 0 or more, not -1") as caught:
        load(["experiment=bad"])
    assert (
        "conf/experiment/bad.yaml:6: hyperparameters.epochs: unknown key 'epochs'; did you mean 'epoch_count'?"
        in str(caught.value)
    )


def test_a_mistake_in_an_axis_is_found_where_the_axis_is() -> None:
    """A wrong value of a swept key is reported at the line of its axis."""
    text = "# @package _global_\nname: bad\ndataset: {path: x}\nsweep:\n  axes:\n    seed: 1,-1\n"
    write(Path("conf/experiment/bad.yaml"), text)
    with pytest.raises(ConfigError, match=r"conf/experiment/bad.yaml:6: seed: must be 0 or more, not -1"):
        load(["experiment=bad"])


def test_broken_yaml_is_reported_with_its_file() -> None:
    """A YAML that cannot be parsed is named, with the line."""
    write(Path("conf/experiment/broken.yaml"), "# @package _global_\nname: [\n")
    with pytest.raises(ConfigError, match=r"broken.yaml:3: is not YAML"):
        load(["experiment=broken"])


def test_an_unset_environment_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpolation that cannot be resolved names the key and the variable."""
    with pytest.raises(
        ConfigError, match=r"command line: tracking.uri: the environment variable TUNERUN_NOWHERE is not set; set it"
    ):
        load([NEXT, "tracking.uri=${oc.env:TUNERUN_NOWHERE}"])


def test_a_pasted_secret_is_not_echoed() -> None:
    """Free text and values of unknown keys never appear in an error."""
    with pytest.raises(ConfigError, match="unknown key 'api_key'") as caught:
        load([NEXT, "backend.api_key=sk-planted", "seed=sk-planted", "hyperparameters.adapter_rank=sk-planted"])
    assert "sk-planted" not in str(caught.value)


def test_missing_values_are_all_named() -> None:
    """Without an experiment, the two values that have no default are missing."""
    with pytest.raises(ConfigError, match=r"config.yaml:\d+: name: is missing; give it a value") as caught:
        load()
    assert [p.split(": ")[1] for p in caught.value.problems] == ["name", "dataset.path"]


def test_a_directory_that_is_not_there_is_named() -> None:
    """A config directory that was typed wrongly is an error, not silence."""
    with pytest.raises(ConfigError, match="--config-dir: nowhere: no such directory"):
        load([NEXT], "nowhere")


def test_explain_has_the_value_its_place_and_its_description() -> None:
    """A key is explained by its value, the line that set it and the field's description."""
    text = text_of(explain("hyperparameters.epoch_count", [NEXT]))
    assert "hyperparameters.epoch_count = 5" in text
    assert "hyperparameters/default.yaml:3" in text
    assert "Passes over the training examples." in text


def test_explain_of_a_wrong_key_names_the_nearest() -> None:
    """A key that does not exist is answered with the nearest that does."""
    with pytest.raises(ConfigError, match="did you mean 'epoch_count'"):
        explain("hyperparameters.epochcount", [NEXT])


def test_the_composed_config_is_yaml_with_interpolations_resolved() -> None:
    """`config` prints what was composed."""
    assert "note: runs" in compose_yaml([NEXT, "+note=${paths.runs}"])


def test_a_password_from_the_environment_is_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`config` and `--explain` show the interpolation and not what it brings in."""
    monkeypatch.setenv("TRACKING", "postgresql://me:planted@db/x")
    overrides = [NEXT, "tracking.uri=${oc.env:TRACKING}"]
    printed = compose_yaml(overrides) + text_of(explain("tracking.uri", overrides))
    assert "planted" not in printed
    assert printed.count("${oc.env:TRACKING}") == 2


def test_places_need_no_experiment(tmp_path: Path) -> None:
    """Commands that only need the folders compose no experiment."""
    paths, tracking = places(["paths.runs=elsewhere"])
    assert paths.runs == str(tmp_path / "elsewhere")
    assert tracking.uri is None


@pytest.mark.thorough
@pytest.mark.parametrize("group", sorted(p.name for p in (REPOSITORY / "conf").iterdir() if p.is_dir()))
def test_every_shipped_yaml_composes_and_validates(group: str, examples_file: Path) -> None:
    """Each file under conf/ gives a valid experiment, and starts with a line that says what it is."""
    for file in sorted((REPOSITORY / "conf" / group).glob("*.yaml")):
        overrides = ["name=x", f"dataset.path={examples_file}", f"{group}={file.stem}"]
        if file.stem == "huggingface":
            overrides.append("model.name=someone/some-model")
        assert load(overrides).points, file
        assert file.read_text().startswith("# "), f"{file} has no header"


@pytest.mark.slow
def test_a_choice_misspelt_in_a_file_is_named_with_its_line(tmp_path: Path) -> None:
    """In a defaults list and in an axis: the file, the line, and the nearest right name."""
    file = tmp_path / "conf" / "experiment" / "g.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("# @package _global_\ndefaults:\n  - override /template: plian\nname: g\n")
    with pytest.raises(
        ConfigError,
        match=r"g.yaml:3: template: no choice 'plian'; did you mean 'plain'\? choices: bank_intents, bank_question, plain",
    ):
        load(["experiment=g", "dataset.path=x"], str(tmp_path / "conf"))
    file.write_text("# @package _global_\nname: g\nsweep:\n  axes:\n    template: plain,plian\n")
    with pytest.raises(ConfigError, match=r"g.yaml:5: .*plian"):
        load(["experiment=g", "dataset.path=x"], str(tmp_path / "conf"))


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"name: caf\xe9\n", "g.yaml: is not UTF-8 at byte 9; save it as UTF-8"), (b"name: [\n", "g.yaml:2: is not YAML")],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    """A file that is not UTF-8 or not YAML is named."""
    file = tmp_path / "conf" / "experiment" / "g.yaml"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        load(["experiment=g", "dataset.path=x"], str(tmp_path / "conf"))
