"""A sweep as one file: what is in it, that it is the same every time, and that it can be read anywhere."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from typer.testing import CliRunner, Result

import tunerun
from tests.comparison.sweeps import Trained, frozen
from tests.engine import tiny_model
from tests.experiments import planned
from tunerun.cli import app
from tunerun.errors import InputError, NotFoundError
from tunerun.record import open_record
from tunerun.record.bundle.archive import MANIFEST, write_archive

pytestmark = pytest.mark.process

CONTEXT = Path(__file__).with_name("ro-crate-1.1-context.json")
"""What https://w3id.org/ro/crate/1.1/context serves (CC0), as the package rocrate 0.13 carries it."""
PEOPLE = ("--author", "Ada Example", "--author", "Bo Example", "--affiliation", "Institute of Numbers")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which two trials of a tiny model were trained; no test writes into its runs."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("HF_HUB_OFFLINE", "1")
        model = tiny_model.build(folder / "models" / "tiny")
        options = ["model=huggingface", "model.name=tiny", f"model.source={model}", "backend.threads=1"]
        options += ["backend.device=cpu", "evaluation.generation.max_output_tokens=4", "seed=0,1"]
        options += ["hyperparameters.epoch_count=1", "evaluation.baselines.examples=[0]"]
        options += ["dataset.license=CC0-1.0"]
        command = f"{folder}/bin/tunerun run dataset.path={folder}/rows.jsonl"
        result = tunerun.run(planned(folder, *options), progress=None, command=command)
    assert result.exit_code == 0
    return folder


@pytest.fixture(scope="module")
def bundle(project: Path) -> Path:
    """Its bundle; no test writes to it."""
    made = bundled(project, "-o", str(project / "study.zip"), *PEOPLE)
    assert made.exit_code == 0, made.output
    return project / "study.zip"


def bundled(project: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["bundle", "numbers", "--runs", str(project / "runs"), *arguments])


def stored(path: Path) -> dict[str, bytes]:
    """Every file but the manifest by its name, as it is stored: what `write_archive` takes."""
    with zipfile.ZipFile(path) as opened:
        return {name: opened.read(name) for name in opened.namelist() if not name.endswith("/") and name != MANIFEST}


def contents(path: Path) -> dict[str, bytes]:
    """Every file by its name, compressed parts of the record as they are read."""
    with zipfile.ZipFile(path) as opened:
        files = {name: opened.read(name) for name in opened.namelist() if not name.endswith("/")}
    return {name: gzip.decompress(data) if name.endswith(".gz") else data for name, data in files.items()}


def test_it_holds_the_record_the_results_and_the_adapters(bundle: Path) -> None:
    """It also describes itself, for people and for programs."""
    names = set(contents(bundle))
    folders = {name.split("/")[0] for name in names}
    assert folders == {"README.md", "ro-crate-metadata.json", MANIFEST, "record", "results", "tuned_models"}
    assert {"record/record.json", "record/results.json.gz", "results/report.html", "results/results.json"} <= names
    assert len([name for name in names if name.endswith("adapter_model.safetensors")]) == 2
    assert len([name for name in names if name.startswith("record/examples/")]) == 2
    text = contents(bundle)["README.md"].decode()
    assert "by Ada Example (Institute of Numbers), Bo Example (Institute of Numbers)." in text
    assert json.loads(contents(bundle)["results/results.json"])["verdict"] in text.replace("\\", "")
    assert "tunerun verify study.zip" in text
    assert "- rows of rows.jsonl: CC0-1.0" in text


def test_no_path_of_the_machine_is_in_it(bundle: Path, project: Path) -> None:
    """No file contains the path of the project, the base model or the rows."""
    for name, data in contents(bundle).items():
        assert str(project).encode() not in data, name
        assert os.fsencode(Path.home()) + b"/" not in data, name
        assert b"tunerun-bundle-" not in data, name


def test_the_same_sweep_gives_the_same_bytes(bundle: Path, project: Path, tmp_path: Path) -> None:
    """A copy of the runs in another folder and the bundle itself give the same bundle."""
    shutil.copytree(project / "runs", tmp_path / "moved" / "runs")
    again = bundled(tmp_path / "moved", "-o", str(tmp_path / "again.zip"), *PEOPLE)
    assert again.exit_code == 0, again.output
    assert (tmp_path / "again.zip").read_bytes() == bundle.read_bytes()
    CliRunner().invoke(app, ["bundle", str(bundle), "-o", str(tmp_path / "copy.zip"), *PEOPLE], catch_exceptions=False)
    assert (tmp_path / "copy.zip").read_bytes() == bundle.read_bytes()


def test_adapters_can_be_left_out(project: Path, tmp_path: Path) -> None:
    """Without adapters the README says how to train them, and `--json` prints one document."""
    made = bundled(project, "--no-models", "--json", "-o", str(tmp_path / "small.zip"))
    printed = json.loads(made.stdout)
    assert (printed["tuned_models"], printed["bytes"]) == (0, (tmp_path / "small.zip").stat().st_size)
    files = contents(tmp_path / "small.zip")
    assert not [name for name in files if name.startswith("tuned_models")]
    assert len(files) == printed["files"]
    assert "- The adapters: `tunerun rerun --run study.zip` trains them again." in files["README.md"].decode()


def test_an_adapter_that_is_gone_or_changed_is_not_bundled(project: Path, tmp_path: Path) -> None:
    """Each problem is one line, and no bundle is written."""
    shutil.copytree(project / "runs", tmp_path / "runs")
    first, second = sorted((tmp_path / "runs" / "tuned_models").iterdir())
    (first / "adapter_model.safetensors").write_bytes(b"changed")
    with pytest.raises(InputError, match=r"adapter_model\.safetensors: has changed since it was made"):
        CliRunner().invoke(app, ["bundle", "numbers", "-o", "x.zip"], catch_exceptions=False)
    shutil.rmtree(second)
    with pytest.raises(InputError, match=r"trial \d: its adapter is not in .*; --no-models leaves all adapters out"):
        CliRunner().invoke(app, ["bundle", "numbers", "-o", "x.zip"], catch_exceptions=False)
    assert not Path("x.zip").exists()


def test_a_metric_of_the_users_own_scores_as_it_does_here(tmp_path: Path) -> None:
    """The project's file scores the answers, and the bundle contains only the name of the file."""
    (tmp_path / "metrics.py").write_text("def score(expected, answer):\n    return float(answer == expected)\n")
    own = {"name": "same", "python": f"{tmp_path / 'metrics.py'}:score"}
    frozen(tmp_path / "runs", [Trained("1" * 24)], evaluation={"metrics": [own]}).ledger.close()
    made = CliRunner().invoke(app, ["bundle", "support", "--no-models", "-o", "study.zip"], catch_exceptions=False)
    assert made.exit_code == 0, made.output
    files = contents(tmp_path / "study.zip")
    assert json.loads(files["results/results.json"])["trials"][0]["metrics"]["eval/same"] == 1
    assert json.loads(files["record/record.json"])["trials"][0]["config"]["evaluation"]["metrics"] == [
        {"name": "same", "python": "metrics.py:score"}
    ]
    assert not [name for name, data in files.items() if str(tmp_path).encode() in data]


def test_an_affiliation_needs_its_author(project: Path) -> None:
    """One affiliation for all authors or one for each is accepted."""
    refused = bundled(project, "--author", "a", "--affiliation", "b", "--affiliation", "c")
    assert str(refused.exception) == ("--affiliation: given 2 times for 1 --author; give one for all, or one for each")


def test_it_is_opened_as_a_record(bundle: Path, project: Path) -> None:
    """The record has the same trials, answers and adapters, and its folder is removed when it is closed."""
    with (
        open_record(str(bundle), runs=Path("nothing")) as record,
        open_record("numbers", runs=project / "runs") as first,
    ):
        folder = record.runs
        assert [trial.key for trial in record.trials] == [trial.key for trial in first.trials]
        assert record.ledger.answers_of_sweep(record.sweep.id) == first.ledger.answers_of_sweep(first.sweep.id)
        job = record.ledger.job(record.trials[0].key)
        assert job is not None
        assert job.tuned_model is not None
        assert job.tuned_model.folder is not None
        assert (job.tuned_model.folder / "adapter_model.safetensors").is_file()
        assert job.tuned_model.folder.is_relative_to(folder)
    assert not folder.exists()
    with pytest.raises(InputError, match=r"none\.zip: No such file or directory"), open_record("none.zip", runs=folder):
        pass
    with pytest.raises(NotFoundError, match="none: no sweep"), open_record("none", runs=folder):
        pass


def test_a_record_that_is_hostile_is_refused_by_the_bundles_name(bundle: Path, tmp_path: Path) -> None:
    """An adapter outside the bundle is refused even if the manifest is right."""
    files = stored(bundle)
    results = json.loads(gzip.decompress(files["record/results.json.gz"]))
    results["jobs"][0]["tuned_model"]["folder"] = "../../etc"
    files["record/results.json.gz"] = gzip.compress(json.dumps(results).encode())
    write_archive(tmp_path / "h.zip", files)
    with (
        pytest.raises(InputError, match=r"h\.zip: record/results\.json\.gz: .*is not in tuned_models/"),
        open_record(str(tmp_path / "h.zip"), runs=tmp_path),
    ):
        pass


def test_no_code_runs_that_a_bundle_names(bundle: Path, project: Path, tmp_path: Path) -> None:
    """No command runs a metric's file that a bundle names, even if its digest is the recorded one."""
    source = b"open('ran', 'w')\n\ndef score(expected, answer):\n    return 1.0\n"
    Path("evil.py").write_bytes(source)
    files = stored(bundle)
    record = json.loads(files["record/record.json"])
    for trial in record["trials"]:
        trial["config"]["evaluation"]["metrics"] = [{"name": "evil", "python": "evil.py:score"}]
    record["sweep"]["document"]["metrics"] = {"evil": {"sha256": hashlib.sha256(source).hexdigest()}}
    write_archive(tmp_path / "h.zip", files | {"record/record.json": json.dumps(record).encode()})
    hostile = str(tmp_path / "h.zip")
    here = [f"model.source={project / 'models' / 'tiny'}", f"paths.cache={tmp_path / 'cache'}"]
    words = "the record names evil, which runs the code of evil.py:score; to run it, read it and name it yourself"
    assert words in str(verify(tmp_path / "h.zip", *here).exception)
    assert words in str(CliRunner().invoke(app, ["rerun", "--run", hostile, "tracking=none", *here]).exception)
    differing = CliRunner().invoke(app, ["diff", hostile, str(bundle)])
    assert differing.exit_code == 0
    assert "evil.py:score is code that a record from elsewhere names, which is not run" in differing.output
    for command in (["appendix", hostile], ["bundle", hostile, "-o", "other.zip"]):
        assert "which is not run" in str(CliRunner().invoke(app, command).exception)
    assert not Path("ran").exists()


def verify(path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["verify", str(path), *arguments])


def test_its_files_are_checked_without_running_anything(bundle: Path, tmp_path: Path) -> None:
    """Changed, missing and added files are one line each, and the exit code is 1."""
    whole = verify(bundle, "--files")
    assert (whole.exit_code, whole.stdout.splitlines()[-1]) == (0, "The files are unchanged.")
    with zipfile.ZipFile(bundle) as opened, zipfile.ZipFile(tmp_path / "h.zip", "w") as made:
        for name in opened.namelist():
            data = b"changed" if name == "results/results.md" else opened.read(name)
            if name != "README.md":
                made.writestr(name, data)
        made.writestr("notes.txt", "mine")
    other = verify(tmp_path / "h.zip", "--files", "--json")
    problems = json.loads(other.stdout)["files"]["problems"]
    assert other.exit_code == 1
    assert problems[0] == "README.md: missing"
    assert problems[1].startswith("results/results.md: changed (sha256 ")
    assert problems[2] == f"notes.txt: not in {MANIFEST}"


def test_a_trial_of_a_bundle_is_verified(bundle: Path, project: Path, tmp_path: Path) -> None:
    """A trial of a pack, run again alone, gives the recorded results, and nothing is left behind."""
    here = [f"model.source={project / 'models' / 'tiny'}", f"paths.cache={tmp_path / 'cache'}"]
    again = verify(bundle, *here, "--trial", "1")
    assert again.exit_code == 0, again.output
    lines = again.stdout.splitlines()
    assert lines[1].startswith("same  trial 1: ")
    assert lines[1].endswith("; 10 of 10 answers equal")
    assert not Path("runs").exists()
    none = verify(bundle, *here, "--trial", "7")
    assert str(none.exception).startswith("--trial 7: numbers-")


def test_one_changed_row_is_found_under_a_manifest_that_is_right(bundle: Path, project: Path, tmp_path: Path) -> None:
    """The message names the set, and nothing is trained."""
    files = stored(bundle)
    name = next(name for name in sorted(files) if name.startswith("record/examples/"))
    rows = gzip.decompress(files[name]).replace(b'"output":"2"', b'"output":"3"').replace(b'"102"', b'"103"')
    files[name] = gzip.compress(rows, mtime=0)
    record = json.loads(files["record/record.json"])
    entry = record["examples"][Path(name).name.partition(".")[0]]
    entry |= {"sha256": hashlib.sha256(files[name]).hexdigest(), "bytes": len(rows)}
    files["record/record.json"] = json.dumps(record).encode()
    write_archive(tmp_path / "h.zip", files)
    other = verify(tmp_path / "h.zip", f"model.source={project / 'models' / 'tiny'}")
    assert other.exit_code == 1, other.output
    assert "changed since they were recorded" in other.stderr


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The validator asks this instead of the network; the addresses that it asked for."""
    from rocrate_validator.utils.http import HttpRequester

    addresses: list[str] = []

    class Shipped:
        def get(self, url: str, **_: Any) -> requests.Response:
            addresses.append(url)
            answer = requests.Response()
            answer.status_code, answer._content = 200, CONTEXT.read_bytes()
            answer.headers["Content-Type"] = "application/ld+json"
            return answer

        def close(self) -> None:
            pass

    def shipped(self: Any, *_: Any, **__: Any) -> None:
        self.session = Shipped()

    monkeypatch.setattr(HttpRequester, "__initialize_session__", shipped)
    yield addresses
    HttpRequester.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_is_a_process_run_crate(bundle: Path, offline: list[str], tmp_path: Path) -> None:
    """The profile's validator accepts the bundle, and rejects one whose actions lack their instrument."""
    from rocrate_validator import services
    from rocrate_validator.models import Severity, ValidationSettings

    def faults(path: Path) -> list[str]:
        settings = ValidationSettings(
            rocrate_uri=str(path), profile_identifier="process-run-crate", requirement_severity=Severity.REQUIRED
        )
        return [str(issue.message) for issue in services.validate(settings).get_issues()]

    assert faults(bundle) == []
    assert set(offline) == {"https://w3id.org/ro/crate/1.1/context"}
    files = stored(bundle)
    crate = json.loads(files["ro-crate-metadata.json"])
    for entity in crate["@graph"]:
        entity.pop("instrument", None)
    write_archive(tmp_path / "poor.zip", {**files, "ro-crate-metadata.json": json.dumps(crate).encode()})
    assert faults(tmp_path / "poor.zip")
