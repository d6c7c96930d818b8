"""The engine's process: the causes of its exit, its protocol, its environment."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.engine.tiny_model import HELD_OUT, request_of
from tunerun.engine import messages, packages
from tunerun.engine.failures import DivergedError, failure_of
from tunerun.engine.process import EngineProcess, failure_of_exit
from tunerun.engine.settings import EngineSettings
from tunerun.errors import InputError, MissingPackageError
from tunerun.generation import Answer, AnswerPart, GenerateOptions, Likelihood, Prompt
from tunerun.job import BaseModelRef, EpochLoss, Failure, FailureKind, JobState, Snapshot, TrainedOn

MODEL = BaseModelRef(name="x", source="x")
LOG = Path("engine.log")


@pytest.mark.parametrize(
    ("code", "before", "after", "kind", "words"),
    [
        (-signal.SIGKILL, 3, 4, FailureKind.OUT_OF_MEMORY, "memory ran out"),
        (-signal.SIGKILL, None, None, FailureKind.OUT_OF_MEMORY, "memory ran out"),
        (-signal.SIGKILL, 3, 3, FailureKind.LOST, "not by the kernel"),
        (-signal.SIGSEGV, 3, 3, FailureKind.CRASHED, "signal 11, SIGSEGV"),
        (1, 3, 3, FailureKind.CRASHED, "exit code 1"),
    ],
)
def test_exit_codes(code: int, before: int | None, after: int | None, kind: FailureKind, words: str) -> None:
    """A killed engine ran out of memory if the kernel counted that or keeps no count; anything else crashed."""
    failure = failure_of_exit(code, before, after, LOG, "the log's end")
    assert failure.kind == kind
    assert words in failure.message
    assert failure.traceback == "the log's end"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DivergedError("nan"), FailureKind.DIVERGED),
        (InputError("too long"), FailureKind.INVALID),
        (MemoryError(), FailureKind.OUT_OF_MEMORY),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), FailureKind.OUT_OF_MEMORY),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), FailureKind.OUT_OF_MEMORY),
        (ZeroDivisionError("division by zero"), FailureKind.CRASHED),
    ],
)
def test_exceptions(error: Exception, kind: FailureKind) -> None:
    """The kind of failure depends on an exception's class and message; unexpected ones have a traceback."""
    failure = failure_of(error)
    assert failure.kind == kind
    assert (failure.traceback is not None) == (kind in {FailureKind.CRASHED, FailureKind.OUT_OF_MEMORY})


@pytest.mark.parametrize(
    "command",
    [
        messages.Prepare(MODEL),
        messages.Train((messages.PackedJob("a.1", request_of(MODEL, validation=HELD_OUT)),), "runs/tuned_models"),
        messages.Generate(
            MODEL,
            (
                Prompt("é\n\u2028\u0000", GenerateOptions(temperature=0.5, stop_sequences=("\n",))),
                Prompt("", adapter="a"),
            ),
            id="a1",
        ),
        messages.Generate(MODEL, (Prompt("x", examples=(HELD_OUT[0],)),)),
        messages.MeasureLosses(MODEL, (("x", ("a", "b")), ("y", ())), "folder", HELD_OUT),
        messages.Cancel("a.1"),
    ],
)
def test_commands_round_trip(command: messages.Command) -> None:
    """A command is one line and comes back equal."""
    line = messages.command_line(command)
    assert line.count(b"\n") == 1
    assert messages.read_command(line) == command


def test_examples_that_jobs_share_are_sent_once() -> None:
    """They are one object on the other side, so that a hundred trials need the memory of one."""
    requests = [request_of(MODEL, key=key, training=HELD_OUT) for key in "abc"]
    train = messages.Train(tuple(messages.PackedJob(one.tuned_model_id, one) for one in requests), "tuned_models")
    line = messages.command_line(train)
    assert line.count(HELD_OUT[1].output.encode()) == 1
    read = messages.read_command(line)
    assert read == train
    assert isinstance(read, messages.Train)
    assert read.pack[0].request.training is read.pack[2].request.training


@pytest.mark.parametrize(
    "report",
    [
        messages.Started(),
        messages.SnapshotTaken("a.1", Snapshot(1, 1, 0.1 + 0.2, 1795384000.123456)),
        messages.EpochMeasured("a.1", EpochLoss(1, 0.1 + 0.2)),
        messages.JobEnded("a.1", JobState.FAILED, {}, Failure(FailureKind.CRASHED, "x\ny", "trace")),
        messages.JobEnded(
            "a.1",
            JobState.SUCCEEDED,
            {"validation/loss": 1e-30},
            trained_on=TrainedOn("cpu", "EPYC", "AVX512", 2, "", "2.4.1+cpu", {"torch": "2.4.1"}),
        ),
        messages.Answers((Answer("\n", 2, is_cut=True), messages.Refused("InputError", ("too long",)))),
        messages.Measured(((Likelihood(0.1 + 0.2, 3), Likelihood(1e-30, 1)), ())),
        messages.Piece(1, AnswerPart("ä")),
        messages.Refused("BaseModelError", ("one", "two")),
        messages.Done(),
    ],
)
def test_reports_round_trip(report: messages.Report) -> None:
    """A report is one line and comes back equal, floats to the bit."""
    line = messages.report_line(report)
    assert line.count(b"\n") == 1
    assert messages.read_report(line) == report


@pytest.mark.process
def test_engine_that_reads_an_invalid_command_exits(tmp_path: Path) -> None:
    """The failure contains the end of its log."""
    engine = EngineProcess(tmp_path, EngineSettings("cpu"), tmp_path / "logs" / "engine.log")
    assert engine._process.stdin is not None
    engine._process.stdin.write(b"no command\n")
    engine._process.stdin.flush()
    assert engine.receive() is None
    failure = engine.death()
    assert failure.kind == FailureKind.CRASHED
    assert failure.traceback is not None
    assert "Invalid JSON" in failure.traceback


@pytest.mark.process
def test_engine_ignores_modules_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file named like a module in the user's directory is not imported."""
    (tmp_path / "argparse.py").write_text("raise SystemExit(99)")
    monkeypatch.chdir(tmp_path)
    engine = EngineProcess(tmp_path, EngineSettings("cpu"), tmp_path / "engine.log")
    engine.send(messages.Prepare(BaseModelRef(name="x", source="./missing")))
    assert engine.receive() == messages.Started()
    assert isinstance(engine.receive(), messages.Refused)
    engine.end()
    engine.death()


def test_missing_packages_are_named_with_the_install_command() -> None:
    """All missing packages are named at once, with the command that installs them."""
    packages.require("sys", "json")
    with pytest.raises(MissingPackageError, match=r"needs no_such_one, no_such_two, .* pip install 'tunerun\[local\]'"):
        packages.require("json", "no_such_one", "no_such_two")
