"""Exported files, loaded as the model card says, give the answers of the tuned model."""

from __future__ import annotations

import hashlib
import json
import re
import resource
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.comparison.sweeps import Trained, frozen
from tests.engine import tiny_model
from tests.engine.tiny_model import request_of
from tests.export.labs import HELD, Lab, lab_of
from tunerun.cli import app
from tunerun.engine import network, tuned_model
from tunerun.errors import InputError, LimitError, NotFoundError
from tunerun.export.exporting import AnswerCheck, best_trial, export, named_trial
from tunerun.job import BaseModelRef, JobRef, JobState, JobStatus, TunedModel
from tunerun.record import OpenRecord

pytestmark = pytest.mark.engine

INPUTS = [example.text_input for example in HELD]
CODE = re.compile(r"```python\n(.*?)\n```", re.DOTALL)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    lab = lab_of(tiny_model.build(folder / "tiny-base"), folder / "runs", folder / "cache")
    yield lab
    lab.ledger.close()


def state_of(folder: Path) -> dict[str, str]:
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and "runs" not in file.parts)
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def answers_by_the_card(folder: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run the code of a model card, beside the base model, and ask it."""
    (code,) = CODE.findall((folder / "README.md").read_text())
    monkeypatch.chdir(lab.base.parent)
    names: dict[str, Any] = {}
    with network.peft_warnings_ignored():
        exec(re.sub(r'"\."', repr(str(folder)), code, count=1), names)  # noqa: S102 - our own text
    return [names["ask"](text) for text in INPUTS]


@pytest.mark.parametrize(
    ("form", "files"),
    [
        ("merged", ["config.json", "generation_config.json", "model.safetensors"]),
        ("adapter", ["adapter_config.json", "adapter_model.safetensors", "generation_config.json"]),
        ("gguf", ["tiny-a-f16.gguf"]),
    ],
)
def test_the_cards_code_gives_the_tuned_models_answers(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, files: Sequence[str]
) -> None:
    """Each form gives equal answers in the export's own check and by the card's code, and contains no path of the machine."""
    before = state_of(lab.base.parent)
    progress: list[str] = []
    exported = export(lab.record, lab.trial, form, tmp_path / "out", say=progress.append)
    assert (
        exported.check.sentence
        == "6 of 6 answers equal to the tuned model's (all 6 held-out rows, as the ledger has them)."
    )
    assert progress == [f"writing tunedModels/tiny-a as {form}", "asking it all 6 held-out rows"]
    assert {"README.md", "tunerun.json", *files} <= set(exported.files)
    assert tuned_model.read(tmp_path / "out").key == lab.trial.key
    assert state_of(lab.base.parent) == before
    texts = [file.read_text() for file in (tmp_path / "out").iterdir() if file.suffix in (".json", ".md", ".jinja")]
    assert not any(str(lab.base.parent) in text for text in texts)
    assert exported.check.sentence in (tmp_path / "out" / "README.md").read_text()
    assert answers_by_the_card(tmp_path / "out", lab, monkeypatch) == list(lab.answers)
    assert len(set(lab.answers)) > 2, "the comparison has content"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["export", *arguments])


def test_a_quantised_file_says_how_many_answers_are_equal(lab: Lab, tmp_path: Path) -> None:
    """The command writes the file and its card, and counts equal answers."""
    file = tmp_path / "new" / "numbers.gguf"
    runs = str(lab.ledger.path.parent)
    done = run("tunedModels/tiny-a", str(file), "--to", "gguf", "--quantization", "q8_0", "--runs", runs, "--json")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["answers"]["rows"], document["answers"]["not_asked"]) == (6, None)
    assert document["answers"]["equal"] == 6 - len(document["answers"]["different"])
    assert sorted(path.name for path in file.parent.iterdir()) == ["numbers.gguf", "numbers.md"]
    assert "gguf_file=file" in (file.parent / "numbers.md").read_text()
    assert "'numbers.gguf'" in (file.parent / "numbers.md").read_text()


def test_an_existing_target_is_not_overwritten(lab: Lab, tmp_path: Path) -> None:
    """A folder that is not empty and an existing file are refused before any work."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="out: exists already; give a new name, or an empty folder"):
        export(lab.record, lab.trial, "merged", tmp_path / "out")
    (tmp_path / "model.gguf").write_text("mine")
    with pytest.raises(InputError, match=r"model\.gguf: exists already"):
        export(lab.record, lab.trial, "gguf", tmp_path / "model.gguf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.gguf", "out"]
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("form", ["merged", "gguf"])
def test_a_full_disk_leaves_nothing(lab: Lab, tmp_path: Path, form: str) -> None:
    """The message has the system's reason, and no partial target is left."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(InputError, match=r"out: cannot be written \(.*\), and nothing was; a whole model needs"):
            export(lab.record, lab.trial, form, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (_soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_that_was_changed_is_refused(lab: Lab, tmp_path: Path) -> None:
    """The message names the command that trains the adapter again."""
    folder = Path(lab.tuned.location)
    weights = (folder / "adapter_model.safetensors").read_bytes()
    try:
        (folder / "adapter_model.safetensors").write_bytes(weights[:-1] + b"\x01")
        with pytest.raises(NotFoundError, match="has changed since it was made; to make it again: tunerun run --fresh"):
            export(lab.record, lab.trial, "merged", tmp_path / "out")
    finally:
        (folder / "adapter_model.safetensors").write_bytes(weights)


def test_an_adapter_of_another_form_is_refused(lab: Lab, tmp_path: Path) -> None:
    """PEFT would merge an adapter with another scaling differently than it was measured."""
    config = Path(lab.tuned.location) / "adapter_config.json"
    text = config.read_text()
    try:
        config.write_text(json.dumps(json.loads(text) | {"use_rslora": True}))
        with pytest.raises(NotFoundError, match=r"adapter_config\.json sets use_rslora"):
            export(lab.record, lab.trial, "merged", tmp_path / "out")
    finally:
        config.write_text(text)
    assert not (tmp_path / "out").exists()


def test_another_base_model_is_refused(lab: Lab, tmp_path: Path) -> None:
    """If the base model's files were replaced, nothing is written."""
    kept = tmp_path / "kept"
    shutil.copytree(lab.base, kept)
    try:
        config = json.loads((lab.base / "config.json").read_text())
        (lab.base / "config.json").write_text(json.dumps(config | {"rope_theta": 5.0}))
        with pytest.raises(InputError, match=r"was tuned from folder:sha256:.* they have to be the same"):
            export(lab.record, lab.trial, "adapter", tmp_path / "out")
    finally:
        shutil.copyfile(kept / "config.json", lab.base / "config.json")
    assert not (tmp_path / "out").exists()


def test_the_advised_point_is_exported_or_the_verdict_says_why_not(tmp_path: Path) -> None:
    """--best takes the first trial of the advised point; without one the error has the verdict's sentence."""
    good, poor = "1" * 22 + "0" * 2, "0" * 24
    lab = frozen(tmp_path / "good", [Trained(poor), Trained(good)], {"base": poor})
    record = OpenRecord(lab.ledger, lab.sweep, None, "a test")
    assert best_trial(record).number == 1
    with pytest.raises(InputError, match="support-1a2b3c4d has 2 trials; give one tuned model, or --best"):
        named_trial(record)
    none = frozen(tmp_path / "none", [Trained(poor)], {"base": poor})
    with pytest.raises(LimitError, match="--best support-1a2b3c4d: no point is advised, so nothing was exported: "):
        best_trial(OpenRecord(none.ledger, none.sweep, None, "a test"))


def test_rows_that_differ_are_named() -> None:
    """Rows with other answers are named by their numbers from 1."""
    check = AnswerCheck(24, (3, 17), "all 24 held-out rows, as the ledger has them")
    assert check.sentence.startswith("22 of 24 answers equal to the tuned model's (all 24 held-out rows")
    assert check.sentence.endswith("; different: row 3, 17.")


def test_a_trial_without_a_tuned_model_here_is_refused(tmp_path: Path) -> None:
    """A failed trial and one whose weights are at a service are refused."""
    lab = frozen(tmp_path, [Trained(state=JobState.FAILED), Trained("1")], {"base": "0"})
    record = OpenRecord(lab.ledger, lab.sweep, None, "a test")
    with pytest.raises(NotFoundError, match="support-1a2b3c4d-0: it has no tuned model; `tunerun status` shows why"):
        export(record, lab.trials[0], "merged", tmp_path / "out")
    request = request_of(BaseModelRef("gpt-4.1-nano", "gpt-4.1-nano"), key="c")
    job = lab.ledger.intend(request, "openai", 100, sweep=lab.sweep.id)
    lab.ledger.submitted(job.id, JobRef("openai", "job"))
    tuned = TunedModel("tunedModels/hosted", request.model, "ft:gpt-4.1-nano::x")
    lab.ledger.record(job.id, JobStatus(JobState.SUCCEEDED, tuned_model=tuned))
    hosted = replace(lab.trials[1], key=request.key)
    with pytest.raises(
        NotFoundError, match=r"tunedModels/hosted: its weights are at the service .*ft:gpt-4\.1-nano::x"
    ):
        export(record, hosted, "merged", tmp_path / "out")


def test_a_missing_or_wrong_argument_is_named(lab: Lab, tmp_path: Path) -> None:
    """A missing name or folder, an unknown format and an unsupported quantisation are refused."""
    runs = ("--runs", str(lab.ledger.path.parent))
    for arguments, message in [
        ((), "give either a tuned model's name or --best SWEEP"),
        (("tunedModels/tiny-a", "out"), "--to is missing; give merged (transformers), adapter (PEFT) or gguf"),
        (("tunedModels/tiny-a", "--to", "merged"), "the folder to write is missing"),
        (("tunedModels/tiny-a", "out", "--to", "onnx"), "--to onnx: choose one of merged, adapter, gguf"),
        (
            ("tunedModels/tiny-a", "out", "--to", "merged", "--quantization", "q8_0"),
            "--quantization q8_0: not for --to merged",
        ),
        (("tunedModels/tiny-a", "out", "--to", "gguf", "--quantization", "q4"), "choose one of f16, q8_0"),
    ]:
        done = run(*arguments, *runs)
        assert isinstance(done.exception, InputError)
        assert message in str(done.exception)


def test_a_model_that_chose_answers_is_asked_again(lab: Lab, tmp_path: Path) -> None:
    """If the ledger has no generated answers, the tuned model answers again for the comparison."""
    exported = export(lab.record, replace(lab.trial, asked="choices"), "merged", tmp_path / "out")
    assert (
        exported.check.sentence
        == "6 of 6 answers equal to the tuned model's (all 6 held-out rows, as it gives them now)."
    )
