"""The proof: a sweep is run again from an MLflow server alone, in another folder, under another home and cache."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner, Result

from tests.engine import tiny_model
from tests.experiments import overrides
from tests.ledger import old_projects
from tests.tracking.served import free_port, server
from tunerun.cli import app
from tunerun.errors import MismatchError
from tunerun.ledger import FILE_NAME, Ledger
from tunerun.ledger.portable import RECORD, RESULTS
from tunerun.provenance import Facts
from tunerun.record import open_record
from tunerun.record.rerun import RerunRequest, prepare
from tunerun.schema import Paths, Tracking

pytestmark = pytest.mark.process


@dataclass(frozen=True)
class Elsewhere:
    """Another machine, imitated by another folder, home and cache.

    Attributes:
        run_id: of the sweep's trial on the tracking server.
        key: of that trial.
        folder: where it was run again.
        document: what `rerun --json` printed.
        store: the folder of the tracking server.
        base_model: the folder of the base model.
    """

    uri: str
    run_id: str
    key: str
    folder: Path
    document: dict[str, Any]
    store: Path
    base_model: Path

    def rerun(self, *more: str, run: str = "", base_model: Path | None = None) -> Result:
        """`tunerun rerun --verify`, in this process."""
        arguments = ["--run", run or self.run_id, "--verify", f"tracking.uri={self.uri}"]
        places = [f"paths.runs={self.folder / 'runs'}", f"model.source={base_model or self.base_model}"]
        return CliRunner().invoke(app, ["rerun", *arguments, *places, *more])


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    """A sweep of one trial is run, everything of it but the server's store is deleted, and it is run again."""
    folder = tmp_path_factory.mktemp("proof")
    base_model = tiny_model.build(folder / "tiny")
    store, first, second = folder / "store", folder / "first", folder / "second"
    for each in (store, first, second):
        each.mkdir()
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.chdir(store)
        with server(f"sqlite:///{store / 'mlflow.db'}", port):
            options = [
                "model=huggingface", f"model.name={base_model}", "backend.threads=1", "backend.device=cpu",
                "hyperparameters.epoch_count=1", "evaluation.generation.max_output_tokens=4",
                "evaluation.baselines.examples=[0]",
            ]  # fmt: skip
            settings = [each for each in overrides(first, *options) if each != "tracking=none"]
            patch.chdir(first)
            run = CliRunner().invoke(app, ["run", "--json", *settings, f"tracking.uri={uri}"])
            assert run.exit_code == 0, run.output
            (trial,) = json.loads(run.stdout)["trials"]
            patch.chdir(second)
            shutil.rmtree(first)
            document = _again(
                second, "--run", trial["mlflow_run_id"], f"tracking.uri={uri}", f"model.source={base_model}"
            )
            patch.setenv("XDG_CACHE_HOME", str(second / "user cache"))
            yield Elsewhere(uri, trial["mlflow_run_id"], trial["key"], second, document, store, base_model)


def _again(folder: Path, *arguments: str) -> dict[str, Any]:
    """`tunerun rerun --verify` in a process of its own, with a home and a cache of its own."""
    environment = {**os.environ, "HOME": str(folder / "home"), "XDG_CACHE_HOME": str(folder / "user cache")}
    command = [sys.executable, "-m", "tunerun", "rerun", "--verify", "--json", *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=280
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert isinstance(document, dict)
    return document


@pytest.fixture(autouse=True)
def same_cache(elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache of the machine that ran it again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(elsewhere.folder / "user cache"))


def test_a_run_is_repeated_from_the_tracking_server_alone(elsewhere: Elsewhere) -> None:
    """A run id is enough for the same key and bits, and the new run is linked to the old one."""
    document = elsewhere.document
    assert document["trials"][0]["key"] == elsewhere.key
    assert document["verification"]["equal"]
    assert document["verification"]["checks"][0]["text"] == "adapter: same bits; 10 of 10 answers equal"
    assert document["rerun_of"]["run_id"] == elsewhere.run_id
    assert document["trials"][0]["mlflow_run_id"] not in (None, elsewhere.run_id)
    with Ledger.open_read_only(Path(document["runs"]) / FILE_NAME) as ledger:
        (sweep,) = ledger.sweeps()
        assert [trial.key for trial in ledger.trials(sweep.id)] == [elsewhere.key]
        facts = Facts.of(sweep.document)
    assert "config.yaml" in [file.path for file in facts.config_files], "of the record, for nothing was composed"
    assert [file.name for file in facts.data_files] == ["rows.jsonl", "held_out.jsonl"]


def test_the_same_command_trains_nothing_again(elsewhere: Elsewhere) -> None:
    """A second rerun only compares the results of the first."""
    again = elsewhere.rerun()
    assert again.exit_code == 0, again.output
    assert "same  trial 0: adapter: same bits; 10 of 10 answers equal" in again.stdout
    assert "started" not in again.stderr


def test_another_weight_of_the_base_model_is_named(elsewhere: Elsewhere, tmp_path: Path) -> None:
    """The message names the file that differs, and nothing is started."""
    changed = shutil.copytree(elsewhere.base_model, tmp_path / "tiny")
    weights = load_file(changed / "model.safetensors")
    name = min(weights)
    weights[name] = weights[name].copy()
    weights[name].flat[0] += 1
    save_file(weights, changed / "model.safetensors", metadata={"format": "pt"})
    refused = elsewhere.rerun(base_model=changed)
    assert refused.exit_code == 1, refused.output
    assert "the content of the base model" in refused.stderr
    assert "differs in model.safetensors: folder:sha256:" in refused.stderr


@pytest.fixture
def record_files(elsewhere: Elsewhere) -> Iterator[Path]:
    """The record's folder in the server's store, to be changed; put back afterwards."""
    (record,) = (file for file in elsewhere.store.rglob(RECORD) if "rerun_of" not in file.read_text())
    before = {file: file.read_bytes() for file in record.parent.rglob("*") if file.is_file()}
    yield record.parent
    for file, content in before.items():
        file.write_bytes(content)


def test_another_row_is_found(elsewhere: Elsewhere, record_files: Path) -> None:
    """The digest of the set reveals it, even if the record's index was changed accordingly."""
    (file,) = (f for f in record_files.glob("examples/*") if b'"103"' in gzip.decompress(f.read_bytes()))
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes()).replace(b'"103"', b'"301"')))
    refused = elsewhere.rerun()
    assert refused.exit_code == 1, refused.output
    assert file.name in refused.stderr

    record = json.loads((record_files / RECORD).read_bytes())
    record["examples"][file.name.partition(".")[0]]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (record_files / RECORD).write_text(json.dumps(record))
    refused = elsewhere.rerun()
    assert refused.exit_code == 1, refused.output
    assert "differs: examples of held_out.jsonl: changed since they were recorded" in refused.stderr


def test_another_version_of_a_package_is_named(elsewhere: Elsewhere, record_files: Path) -> None:
    """The message has both versions."""
    results = json.loads(gzip.decompress((record_files / RESULTS).read_bytes()))
    results["jobs"][0]["trained_on"]["packages"]["torch"] = "2.0.1"
    (record_files / RESULTS).write_bytes(gzip.compress(json.dumps(results).encode()))
    differing = elsewhere.rerun()
    assert differing.exit_code == 1, differing.output
    assert "differs  trial 0: torch 2.0.1 -> " in differing.stdout


@pytest.mark.parametrize("format_", old_projects.WRITTEN)
def test_sweeps_of_earlier_versions_are_run_again_where_their_keys_mean_the_same(
    elsewhere: Elsewhere, tmp_path: Path, format_: int
) -> None:
    """Records before format 5 lack facts, which a note says; keys of another format are refused."""
    old_projects.write_ledger(tmp_path / FILE_NAME, format_)
    sweep = old_projects.SWEEPS[old_projects.kept(format_)][0]
    here = RerunRequest(
        Paths(runs=str(tmp_path), cache=str(tmp_path / "cache")),
        Tracking(kind="none"),
        places={"model.source": str(elsewhere.base_model)},
    )
    with open_record(sweep, runs=tmp_path) as record:
        if format_ < 3:
            with pytest.raises(MismatchError, match="--set name=ANOTHER_NAME"):
                prepare(record, here)
            assert prepare(record, replace(here, edits={"name": "another"})).is_new
        else:
            made = prepare(record, here)
            assert [trial.key for trial in made.plan.trials] == [trial.key for trial in record.trials]
            says_so = any("an earlier tunerun wrote the record" in note for note in made.notes)
            assert says_so == (format_ < 5)
