"""The record of a sweep in MLflow: sent once, fetched by the id of any of its runs, and a ledger again."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest

from tests.tracking.content import artifacts, client, run_of, runs
from tests.tracking.served import free_port, server
from tests.tracking.sweeps import Lab, SyncedSweep, complete, freeze, grid, synced_sweep
from tunerun.comparison import judge
from tunerun.comparison.table import ComparisonTable
from tunerun.errors import NotFoundError, RecordError, TrackingError
from tunerun.examples import Example
from tunerun.ledger import Ledger
from tunerun.ledger.restoring import restored
from tunerun.locks import held
from tunerun.record import open_record
from tunerun.schema import Tracking
from tunerun.tracking import Tracker
from tunerun.tracking.records import FetchedRecord, fetch

TEST = [Example(str(n), str(n + 1)) for n in range(100, 130)]


@pytest.fixture
def lab(ledger: Ledger) -> Lab:
    """A frozen sweep of three trials with a test set."""
    return freeze(ledger, test=TEST)


@pytest.fixture(scope="module")
def recorded(made_store: Path, tmp_path_factory: pytest.TempPathFactory) -> SyncedSweep:
    """The same, finished and shown in MLflow: shared, so no test may write to the ledger or the store."""

    def fill(ledger: Ledger) -> Lab:
        lab = freeze(ledger, test=TEST)
        complete(lab)
        return lab

    return synced_sweep(tmp_path_factory.mktemp("recorded"), made_store, fill)


def synced(lab: Lab, uri: str) -> None:
    assert Tracker(lab.ledger.path, uri).sync().problem is None


def record_of(uri: str) -> list[str]:
    """The files of the record, with those of every other run that has some."""
    paths = [path.as_posix() for run in runs(uri) for path in artifacts(run)]
    return sorted(path.partition("/artifacts/record/")[2] for path in paths if "/artifacts/record/" in path)


def table(ledger: Ledger) -> str:
    """The comparison table of the only sweep of a ledger, as JSON."""
    [sweep] = ledger.sweeps()
    return ComparisonTable.of(judge(ledger, sweep)).render("json")


def table_of(record: FetchedRecord, folder: Path) -> str:
    restored(record.folder, folder / "ledger.db")
    with Ledger.open_read_only(folder / "ledger.db") as again:
        return table(again)


def test_every_name_of_a_sweep_leads_to_its_record(recorded: SyncedSweep, tmp_path: Path) -> None:
    """From a trial, a baseline, the sweep, its id, its experiment or a tuned model come the same files; of a trial also
    which one it is."""
    uri, sweep = recorded.uri, recorded.lab.sweep
    tuned = run_of(uri, "trial", 1).data.tags["tunerun.tuned_model"]
    named = {
        run_of(uri, "trial", 2).info.run_id: 2,
        run_of(uri, "baseline").info.run_id: None,
        run_of(uri, "sweep").info.run_id: None,
        sweep.id: None,
        "next-number": None,
        tuned: 1,
        tuned.removeprefix("tunedModels/"): 1,
    }
    for position, (reference, number) in enumerate(named.items()):
        record = fetch(uri, reference, tmp_path / str(position))
        assert (record.sweep, record.number) == (sweep.id, number), reference
    with Ledger.open_read_only(recorded.lab.ledger.path) as ledger:
        assert table_of(record, tmp_path / "again") == table(ledger)


def test_a_record_has_each_set_once_and_no_place_of_this_machine(recorded: SyncedSweep) -> None:
    """The rows are not in any trial's run, whose description and tag say where they are; nor is a folder of here."""
    uri, lab, folder = recorded.uri, recorded.lab, str(recorded.lab.ledger.path.parent.parent)
    sets = {digest for trial in lab.trials for digest in (trial.training, *trial.held_out.values())}
    assert record_of(uri) == sorted([*(f"examples/{each}.jsonl.gz" for each in sets), "record.json", "results.json.gz"])
    own = run_of(uri, "sweep").info.run_id
    for trial in lab.trials:
        run = run_of(uri, "trial", trial.number)
        assert run.data.tags["tunerun.record"] == f"runs:/{own}/record"
        note = run.data.tags["mlflow.note.content"]
        assert f"`examples/{trial.training}.jsonl.gz` (training)" in note
        assert f"[record](#/experiments/1/runs/{own}/artifacts/record)" in note
        for file in artifacts(run):
            assert folder.encode() not in file.read_bytes(), file
    for file in artifacts(run_of(uri, "sweep")):
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        assert folder.encode() not in content, file


def test_a_run_that_is_killed_leaves_a_record(lab: Lab, uri: str, tmp_path: Path) -> None:
    """What was planned is there with the first trial's run; what came out follows with the next command, and again
    whenever it changes."""
    with held(lab.ledger.path.parent, lab.sweep.id):
        lab.start(0)
        synced(lab, uri)
        assert run_of(uri, "trial", 0).data.tags["tunerun.record"]
        record = fetch(uri, lab.sweep.id, tmp_path / "killed")
        assert not (record.folder / "results.json.gz").exists()
        lab.succeed(0)
        lab.measure(0, 1)
    for number in (1, 2):
        lab.finish(number)
    lab.measure_base()
    results: set[bytes] = set()
    for points in ([], [0]):
        if points:
            lab.ledger.open_test(lab.sweep.id, points, 1_760_000_100.0)
        synced(lab, uri)
        record = fetch(uri, lab.sweep.id, tmp_path / str(len(results)))
        assert table_of(record, record.folder.parent / "again") == table(lab.ledger)
        results.add((record.folder / "results.json.gz").read_bytes())
    assert len(results) == 2
    [opening] = json.loads(gzip.decompress((record.folder / "results.json.gz").read_bytes()))["openings"]
    assert opening["points"] == [0]


def test_a_record_that_mlflow_does_not_take_hides_no_trial(lab: Lab, uri: str) -> None:
    """Trials and verdict are shown all the same, one line says what is missing, and a later command brings it."""
    with held(lab.ledger.path.parent, lab.sweep.id):
        synced(lab, uri)
    [plan] = [path for path in artifacts(run_of(uri, "sweep")) if path.name == "record.json"]
    plan.parent.rename(plan.parent.with_name("aside"))
    plan.parent.write_text("a file in the way of a folder")
    complete(lab)
    for _ in range(2):
        problem = Tracker(lab.ledger.path, uri).sync().problem
        assert problem is not None
        assert f"Not a directory: {plan.parent}" in problem
    assert [run_of(uri, "trial", n).info.status for n in range(3)] == ["FINISHED", "FINISHED", "FAILED"]
    assert run_of(uri, "sweep").info.status == "FINISHED"
    plan.parent.unlink()
    plan.parent.with_name("aside").rename(plan.parent)
    synced(lab, uri)
    assert plan.with_name("results.json.gz").is_file()
    assert Tracker(lab.ledger.path, uri).sync().runs == 0


def test_a_sweep_without_a_verdict_has_a_record_all_the_same(ledger: Ledger, uri: str, tmp_path: Path) -> None:
    """Where the metric that decides is lost, what was planned and answered is kept, and the page says why."""
    lost = freeze(ledger, "lost-1", grid(1), name="lost", metric="of_another_version")
    lost.finish(0)
    for _ in range(2):
        assert "no verdict of the sweep lost-1" in str(Tracker(ledger.path, uri).sync().problem)
    note = run_of(uri, "sweep").data.tags["mlflow.note.content"]
    assert note.startswith("There is no verdict: ")
    assert "of_another_version" in note
    assert fetch(uri, run_of(uri, "trial", 0).info.run_id, tmp_path / "lost").number == 0


def damage(uri: str) -> None:
    """Change one row of the training set."""
    [file] = [path for path in artifacts(run_of(uri, "sweep")) if b'"20"' not in _content(path) and _is_set(path)][:1]
    file.write_bytes(gzip.compress(_content(file).replace(b'"1"', b'"7"'), mtime=0))


def _is_set(path: Path) -> bool:
    return path.parent.name == "examples"


def _content(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def test_a_record_that_cannot_be_fetched_says_why(lab: Lab, uri: str, tmp_path: Path) -> None:
    """A run that is not there, one of another program, one of an earlier tunerun, a file that changed, and no server."""
    complete(lab)
    synced(lab, uri)
    name = uri
    trial = run_of(uri, "trial", 0).info.run_id
    other = client(uri).create_run("0").info.run_id
    for reference, words in (
        ("0" * 32, "has no run of this id, and no sweep, experiment or tuned model of this name"),
        ('what\'s "this"', "has no run of this id"),
        (other, "is not one of tunerun"),
    ):
        with pytest.raises(NotFoundError, match=words) as refused:
            fetch(uri, reference, tmp_path / "none")
        assert name in str(refused.value)
    damage(uri)
    with pytest.raises(
        RecordError, match=r"examples/[0-9a-f]+\.jsonl\.gz: its content does not match the SHA-256 in record\.json"
    ):
        restored(fetch(uri, trial, tmp_path / "damaged").folder, tmp_path / "ledger.db")
    shutil.rmtree(next(path for path in artifacts(run_of(uri, "sweep")) if path.name == "record.json").parent)
    with pytest.raises(
        NotFoundError, match=r"no record of its sweep .*tunerun 0\.1\.0.*`tunerun sync` with this version"
    ):
        fetch(uri, trial, tmp_path / "early")
    shutil.rmtree(Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts")
    with pytest.raises(
        NotFoundError, match=r"in file:///.*mlartifacts.*, which is not on this machine; fetch them where"
    ):
        fetch(uri, trial, tmp_path / "moved")
    with pytest.raises(TrackingError, match="Connection refused; check the tracking URI") as down:
        fetch(f"http://ada:planted@127.0.0.1:{free_port()}", trial, tmp_path / "down")
    assert "planted" not in str(down.value)
    with pytest.raises(NotFoundError, match=r"store sqlite:.* does not exist"):
        fetch(f"sqlite:///{tmp_path}/elsewhere.db", trial, tmp_path / "absent")
    assert not (tmp_path / "elsewhere.db").exists()


def test_a_record_is_opened_from_a_server_alone(lab: Lab, uri: str, tmp_path: Path) -> None:
    """With a server that keeps the artifacts itself, in a folder without a ledger, a run id is enough."""
    complete(lab)
    with server(uri, port := free_port()):
        tracking = Tracking(uri=f"http://127.0.0.1:{port}")
        synced(lab, str(tracking.uri))
        run_id = run_of(str(tracking.uri), "trial", 1).info.run_id
        with open_record(run_id, runs=tmp_path / "nowhere", tracking=tracking) as record:
            assert (record.sweep.id, record.number, record.run_id) == (lab.sweep.id, 1, run_id)
            assert [trial.key for trial in record.trials] == [lab.trials[1].key]
            assert table(record.ledger) == table(lab.ledger)
        with (
            pytest.raises(NotFoundError, match=r"nowhere/ledger\.db[^\0]*MLflow at http://127\.0\.0\.1"),
            open_record("of-no-run", runs=tmp_path / "nowhere", tracking=tracking),
        ):
            pass
    assert not (tmp_path / "nowhere").exists()
