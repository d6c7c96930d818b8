"""Mistakes in the files of a conf directory: each names the file, the line, and the fix that works."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tunerun.compose import compose_yaml, config_directories, each_experiment, load
from tunerun.errors import ConfigError

NEXT = "experiment=next_number"
GLOBAL = "# @package _global_\n"


def write(path: str, text: str | bytes) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("name: g\ndataset: {path: x}\n", r"g.yaml:1: has no line '# @package _global_' before its first key, so its keys are set below 'experiment'; make that"),
        ("name: g\n# @package _global_\ndataset: {path: x}\n", r"g.yaml:1: has no line '# @package _global_' before its first key"),
        (GLOBAL + "defaults:\n  - /dataset: next_number\nname: g\n", r"g.yaml:3: defaults: dataset is chosen in config.yaml already; write `- override /dataset: next_number`"),
        (GLOBAL + "defaults:\n  - dataset: next_number\nname: g\n", r"g.yaml:3: defaults: dataset is chosen in config.yaml already; write `- override /dataset: next_number`"),
        (GLOBAL + "defaults:\n  - override dataset: next_number\nname: g\n", r"g.yaml:3: defaults: `override dataset` names no group of config.yaml; write `- override /dataset: next_number`"),
        (GLOBAL + "defaults:\n  - override /datset: next_number\nname: g\n", r"g.yaml:3: defaults: no group 'datset'; did you mean 'dataset'\?"),
        (GLOBAL + "defaults:\n  override /dataset: next_number\nname: g\n", r"g.yaml:3: defaults: must be a list; begin each entry with '- '"),
        (GLOBAL + "name: g\ntemplate: null\n", r"g.yaml:3: template: must be a mapping of keys to values; remove the line for the defaults, or choose one of bank_intents, bank_question, plain"),
        (GLOBAL + "name: g\nseed: ${oc.env:NOWHERE}\n", r"g.yaml:3: seed: the environment variable NOWHERE is not set; set it, or give a default: \$\{oc.env:NOWHERE,VALUE\}"),
        (GLOBAL + "name: g\nseed: ${oc.env:SEED}\n", r"g.yaml:3: seed: must be a whole number; the environment gives text: write \$\{oc.decode:\$\{oc.env:SEED\}\}"),
        (GLOBAL + "name: g\nseed: ${env:SEED}\n", r"g.yaml:3: seed: Unsupported interpolation type env; write \$\{oc.env:...\}"),
        (GLOBAL + "name: g\nseed: ${hyperparameter.epoch_count}\n", r"g.yaml:3: seed: Interpolation key 'hyperparameter.epoch_count' not found; write the whole dotted key"),
        (GLOBAL + "name: g\nseed: ${seed}\n", r"seed: its interpolation leads back to itself; give it a value"),
        (GLOBAL + "name: g\nsweep:\n  axes: {seed: '1,2'}\n  exclude:\n    - {seed: 2}\n    - {seed: 3}\n", r"g.yaml:7: sweep.exclude.1.seed: no point has the value 3; the axis has 1, 2"),
        (GLOBAL + "name: g\nsweep:\n  axes:\n    seed: []\n", r"g.yaml:5: sweep.axes.seed: has no values"),
        (GLOBAL + "name: g\nsweep:\n  axes:\n    hyperparameters.epoch_count: 1,2\n    seed: '1,,'\n", r"g.yaml:6: sweep.axes.seed: 'seed': this is not an override"),
        (GLOBAL + "name: g\nname: h\n", r"g.yaml:3: is not YAML: found duplicate key name"),
        (GLOBAL + "name: g\nsweep:\n  axes: [seed]\n", r"g.yaml:4: sweep.axes: must be a mapping of keys to values"),
        (GLOBAL + "name: g\nsweep:\n  exclude: {seed: 1}\n", r"g.yaml:4: sweep.exclude: must be a list; begin each entry with '- '"),
        (GLOBAL + "name: g\nsweep:\n  axes:\n    seed: {a: '1,2'}\n", r"g.yaml:5: seed: must be a whole number"),
        (GLOBAL + "name: !!binary aGVsbG8=\n", r"g.yaml:2: the tag !!binary is not read; write plain values"),
        (GLOBAL + "name: !!python/object/apply:os.system ['false']\n", r"g.yaml:2: the tag !!python/object/apply:os.system is not read"),
        (GLOBAL + "name: g\nhyperparameters: {learning_rate: ${my.lr}}\n", r"g.yaml:3: is not YAML: .*; quote an interpolation inside braces"),
        (GLOBAL + "- name: g\n", r"g.yaml:1: holds a list; write a mapping of keys to values"),
        (b"name: caf\xe9\n", r"g.yaml: is not UTF-8 at byte 9; save it as UTF-8"),
    ],
)  # fmt: skip
def test_a_mistake_in_an_experiments_file_names_the_file_and_the_fix(
    content: str | bytes, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hydra's own message names neither."""
    monkeypatch.setenv("SEED", "7")
    write("conf/experiment/g.yaml", content)
    with pytest.raises(ConfigError, match=words) as caught:
        load(["experiment=g", "dataset.path=x"])
    assert len(caught.value.problems) == 1


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 10)}]\n" for i in range(9)), r"g.yaml:5: expands to more than 20,000 values"),
        ("a: " + "[" * 200 + "]" * 200 + "\n", r"g.yaml:1: collections are nested more than 50 deep"),
        ("a: " + "{b: " * 200 + "1" + "}" * 200 + "\n", r"g.yaml:1: collections are nested more than 50 deep"),
        ("a: &a [*a]\n", r"g.yaml:1: the alias \*a is inside the value that it refers to"),
        ("a: &a " + "x" * 500_000 + "\nb: [" + "*a," * 500 + "]\n", r"g.yaml:2: expands to more than 20,000 values"),
        ("a: " + "x" * 1_000_001 + "\n", r"g.yaml: 1,000,005 bytes; a YAML of at most 1,000,000 is read"),
        ("sweep: {axes: {seed: 'range(0,10000000000)'}}\n", r"sweep.axes.seed: seed=range\(0,10000000000\): more than 100,000 values"),
        ("sweep: {axes: {seed: 'range(0,1e300,1e-300)'}}\n", "more than 100,000 values"),
        ("seed: ${oc.decode:'" + "[" * 200 + "]" * 200 + "'}\n", "seed: "),
        ("".join(f"a{n}: ${{a{n + 1}}}${{a{n + 1}}}\n" for n in range(40)) + "a40: x\n", "interpolations expand to more than 1,000,000 characters"),
        ("".join(f"a{n}: ['${{a{n + 1}}}', '${{a{n + 1}}}', '${{a{n + 1}}}']\n" for n in range(20)) + "a20: [x]\n", "interpolations expand to more than 1,000,000 characters"),
    ],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_a_yaml_cannot_exhaust_the_machine(content: str, words: str) -> None:
    """Aliases of aliases, deep nesting, huge ranges and interpolations of interpolations are one line each."""
    write("conf/experiment/g.yaml", f"{content if content.startswith(('a: &a', 'a: ')) else GLOBAL + content}")
    with pytest.raises(ConfigError, match=words) as caught:
        load(["experiment=g", "name=g", "dataset.path=x"])
    assert len(caught.value.problems) == 1


def test_a_byte_order_mark_does_not_hide_the_header() -> None:
    """A file that an editor saved with one is read like any other."""
    write("conf/experiment/g.yaml", b"\xef\xbb\xbf# @package _global_\nname: g\ndataset: {path: x}\n")
    assert load(["experiment=g"]).name == "g"


def test_a_long_comment_does_not_hide_the_header() -> None:
    """Hydra itself looks into the first 512 characters."""
    write("conf/experiment/g.yaml", "# @package _global_\n" + "# a licence\n" * 100 + "name: g\ndataset: {path: x}\n")
    assert load(["experiment=g"]).name == "g"


def test_a_file_that_ends_in_yml_is_named() -> None:
    """Hydra reads files that end in .yaml alone."""
    write("conf/experiment/mine.yml", GLOBAL + "name: g\n")
    with pytest.raises(
        ConfigError, match=r"no choice 'mine'; .*; conf/experiment/mine.yml is not read: rename it to mine"
    ):
        load(["experiment=mine"])


@pytest.mark.thorough
@pytest.mark.parametrize("text", ["+experiment=next_number", "+experiment=next_number +template=plain"])
def test_hydras_documented_form_of_choosing_an_experiment_works(text: str) -> None:
    """`+experiment=x` is what its documentation writes."""
    assert load(text.split()).name == "next_number"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("template=null", r"template=null: null is not a choice of template; write ~template for the defaults of its keys"),
        ("experiment=null", r"experiment=null: null is not a choice of experiment; omit experiment"),
        ("template=plain,null", r"null is not a choice of template"),
        ("experiment=next_number,next_number", r"each choice of experiment is a sweep of its own; only `plan` and `run` take several"),
        ("debug=tiny,tiny", r"each choice of debug is a sweep of its own; run once for each"),
        ("~dataset", r"dataset: is missing; give it a value; ~dataset removed it"),
    ],
)  # fmt: skip
def test_a_group_that_is_not_chosen_says_how_to_choose(override: str, words: str) -> None:
    """`null` is not a choice, and one choice of experiment or debug is one sweep."""
    with pytest.raises(ConfigError, match=words):
        load([NEXT, override])


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("override", "note"),
    [
        ("~seed", "~seed: removed from the config, so the default holds: 0"),
        ("~template", '~template: removed from the config, so the default holds: {"text_input":"{{ text_input }}","output":"{{ output }}","system":null}'),
        ("~hyperparameters.epoch_count", "~hyperparameters.epoch_count: removed from the config, so the default holds: 5"),
    ],
)  # fmt: skip
def test_a_note_says_what_replaces_a_removed_key(override: str, note: str) -> None:
    """A deleted key or group has the schema's default, and a plan says so."""
    assert load([NEXT, "sweep.axes=null", override]).notes == (note,)


def test_choices_in_folders_are_chosen_as_in_hydra() -> None:
    """`experiment=folder/name` and `dataset=folder/name`; a misspelt one is answered with the nearest."""
    write("conf/experiment/team/mine.yaml", GLOBAL + "defaults:\n  - override /dataset: team/rows\nname: mine\n")
    write("conf/dataset/team/rows.yaml", "path: x.csv\n")
    assert load(["experiment=team/mine"]).dataset.path.endswith("x.csv")
    assert load([NEXT, "dataset=team/rows"]).dataset.path.endswith("x.csv")
    with pytest.raises(ConfigError, match=r"no choice 'team/mien'; did you mean 'team/mine'"):
        load(["experiment=team/mien"])


def test_several_experiments_are_several_lists_of_overrides() -> None:
    """By name, by choice(..) and by glob, each with all other overrides; the last override of experiment says which."""
    for name in ("a", "b"):
        write(f"conf/experiment/{name}.yaml", GLOBAL + f"name: {name}\n")
    expected = [["experiment=a", "seed=1,2"], ["experiment=b", "seed=1,2"]]
    assert each_experiment(["experiment=a,b", "seed=1,2"]) == expected
    assert each_experiment([NEXT, "experiment=choice(a,b)", "seed=1,2"]) == expected
    every = [each[0] for each in each_experiment(["experiment=glob(*)"])]
    assert every == ["experiment=a", "experiment=b", "experiment=banking_intents", NEXT]
    assert each_experiment(["experiment=a,b", "experiment=a"]) == [["experiment=a,b", "experiment=a"]]
    with pytest.raises(ConfigError, match=r"no experiment matches; choices: a, b, banking_intents, next_number"):
        each_experiment(["experiment=glob(z*)"])


FOREIGN = "defaults:\n  - model: resnet\n  - _self_\nepochs: 3\n"


def test_another_programs_config_does_not_replace_tuneruns() -> None:
    """A `conf/config.yaml` without the groups is not used, its directory is, and the notes say so."""
    write("conf/config.yaml", FOREIGN)
    write("conf/experiment/mine.yaml", GLOBAL + "name: mine\ndataset: {path: x}\nhyperparameters: {epoch_cuont: 1}\n")
    note = load([NEXT]).notes[0]
    assert note.startswith(
        "conf/config.yaml: not used: its defaults have no dataset, backend, so it is another program's"
    )
    assert compose_yaml([NEXT]).startswith(f"# {note}\n")
    with pytest.raises(ConfigError, match=r"conf/experiment/mine.yaml:4: hyperparameters.epoch_cuont: unknown key"):
        load(["experiment=mine"])
    with pytest.raises(ConfigError, match=rf"{REPOSITORY}/conf/config.yaml:\d+: name: is missing"):
        load()


def test_a_users_own_primary_config_is_used() -> None:
    """One that has the groups replaces tunerun's own."""
    text = (REPOSITORY / "conf/config.yaml").read_text()
    write("conf/config.yaml", text.replace("seed: 0", "seed: 5"))
    assert (load([NEXT]).seed, load([NEXT]).notes) == (5, ())


@pytest.mark.parametrize(
    ("defaults", "words"),
    [
        ("- _self_", r"conf/config.yaml: has no experiment in its defaults, and is used instead of tunerun's own; add `- experiment: null`"),
        ("- experiment: null\n- _self_", r"conf/config.yaml: its own values come after those of the experiment and undo them; put `- _self_` first"),
        ("- experiment: null", r"conf/config.yaml: its own values come after those of the experiment"),
    ],
)  # fmt: skip
def test_a_users_own_primary_config_must_have_room_for_experiments(defaults: str, words: str) -> None:
    """Without that, Hydra refuses an experiment in its own words, or the file silently undoes it."""
    groups = "- dataset: file\n- model: smollm2-135m\n- backend: local\n"
    write("conf/config.yaml", f"defaults:\n{groups}{defaults}\nname: mine\n")
    with pytest.raises(ConfigError, match=words):
        load([NEXT])


@pytest.mark.slow
def test_several_directories_are_searched_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the command line, then those of TUNERUN_CONF with a colon between two."""
    for name, epochs in (("one", 1), ("two", 2), ("three", 3), ("four", 4)):
        write(f"{name}/hyperparameters/{name}.yaml", f"epoch_count: {epochs}\n")
        write(f"{name}/hyperparameters/default.yaml", f"epoch_count: {epochs}\n")
    monkeypatch.setenv("TUNERUN_CONF", "three:four")
    assert [d.name for d in config_directories(["one", "two"])] == ["one", "two", "three", "four", "conf"]
    assert load([NEXT, "sweep.axes=null"], ["two", "one"]).hyperparameters.epoch_count == 2
    assert load([NEXT, "sweep.axes=null"]).hyperparameters.epoch_count == 3
    assert load([NEXT, "sweep.axes=null", "hyperparameters=four"]).hyperparameters.epoch_count == 4
    monkeypatch.setenv("TUNERUN_CONF", "three:nowhere")
    with pytest.raises(ConfigError, match="TUNERUN_CONF: nowhere: no such directory"):
        load([NEXT])


def test_a_dictionary_may_set_what_the_groups_yaml_leaves_to_the_schema() -> None:
    """Keys that no YAML writes can be given; unknown ones are refused by the schema."""
    assert load([NEXT, "tracking={uri: http://127.0.0.1:9}"]).tracking.uri == "http://127.0.0.1:9"
    with pytest.raises(ConfigError, match=r"tracking\.url: unknown key 'url'; did you mean 'uri'\?"):
        load([NEXT, "tracking={url: http://127.0.0.1:9}"])


def test_a_dictionary_for_a_group_does_not_move_relative_paths() -> None:
    """`dataset={limit: 5}` says nothing of the path, which is looked for beside its YAML as before."""
    assert load([NEXT, "dataset={limit: 5}"]).dataset.path == load([NEXT]).dataset.path
    write("rows.csv", "text_input,output\n1,2\n")
    assert load([NEXT, "dataset={path: rows.csv}"]).dataset.path == str(Path("rows.csv").absolute())


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("override", "key"),
    [("name='x-${seed}'", "name"), ("paths.runs='runs/${seed}'", "paths"), ("budget.max_tokens=${seed}", "budget")],
)
def test_a_key_that_all_trials_share_must_not_read_a_swept_key(override: str, key: str) -> None:
    """A name with the seed in it would give one experiment several names."""
    with pytest.raises(ConfigError, match=rf"command line: {key}: reads a swept key \(seed\), and must be the same"):
        load([NEXT, "sweep.axes=null", "seed=1,2", override])
    assert load([NEXT, "sweep.axes=null", "seed=1", override]).seed == 1


@pytest.mark.slow
def test_what_was_composed_before_is_not_used_after_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that changes, one that appears, one that is removed and a choice by the environment all count at once."""

    def rank(*overrides: str) -> int:
        return load(["experiment=g", "dataset.path=x", *overrides]).hyperparameters.adapter_rank

    def of(value: int, defaults: str = "") -> str:
        return f"{GLOBAL}{defaults}name: g\nhyperparameters: {{adapter_rank: {value}}}\n"

    for value in (2, 3, 2):
        write("conf/experiment/g.yaml", of(value))
        assert rank() == value
    assert (rank("hyperparameters.adapter_rank=7"), rank()) == (7, 2)
    write("conf/local/default.yaml", of(4))
    assert rank() == 4
    Path("conf/local/default.yaml").unlink()
    assert rank() == 2
    write("conf/experiment/g.yaml", of(2, "defaults:\n  - override /template: ${oc.env:CHOSEN}\n"))
    for chosen in ("bank_question", "plain"):
        monkeypatch.setenv("CHOSEN", chosen)
        found = load(["experiment=g", "dataset.path=x"])
        assert Path(f"template/{chosen}.yaml") in {Path(*Path(file).parts[-2:]) for file in found.files}
        assert (found.template == load(["name=g", "dataset.path=x"]).template) == (chosen == "plain")
