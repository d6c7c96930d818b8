"""Messages and files between this machine and an engine on another one, which is a folder here."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.engine.tiny_model import HELD_OUT, model_of, request_of
from tunerun.engine import messages, tuned_model
from tunerun.engine.settings import EngineSettings
from tunerun.generation import Answer, GenerateOptions, Prompt
from tunerun.job import FailureKind, JobState, TuningRequest
from tunerun.workers import states
from tunerun.workers.engine_actor import Attached
from tunerun.workers.node import Entry, NodeEngine, NodeSettings, files_of
from tunerun.workers.remote import LostError, RemoteWorker


class FolderNode:
    """A channel to an engine in a folder; `damage` is appended to each file that is fetched."""

    def __init__(self, folder: Path, settings: NodeSettings) -> None:
        self.folder = folder
        self.damage = b""
        self.lines: list[bytes] = []
        self._entries: list[Entry] = []
        self._news = threading.Condition()
        self._engine = NodeEngine(folder, settings, self._note)

    def _note(self, entry: Entry) -> None:
        with self._news:
            self._entries.append(entry)
            self._news.notify_all()

    def command(self, number: int, line: bytes) -> None:
        self.lines.append(line)
        self._engine.command(number, line)
        self._engine.command(number, line)  # a repeated command is ignored

    def put(self, folder: str, files: Mapping[str, bytes]) -> None:
        (self.folder / folder).mkdir(parents=True)
        for name, content in files.items():
            (self.folder / folder / name).write_bytes(content)

    def entries(self, after: int) -> Sequence[Entry]:
        with self._news:
            self._news.wait_for(lambda: len(self._entries) > after, 1.0)
            return self._entries[after:]

    def files(self, folder: str) -> Mapping[str, bytes]:
        return {name: content + self.damage for name, content in files_of(self.folder, folder).items()}

    def close(self) -> None:
        self._engine.end()


@pytest.fixture(scope="module")
def settings(engine_cache: Path) -> NodeSettings:
    return NodeSettings(str(engine_cache), EngineSettings(device="cpu", threads=1))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, settings: NodeSettings) -> Iterator[FolderNode]:
    node = FolderNode(tmp_path_factory.mktemp("node") / "own", settings)
    yield node
    node.close()


@pytest.fixture(scope="module")
def worker(node: FolderNode) -> RemoteWorker:
    return RemoteWorker(node)


def ended(worker: RemoteWorker, request: TuningRequest, home: Path) -> messages.JobEnded:
    job = f"{request.tuned_model_id}.1"
    worker.send(messages.Train((messages.PackedJob(job, request),), str(home)))
    while (report := worker.receive()) is not None:
        if isinstance(report, messages.EpochKept):
            assert Path(report.checkpoint.location).is_relative_to(home)
            assert tuned_model.fault(Path(report.checkpoint.location)) is None
        if isinstance(report, messages.JobEnded):
            return report
    raise AssertionError(worker.death())


def test_a_tuned_model_is_fetched_and_can_be_called_on_the_node(
    tmp_path: Path, tiny_folder: Path, node: FolderNode, worker: RemoteWorker
) -> None:
    """It is complete; neither machine learns the other's folders."""
    request = replace(request_of(model_of(tiny_folder), validation=HELD_OUT), keeps_epochs=True)
    assert ended(worker, request, tmp_path).state is JobState.SUCCEEDED
    assert worker.process_id is None
    folder = tmp_path / request.tuned_model_id
    assert tuned_model.fault(folder) is None
    finished = tuned_model.read_finished(folder)
    assert finished is not None
    assert [each.location for each in finished.checkpoints] == [
        str(tuned_model.epochs_folder(folder) / "1"),
        str(folder),
    ]
    assert not any(str(node.folder).encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    prompt = Prompt("1", GenerateOptions(max_output_tokens=2), adapter=str(folder))
    worker.send(messages.Generate(request.model, (prompt, prompt)))
    while not isinstance(report := worker.receive(), messages.Answers):
        assert report is not None
    assert report.answers[0] == report.answers[1]
    assert not any(str(tmp_path).encode() in line for line in node.lines)


def test_a_tuned_model_that_is_damaged_in_transit_fails_its_job(
    tmp_path: Path, tiny_folder: Path, node: FolderNode, worker: RemoteWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digest is checked before anything is written."""
    monkeypatch.setattr(node, "damage", b"x")
    report = ended(worker, request_of(model_of(tiny_folder), key="b", epoch_count=1), tmp_path)
    assert report.state is JobState.FAILED
    assert report.failure is not None
    assert "cannot be kept" in report.failure.message
    assert list(tmp_path.iterdir()) == []


def test_a_job_continues_on_another_node(
    tmp_path: Path, tiny_folder: Path, settings: NodeSettings, worker: RemoteWorker
) -> None:
    """Its state was fetched before its node was lost; the weights have the bits of a job that was not interrupted."""
    request = request_of(model_of(tiny_folder), key="c", epoch_count=30)
    assert ended(worker, request, tmp_path / "whole").state is JobState.SUCCEEDED
    home = tmp_path / "home"
    train = messages.Train((messages.PackedJob("tiny-c.1", request),), str(home))
    lost = FolderNode(tmp_path / "lost", settings)
    first = RemoteWorker(lost)
    first.send(train)
    begun: list[messages.Report] = []
    while not states.names(home):
        report = first.receive()
        assert report is not None
        begun.append(report)
    first.end()
    assert first.receive() is None
    second = RemoteWorker(FolderNode(tmp_path / "other", settings))
    second.send(train)
    continued: list[messages.Report] = []
    while not (continued and isinstance(continued[-1], messages.JobEnded)):
        report = second.receive()
        assert report is not None
        continued.append(report)
    second.end()
    taken = [one for one in begun if isinstance(one, messages.SnapshotTaken)]  # each with the time when it was taken
    assert next(one for one in continued if isinstance(one, messages.SnapshotTaken)) == taken[0]
    weights = [tuned_model.read(place / "tiny-c").weights for place in (home, tmp_path / "whole")]
    assert weights[0] == weights[1]
    assert states.names(home) == {}


class Reported:
    """A channel with fixed reports."""

    def __init__(self, *reports: messages.Report) -> None:
        lines = (messages.report_line(report).decode() for report in reports)
        self._entries = [Entry(number, line) for number, line in enumerate(lines, 1)]

    def command(self, number: int, line: bytes) -> None: ...

    def put(self, folder: str, files: Mapping[str, bytes]) -> None: ...

    def entries(self, after: int) -> Sequence[Entry]:
        return self._entries[after:]

    def files(self, folder: str) -> Mapping[str, bytes]:
        raise LostError(folder)

    def close(self) -> None: ...


def test_answers_to_a_killed_program_are_skipped() -> None:
    """Reports on its jobs, and the answers to calls of this program, are returned."""
    foreign, own = (messages.Answers((Answer(text, 1, is_cut=False),)) for text in ("foreign", "own"))
    began = messages.RunBegan(("tiny.1",))
    channel = Reported(messages.Started(), began, foreign, messages.Started(), own)
    worker = RemoteWorker(channel, attached=Attached(after=0, commands=2, calls=1, jobs=frozenset()))
    assert [worker.receive() for _ in range(3)] == [began, messages.Started(), own]


def test_a_node_with_another_version_refuses(tmp_path: Path, settings: NodeSettings) -> None:
    """The failure names both versions."""
    worker = RemoteWorker(FolderNode(tmp_path, replace(settings, version="0.0.1")))
    assert worker.receive() is None
    assert worker.has_ended
    assert worker.death().kind is FailureKind.INVALID
    assert "this machine 0.0.1; install the same version on both" in worker.death().message


def test_saved_states_are_transferred_completely_or_not_at_all(tmp_path: Path) -> None:
    """A state is found by the requests of its pack; a damaged one, or one with another name, is not written."""
    tensors = b"tensors"
    state = {"requests": {"a" * 64: False}, "tensors": hashlib.sha256(tensors).hexdigest()}
    files = {states.STATE_FILE: json.dumps(state).encode(), states.TENSORS_FILE: tensors}
    name = f"training.{'0' * 24}"
    states.keep(tmp_path, name, files)
    states.keep(tmp_path, f"training.{'1' * 24}", files | {states.TENSORS_FILE: b"other"})
    states.keep(tmp_path, f"../training.{'2' * 24}", files)
    assert [*states.names(tmp_path)] == [name]
    assert [*states.of_keys(tmp_path, {"a" * 64, "b" * 64})] == [(name, files)]
    assert [*states.of_keys(tmp_path, {"b" * 64})] == []
    states.drop(tmp_path, name)
    assert list(tmp_path.iterdir()) == []
