"""Values of environment variables are used and never stored: a test searches a runs folder for a planted one."""

from __future__ import annotations

import gzip
import json
import stat
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine import tiny_model
from tests.experiments import HELD_OUT, ROWS, write_rows
from tests.rigs.gemini_service import GeminiService
from tunerun.cli import main

pytestmark = pytest.mark.process

PLANTED = "planted-7f3a9"
EXPERIMENT = """\
# @package _global_
defaults:
  - override /model: huggingface
name: secrets
dataset:
  path: ${oc.env:TRAINING_ROWS}
  validation: {path: "${oc.env:HELD_OUT_FOLDER}/held_out.jsonl"}
model:
  name: tiny
  source: ${oc.decode:${oc.env:MODEL_FOLDER}}
  revision: ${model.package}
  package: ${oc.env:NO_PACKAGE}
hyperparameters: {epoch_count: 1, learning_rate: "${oc.decode:${oc.env:RATE}}"}
backend: {device: cpu, threads: 1}
evaluation: {generation: {max_output_tokens: 2}}
paths: {cache: "${oc.env:CACHE_FOLDER}"}
"""


Called = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tunerun(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Called:
    """The console script in this process: its exit code, and what it printed on stdout and stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tunerun", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return call


def files_with(folder: Path, text: str) -> list[str]:
    return [str(file) for file in folder.rglob("*") if file.is_file() and text.encode() in file.read_bytes()]


def test_no_file_of_a_run_contains_values_of_environment_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tunerun: Called
) -> None:
    """Ledger, tuned model, logs, MLflow and bundle contain only interpolations, with which a rerun works."""
    outside = tmp_path / PLANTED
    outside.mkdir()
    environment = {
        "TRAINING_ROWS": str(write_rows(outside / f"{PLANTED}.jsonl", ROWS)),
        "HELD_OUT_FOLDER": str(write_rows(outside / "held_out.jsonl", HELD_OUT).parent),
        "MODEL_FOLDER": str(tiny_model.build(outside / "model")),
        "NO_PACKAGE": f"{PLANTED}-package",
        "CACHE_FOLDER": str(outside / "cache"),
        "RATE": "0.01",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    project = tmp_path / "project"
    (project / "conf" / "experiment").mkdir(parents=True)
    (project / "conf" / "experiment" / "secrets.yaml").write_text(EXPERIMENT)
    monkeypatch.chdir(project)

    code, out, err = tunerun("run", "--json", "experiment=secrets", "seed=1,2")
    assert code == 0, err
    tuned = json.loads(out)["trials"][0]["tuned_model"]
    assert (project / "runs" / "mlflow.db").exists()
    assert files_with(project / "runs", PLANTED) == []
    assert files_with(project / "runs", "${oc.env:MODEL_FOLDER}")
    assert stat.S_IMODE((project / "runs").stat().st_mode) == 0o700
    assert tunerun("bundle", "secrets", "-o", "study.zip")[0] == 0
    with zipfile.ZipFile("study.zip") as bundle:
        for name in bundle.namelist():
            content = bundle.read(name)
            content = gzip.decompress(content) if name.endswith(".gz") else content
            assert PLANTED.encode() not in content, name
            assert str(tmp_path).encode() not in content, name
    assert tunerun("predict", "--run", tuned, "text_input=1")[0] == 0
    code, _, err = tunerun("run", "experiment=secrets", "seed=1,2")
    assert (code, "all 2 trials are done" in err) == (0, True), err
    monkeypatch.delenv("MODEL_FOLDER")
    code, _, err = tunerun("predict", "--run", tuned, "text_input=1")
    assert code == 2
    assert "the environment variable MODEL_FOLDER is not set; set it as it was for the run" in err


def test_a_service_whose_address_came_from_the_environment_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tunerun: Called
) -> None:
    """The ledger stores the interpolation of an address, and `cancel` and `predict` resolve it."""
    monkeypatch.setenv("GEMINI_API_KEY", "planted-key")
    rows = write_rows(tmp_path / "rows.jsonl", ROWS)
    options = ["name=hosted", f"dataset.path={rows}", "tracking=none", "hyperparameters.epoch_count=1"]
    place = ["backend=gemini", "backend.base_url=${oc.env:TUNING_SERVICE}", "backend.poll_interval_s=0"]
    with GeminiService() as service:
        monkeypatch.setenv("TUNING_SERVICE", service.address)
        code, out, err = tunerun("run", "--json", *options, *place)
        assert code == 0, err
        tuned = json.loads(out)["trials"][0]["tuned_model"]
        assert files_with(tmp_path / "runs", service.address) == []
        assert stat.S_IMODE((tmp_path / "runs").stat().st_mode) == 0o700
        code, out, err = tunerun("predict", "--run", tuned, "text_input=1")
        assert (code, len(out.splitlines())) == (0, 1), err
        assert tunerun("cancel", *options, *place)[0] == 0
    monkeypatch.delenv("TUNING_SERVICE")
    code, _, err = tunerun("predict", "--run", tuned, "text_input=1")
    assert code == 2
    assert "backend.base_url: the environment variable TUNING_SERVICE is not set" in err
