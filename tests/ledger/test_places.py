"""A project that was moved or copied uses its own adapters, and what is loaded is what was made."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ledger.old_projects import FORMATS, OVERRIDES, write_project
from tests.ledger.test_formats import MODEL, SWEEP, printed
from tests.ledger.test_ledger import MODEL as BASE
from tests.ledger.test_ledger import SET, request, trial
from tests.ledger.test_ledger import SWEEP as PLAN
from tunerun.cli import app
from tunerun.compose import load
from tunerun.digest import digest_of_file
from tunerun.engine import tuned_model
from tunerun.errors import NotFoundError
from tunerun.job import JobRef, JobState, JobStatus, TunedModel
from tunerun.ledger import SCHEMA_VERSION, Ledger
from tunerun.locks import held, holder_of
from tunerun.planning import plan
from tunerun.prediction import find_model
from tunerun.runner import run

pytestmark = pytest.mark.process


def adapter(runs: Path) -> Path:
    return runs / "tuned_models" / MODEL.rpartition("/")[2]


def weights(runs: Path) -> Path:
    return adapter(runs) / "adapter_model.safetensors"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of today with one trial that was trained here."""
    project = tmp_path_factory.mktemp("trained")
    write_project(project, SCHEMA_VERSION)
    shutil.rmtree(project / "runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        assert run(plan(load([*OVERRIDES, "seed=0"])), command="tunerun run name=old seed=0").exit_code == 0
    return project


@pytest.fixture
def project(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, moved to another folder."""
    place = Path(shutil.copytree(trained, tmp_path / "elsewhere"))
    monkeypatch.chdir(place)
    return place


def name_in(runs: Path) -> str:
    (folder,) = (runs / "tuned_models").iterdir()
    return f"tunedModels/{folder.name}"


def test_a_location_is_stored_relative_to_the_runs_folder(tmp_path: Path) -> None:
    """It follows the folder; a location elsewhere, and a service's name, stay as they are."""
    places = {
        "a": str(tmp_path / "old" / "tuned_models" / "a"),
        "b": "/somewhere/else/b",
        "c": "tunedModels/c",
    }
    with Ledger(tmp_path / "old" / "ledger.db") as ledger:
        for key, place in places.items():
            job = ledger.intend(request(key), "local", 1)
            ledger.record(job.id, JobStatus(JobState.SUCCEEDED, tuned_model=TunedModel(f"x-{key}", BASE, place, "00")))
    (tmp_path / "old").rename(tmp_path / "new")
    with Ledger.open_read_only(tmp_path / "new" / "ledger.db") as ledger:
        models = [recorded.tuned_model for key in places if (recorded := ledger.job(key)) is not None]
    moved = str(tmp_path / "new" / "tuned_models" / "a")
    assert [tuned and (tuned.location, tuned.weights) for tuned in models] == [
        (place, "00") for place in (moved, places["b"], places["c"])
    ]


def test_a_copy_uses_its_own_adapters(project: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also while the original is there; a run in the moved folder has nothing to do."""
    own, originals = adapter_of(project), adapter_of(trained)
    assert find_model(f"tunedModels/{own.name}", project / "runs").tuned_model.folder == own
    shutil.rmtree(own)
    with pytest.raises(NotFoundError, match=r"is missing; to make it again: tunerun run name=old seed=0 --fresh"):
        find_model(f"tunedModels/{own.name}", project / "runs")
    shutil.copytree(originals, own)
    assert printed(capsys, "run", *OVERRIDES, "seed=0")["faults"] == []


def adapter_of(project: Path) -> Path:
    return project / "runs" / "tuned_models" / name_in(project / "runs").rpartition("/")[2]


def cut(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])


def flip(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def swap(folder: Path) -> None:
    """Another tuned model's whole folder, which is whole in itself."""
    flip(folder)
    record = json.loads((folder / "tunerun.json").read_text())
    record["weights"] = digest_of_file(folder / "adapter_model.safetensors")
    (folder / "tunerun.json").write_text(json.dumps(record))


def delete_weights(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()


def empty_record(folder: Path) -> None:
    (folder / "tunerun.json").write_bytes(b"")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (shutil.rmtree, r"tuned_models/old-\w+ is missing"),
        (delete_weights, r"adapter_model.safetensors is missing"),
        (cut, r"adapter_model.safetensors has changed since it was made"),
        (flip, r"adapter_model.safetensors has changed since it was made"),
        (swap, r"holds another tuned model than the one that was made"),
        (empty_record, r"does not hold a tuned model: its tunerun.json is damaged"),
    ],
)
def test_an_adapter_that_is_missing_or_changed_is_named(
    project: Path, capsys: pytest.CaptureFixture[str], harm: Callable[[Path], None], message: str
) -> None:
    """`status`, `compare`, `run` and `predict` say which and how to make it again, each in one line."""
    name = name_in(project / "runs")
    harm(adapter_of(project))
    for command in (["status", "name=old"], ["compare", "name=old"], ["run", *OVERRIDES, "seed=0"]):
        (line,) = printed(capsys, *command)["faults"]
        assert line.startswith("trial 0: ")
        with pytest.raises(NotFoundError, match=message):
            raise NotFoundError(line)
        assert line.endswith("--fresh")
    with pytest.raises(NotFoundError, match=f"--run {name}: .*{message}.*to make it again: .*--fresh"):
        app(["predict", "--run", name, "text_input=3"], standalone_mode=False)


def test_a_format_without_digests_is_checked_as_far_as_it_can_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An old project's tuned models are what they are; one that is missing is named."""
    runs = write_project(tmp_path, 2)
    (line,) = printed(capsys, "status", "--sweep", SWEEP)["faults"]
    assert line.startswith("trial 2: ")
    flip(adapter(runs))
    assert len(printed(capsys, "status", "--sweep", SWEEP)["faults"]) == 1
    cut(adapter(runs))
    with pytest.raises(NotFoundError, match=r"the tuned model in .* cannot be read"):
        app(["predict", "--run", MODEL, "text_input=3"], standalone_mode=False)


def test_links_in_a_runs_folder_are_followed_for_reading_and_never_written_through(tmp_path: Path) -> None:
    """A ledger behind a link is read with its log; a link in the way of a tuned model is replaced, its target kept."""
    with Ledger(tmp_path / "disk" / "ledger.db") as writer:
        writer.intend(request("k"), "local", 1)
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs" / "ledger.db").symlink_to(tmp_path / "disk" / "ledger.db")
        context = multiprocessing.get_context("forkserver")
        reader = context.Process(target=_read_job, args=[str(tmp_path / "runs" / "ledger.db")])
        reader.start()
        reader.join()
        assert reader.exitcode == 0
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "kept").write_text("kept")
    for name in ("a", ".a.partial"):
        (tmp_path / "runs" / name).symlink_to(foreign)
    record = tuned_model.read(FORMATS / "tuned_models-1" / MODEL.rpartition("/")[2])
    finished = tuned_model.FinishedJob("a.1")
    tuned_model.write(
        tmp_path / "runs" / "a", record, finished, lambda folder: write_bytes(folder / tuned_model.WEIGHTS_FILE)
    )
    assert tuned_model.fault(tmp_path / "runs" / "a") is None
    assert not (tmp_path / "runs" / "a").is_symlink()
    assert [file.name for file in foreign.iterdir()] == ["kept"]


def write_bytes(file: Path) -> None:
    file.write_bytes(b"weights")


def _read_job(path: str) -> None:
    with Ledger.open_read_only(Path(path)) as ledger:
        assert ledger.job("k") is not None


def test_a_live_runs_folder_is_copied(tmp_path: Path) -> None:
    """A copy made while a process writes is whole, holds what was committed, and no process runs its sweeps."""
    runs = tmp_path / "runs"
    with held(runs, "x-1"), Ledger(runs / "ledger.db") as writer:
        writer.freeze(PLAN, [trial(0)], [SET])
        job = writer.intend(request("k"), "local", 1, sweep="x-1")
        copy = Path(shutil.copytree(runs, tmp_path / "copy"))
        writer.record(job.id, JobStatus(JobState.FAILED))
    assert holder_of(copy, "x-1") is None
    with held(copy, "x-1"), Ledger(copy / "ledger.db") as copied:
        recorded = copied.job("k")
        assert recorded is not None
        assert recorded.state is JobState.SUBMITTING
        copied.submitted(recorded.id, JobRef("local", "1"))
    with Ledger.open_read_only(runs / "ledger.db") as original:
        assert [each.state for each in original.jobs("k")] == [JobState.FAILED]
