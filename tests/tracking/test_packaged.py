"""The logged model of a trial is one that MLflow can load, and nothing in it says where it was made."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.tracking.adapters import HOME, write_adapter
from tests.tracking.content import client, run_of
from tests.tracking.sweeps import Lab
from tunerun.errors import TemplateError
from tunerun.examples import Conversation, Example
from tunerun.job import TemplateText
from tunerun.template import PromptTemplate
from tunerun.tracking import Tracker
from tunerun.tracking.address import parse_address
from tunerun.tracking.packaged import writing
from tunerun.tracking.packaged.columns import InputColumn, example_row, input_columns, stored_row
from tunerun.tracking.run_projection import FrozenSweep, LoggedModel, SharedTrial, Standing
from tunerun.tracking.store import Store
from tunerun.tracking.trial import MAX_ADAPTER_BYTES, trial_projection


def template(text_input: str) -> PromptTemplate:
    return PromptTemplate(TemplateText(text_input, "{{ output }}"))


def tuned(lab: Lab, number: int, **adapter: Any) -> Path:
    """Let a trial of a lab end with a tuned model in a folder."""
    folder = lab.ledger.path.parent.absolute() / "tuned_models" / f"t-{number}"
    write_adapter(folder, lab.trials[number].key, **adapter)
    lab.finish(number, right=2, location=str(folder))
    return folder


def logged(uri: str, number: int = 0) -> Any:
    """The logged model of a trial's run."""
    [output] = run_of(uri, "trial", number).outputs.model_outputs
    return client(uri).get_logged_model(output.model_id)


def files_of(uri: str, model: Any, folder: Path) -> Path:
    """The files of a logged model, downloaded."""
    from mlflow.artifacts import download_artifacts

    folder.mkdir()
    return Path(download_artifacts(artifact_uri=model.artifact_location, dst_path=str(folder), tracking_uri=uri))


def test_a_trial_has_a_model_that_mlflow_can_load(lab: Lab, uri: str, tmp_path: Path) -> None:
    """With flavour, signature, example, exact requirements, the adapter, and the digest of every file as a tag."""
    folder = tuned(lab, 0)
    Tracker(lab.ledger.path, uri).sync()
    model = logged(uri)
    assert str(model.status) == "READY"
    assert "mlflow.model.isExternal" not in model.tags
    files = files_of(uri, model, tmp_path / "model")
    mlmodel = yaml.safe_load((files / "MLmodel").read_text())
    assert mlmodel["flavors"]["python_function"]["model_code_path"] == "wrapper.py"
    assert mlmodel["signature"]["inputs"] == '[{"type": "string", "name": "text_input", "required": true}]'
    assert "max_output_tokens" in mlmodel["signature"]["params"]
    weights = "adapter_model.safetensors"
    assert (files / "artifacts" / "tuned_model" / weights).read_bytes() == (folder / weights).read_bytes()
    requirements = (files / "requirements.txt").read_text().splitlines()
    assert requirements[0].startswith("tunerun==")
    assert all(line.count("==") == 1 and "+" not in line for line in requirements)
    sums = "".join(
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(files).as_posix()}\n"
        for file in sorted(files.rglob("*"))
        if file.is_file()
    )
    assert model.tags["tunerun.files"] == sums
    from mlflow.models import Model

    assert Model.load(str(files)).load_input_example(str(files)).to_dict("records") == [{"text_input": "20"}]


def test_nothing_in_it_names_this_machine(lab: Lab, uri: str, tmp_path: Path) -> None:
    """Neither its folders nor the base model's are in any file or tag."""
    tuned(lab, 0)
    Tracker(lab.ledger.path, uri).sync()
    model = logged(uri)
    files = files_of(uri, model, tmp_path / "model")
    texts = [file.read_text(errors="replace") for file in files.rglob("*") if file.is_file()]
    for text in [*texts, *model.tags.values(), *model.params.values()]:
        assert HOME not in text
        assert str(tmp_path) not in text
        assert "/root" not in text


def test_a_large_adapter_is_copied_for_the_advised_point_alone(lab: Lab) -> None:
    """Of every other trial MLflow has the name."""
    tuned(lab, 0, size=MAX_ADAPTER_BYTES + 1)
    sweep = FrozenSweep(lab.ledger, lab.sweep.id)
    progress = lab.ledger.progress(lab.sweep.id)[0]

    def model_of(standing: Standing | None) -> LoggedModel:
        shared = SharedTrial([(sweep, lab.trials[0])], progress, is_interrupted=False, standing=standing)
        projection = trial_projection(lab.ledger, shared)
        assert projection is not None
        assert projection.model is not None
        return projection.model.render()

    assert model_of(None).package is None
    assert model_of(Standing("p0")).package is None
    assert model_of(Standing("p0", is_advised=True)).package is not None


def test_a_model_that_was_logged_without_its_files_gets_them(lab: Lab, uri: str) -> None:
    """As those of an earlier tunerun, or of a large adapter that turned out the best; other files are left alone."""
    folder = tuned(lab, 0)
    kept = folder.rename(folder.with_name("elsewhere"))
    Tracker(lab.ledger.path, uri).sync()
    before = logged(uri)
    assert before.tags["mlflow.model.isExternal"] == "true"
    kept.rename(folder)
    sweep = FrozenSweep(lab.ledger, lab.sweep.id)
    shared = SharedTrial([(sweep, lab.trials[0])], lab.ledger.progress(lab.sweep.id)[0], is_interrupted=False)
    projection = trial_projection(lab.ledger, shared)
    assert projection is not None
    assert projection.model is not None
    run = run_of(uri, "trial", 0)
    store = Store(parse_address(uri, lab.ledger.path.parent))
    assert store.log_model(run.info.experiment_id, run.info.run_id, projection.model.render()) == before.model_id
    after = logged(uri)
    assert "mlflow.model.isExternal" not in after.tags
    content = after.tags["tunerun.content"]
    client(uri).set_logged_model_tags(after.model_id, {"tunerun.content": "of other files"})
    assert store.log_model(run.info.experiment_id, run.info.run_id, projection.model.render()) == before.model_id
    assert logged(uri).tags["tunerun.content"] == "of other files" != content


def test_a_folder_that_is_damaged_leaves_the_name(lab: Lab, uri: str) -> None:
    """The run is shown all the same."""
    folder = tuned(lab, 0)
    (folder / "tunerun.json").write_text("{")
    tracker = Tracker(lab.ledger.path, uri)
    tracker.sync()
    assert tracker.problem is None
    assert logged(uri).tags["tunerun.tuned_model"].startswith("tunedModels/t-")


@pytest.mark.slow
def test_packaging_does_not_load_the_engine() -> None:
    """A tracker in the runner's process must not import torch."""
    code = (
        "import sys; from tunerun.tracking.packaged import writing; "
        "print({'torch', 'transformers', 'mlflow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("Q: {{ q }}", [InputColumn("q", is_text=True, is_required=True)]),
        (
            "{{ q }}{% if tone %} ({{ tone | trim }}){% endif %}",
            [InputColumn("q", is_text=True, is_required=True), InputColumn("tone", is_text=True, is_required=False)],
        ),
        (
            "{% for turn in turns %}{{ turn.text }}{% endfor %}",
            [InputColumn("turns", is_text=False, is_required=False)],
        ),
        ("{{ n + 1 }}{{ n }}", [InputColumn("n", is_text=False, is_required=True)]),
        ("{{ row | tojson }}", []),
    ],
)
def test_columns_are_what_the_template_needs_of_them(text: str, columns: list[InputColumn]) -> None:
    """Text where text is enough, required where every row prints it."""
    assert input_columns(template(text)) == columns


@pytest.mark.parametrize(
    ("text", "inputs", "row"),
    [
        ("Q: {{ q }}\nA:", ["Q: why?\nA:"], {"q": "why?"}),
        ("{{ a }} and {{ a }} | {{ b }}", ["x and y | z", "x and x | z"], {"a": "x", "b": "z"}),
        ("{{ a }} {{ b }}", ["one two three"], None),
        ("{{ a | upper }}", ["ONE"], None),
    ],
)
def test_the_example_is_the_row_behind_a_held_out_input(
    text: str, inputs: list[str], row: dict[str, str] | None
) -> None:
    """Or none, where the input does not say what the cells were."""
    assert example_row(template(text), inputs) == row


def test_the_example_of_a_template_with_conditions_comes_from_the_file(tmp_path: Path) -> None:
    """The row as it is there, with the columns that the template reads; none where the file is gone."""
    file, ask = (
        tmp_path / "rows.jsonl",
        template("{% for t in turns %}{{ t }};{% endfor %}{% if tone %}{{ tone }}{% endif %}"),
    )
    rows = [{"turns": ["a"], "tone": "dry", "output": "x"}, {"turns": ["b", "c"], "tone": None, "output": "y"}]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert stored_row(file, ask, ["b;c;"]) == {"turns": ["b", "c"], "tone": None}
    assert stored_row(file, ask, ["z;"]) is None
    assert stored_row(tmp_path / "gone.jsonl", ask, ["b;c;"]) is None


def test_a_template_with_a_secret_is_not_packaged(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere it is masked; a model with a masked template would answer something else."""
    tuned(lab, 0)
    monkeypatch.setenv("PLANTED_KEY", "{{ text_input }}")
    job = lab.ledger.job(lab.trials[0].key)
    assert job is not None
    with pytest.raises(TemplateError, match="holds what looks like a key or a password"):
        writing.write(tmp_path / "model", writing.source_of(lab.trials[0], job))


@given(system=st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip))
def test_the_system_message_of_all_rows_is_the_templates(system: str) -> None:
    """MLflow's rows are not conversations, so a package sends the one that all held-out rows had, whatever it is."""
    packaged = writing.with_system(template("{{ text }}"), [Example("a", "b", system)] * 2)
    assert packaged.render_input({"text": "x"}) == Conversation("x", system)


def test_system_messages_that_differ_or_are_the_templates_own() -> None:
    """A template is packaged as it is where rows differ in their system message, have none, or it says one itself."""
    plain, own = template("{{ text }}"), PromptTemplate(TemplateText(system="Be brief."))
    for examples in ([], [Example("a", "b")], [Example("a", "b", "S"), Example("a", "b", "T")]):
        assert writing.with_system(plain, examples) is plain
    assert writing.with_system(own, [Example("a", "b", "S")]) is own
