"""Jobs of the local backend that train together: they end as each would alone, whatever becomes of the others."""

from __future__ import annotations

import os
import queue
import resource
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.engine.tiny_model import HELD_OUT, request_of
from tunerun.backends.local import LocalBackend
from tunerun.backends.local.engine_queue import EngineQueue
from tunerun.backends.local.engine_session import EngineSession, Job
from tunerun.backends.local.jobs import LocalJob
from tunerun.engine import messages
from tunerun.engine.settings import EngineSettings
from tunerun.generation import GenerateOptions
from tunerun.job import BaseModelRef, Failure, FailureKind, JobRef, JobState, JobStatus, TuningRequest
from tunerun.testing.waiting import wait_for_end, wait_for_steps, wait_until
from tunerun.workers.base import DeadWorker


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory, engine_cache: Path) -> Iterator[LocalBackend]:
    """One engine for all tests, which has started."""
    with LocalBackend(tmp_path_factory.mktemp("runs"), engine_cache, EngineSettings("cpu", 1)) as backend:
        yield backend


def ended(backend: LocalBackend, refs: Sequence[JobRef]) -> list[JobStatus]:
    return [wait_for_end(backend, ref) for ref in refs]


def trained_again(backend: LocalBackend, requests: Sequence[TuningRequest]) -> list[JobStatus]:
    """Submit requests at once, and forget their tuned models afterwards."""
    found = ended(backend, [backend.submit(request) for request in requests])
    for status in found:
        if status.tuned_model is not None:
            shutil.rmtree(status.tuned_model.location)
    return found


def losses(status: JobStatus) -> list[float]:
    return [one.mean_loss for one in status.snapshots]


def test_jobs_that_are_submitted_together_share_a_pack(backend: LocalBackend, tiny: BaseModelRef) -> None:
    """Three jobs, two of them of one training run: none begins before a poll, and a repetition has the same bits."""
    requests = [
        request_of(tiny, key="1", epoch_count=3, validation=HELD_OUT),
        request_of(tiny, key="2", epoch_count=1, validation=HELD_OUT),
        request_of(tiny, key="3", learning_rate=0.001, epoch_count=2),
    ]
    refs = [backend.submit(request) for request in requests]
    assert backend.engine_process_id is None
    first = ended(backend, refs)
    assert [status.state for status in first] == [JobState.SUCCEEDED] * 3
    shared = [status.trained_on for status in first]
    assert [one and one.training_run for one in shared] == ["", "1" * 64, ""]
    assert [one and one.packed_with for one in shared] == [("3" * 64,), ("3" * 64,), ("1" * 64, "2" * 64)]
    for status in first:
        assert status.tuned_model is not None
        shutil.rmtree(status.tuned_model.location)
    second = trained_again(backend, requests)
    assert [losses(status) for status in second] == [losses(status) for status in first]
    assert [s.tuned_model and s.tuned_model.weights for s in second] == [
        s.tuned_model and s.tuned_model.weights for s in first
    ]


@pytest.fixture
def limited(own_engines: None, tmp_path: Path, engine_cache: Path) -> Iterator[LocalBackend]:
    """An engine in a process whose limits can be set."""
    with LocalBackend(tmp_path / "runs", engine_cache, EngineSettings("cpu", 1)) as backend:
        yield backend


def test_a_job_that_fails_does_not_affect_its_pack(limited: LocalBackend, tiny: BaseModelRef) -> None:
    """One diverges, one is cancelled, one's tuned model does not fit on the disk; the others end as usual."""
    good = [request_of(tiny, key=key, learning_rate=rate, epoch_count=9) for key, rate in (("4", 0.001), ("5", 0.002))]
    limited.generate(tiny, ["1"], GenerateOptions(max_output_tokens=1))
    process = limited.engine_process_id
    assert process is not None
    limits = resource.prlimit(process, resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    try:
        refs = [limited.submit(request) for request in good]
        diverges = limited.submit(request_of(tiny, key="6", learning_rate=1e30))
        cancelled = limited.submit(request_of(tiny, key="7", seed=2, epoch_count=1_000_000))
        full = limited.submit(request_of(tiny, key="8", adapter_rank=64, epoch_count=1))
        wait_for_steps(limited, cancelled, 2)
        limited.cancel(cancelled)
        found = ended(limited, [*refs, diverges, cancelled, full])
    finally:
        resource.prlimit(process, resource.RLIMIT_FSIZE, limits)
    assert [status.state for status in found] == [
        *(JobState.SUCCEEDED, JobState.SUCCEEDED),
        *(JobState.FAILED, JobState.CANCELLED, JobState.FAILED),
    ]
    assert found[2].failure is not None
    assert found[2].failure.kind is FailureKind.DIVERGED
    assert found[4].failure is not None
    assert "the tuned model cannot be written to" in found[4].failure.message
    assert "make room" in found[4].failure.message
    assert limited.engine_process_id == process
    for status in found[:2]:
        assert status.tuned_model is not None
        shutil.rmtree(status.tuned_model.location)
    for status, alone in zip(found, [trained_again(limited, [request])[0] for request in good], strict=False):
        assert losses(status) == pytest.approx(losses(alone), rel=1e-3)


def test_a_job_that_kills_engines_fails_alone(backend: LocalBackend, tiny: BaseModelRef) -> None:
    """The others of its pack resume after their last epoch, and end as they would alone."""
    good = [
        request_of(tiny, key=key, learning_rate=0.0005, epoch_count=30, batch_size=n) for key, n in (("a", 3), ("b", 2))
    ]
    refs = [backend.submit(request) for request in good]
    poisoned = backend.submit(request_of(tiny, key="c", epoch_count=1_000_000))
    killed: set[int] = set()

    def is_over() -> bool:
        statuses = backend.poll([*refs, poisoned])
        process = backend.engine_process_id
        is_begun = len(statuses[poisoned].snapshots) > 6  # more than two epochs: there is something to continue
        if statuses[poisoned].state is JobState.RUNNING and is_begun and process not in (None, *killed):
            assert process is not None
            killed.add(process)
            os.kill(process, signal.SIGSEGV)
        return all(status.state.is_finished for status in statuses.values())

    wait_until(is_over, "all have ended")
    found = backend.poll([*refs, poisoned])
    assert len(killed) == 2
    failure = found[poisoned].failure
    assert failure is not None
    assert failure.kind is FailureKind.CRASHED
    assert [found[ref].state for ref in refs] == [JobState.SUCCEEDED] * 2
    for ref in refs:
        status = found[ref]
        steps = [one.step for one in status.snapshots]
        assert steps == list(range(1, len(steps) + 1))
        assert status.tuned_model is not None
        shutil.rmtree(status.tuned_model.location)
    for ref, alone in zip(refs, trained_again(backend, good), strict=True):
        assert losses(found[ref]) == pytest.approx(losses(alone), rel=1e-3)


def test_a_paused_job_continues(backend: LocalBackend, tiny: BaseModelRef) -> None:
    """Submitted again, it has its earlier steps and resumes after its last whole epoch."""
    request = request_of(tiny, key="d", epoch_count=1_000_000)
    ref = backend.submit(request)
    wait_for_steps(backend, ref, 7)
    backend.pause(ref)
    before = wait_for_end(backend, ref)
    assert before.state is JobState.CANCELLED
    again = backend.submit(request)
    wait_for_steps(backend, again, len(before.snapshots))
    assert backend.poll([again])[again].snapshots[:6] == before.snapshots[:6]
    backend.cancel(again)
    wait_for_end(backend, again)


LOST = Failure(FailureKind.LOST, "killed")
SHORT = Failure(FailureKind.OUT_OF_MEMORY, "memory ran out")


def session_of(tiny: BaseModelRef, *runs: Sequence[str], has_reported: bool = True) -> EngineSession:
    """An engine with jobs that have begun, by their training runs, and with job `9`, which waits in it."""
    session = EngineSession(replace(DeadWorker(LOST), has_reported=has_reported))
    names = [*(name for run in runs for name in run), "9"]
    session.give_jobs([LocalJob(name, request_of(tiny, key=name), Path("missing")) for name in names])
    for run in runs:
        session.take(messages.RunBegan(tuple(run)))
    return session


def test_a_job_that_cannot_be_resumed_has_a_note(tiny: BaseModelRef) -> None:
    """It has the reason why the state cannot be written, and what would be lost."""
    job = LocalJob("1", request_of(tiny, key="1"), Path("tuned_models/tiny-1"))
    for _epoch in range(2):
        job.take(messages.StateNotKept("1", "No space left on device"))
    [note] = job.status(None).notes
    assert "cannot be written to tuned_models/ (No space left on device); training continues, but restarts from" in note


@pytest.mark.parametrize(
    ("runs", "failed", "most"),
    [
        ([["1"], ["2"], ["3", "4"], ["5"]], [], 2),
        ([["1", "2"]], ["1", "2"], None),
        ([], [], None),
    ],
)
def test_the_cause_of_an_engines_death(
    tiny: BaseModelRef, runs: list[list[str]], failed: list[str], most: int | None
) -> None:
    """Of several training runs none is, and half as many share a pass; a single one is; what has not begun never is."""
    session = session_of(tiny, *runs)
    jobs = [*session.jobs.values()]
    found = session.died(SHORT)
    assert [job.id for job in jobs if isinstance(job, LocalJob) and job.state is JobState.FAILED] == failed
    assert [job.id for job in found.jobs] == [job.id for job in jobs if job.id not in failed]
    assert found.most == most


def test_an_engine_that_cannot_start_fails_its_jobs(tiny: BaseModelRef) -> None:
    """It died before its first report, as the next one would."""
    session = session_of(tiny, has_reported=False)
    (job,) = session.jobs.values()
    assert session.died(SHORT).jobs == []
    assert isinstance(job, LocalJob)
    assert job.failure == SHORT


def test_a_lost_engine_does_not_halve_the_pack(tiny: BaseModelRef) -> None:
    """All jobs are repeated, as many at once as before; jobs that are lost again and again fail as lost."""
    runs = [["1"], ["2"]]
    session = session_of(tiny, *runs)
    found = session.died(LOST)
    assert [job.id for job in found.jobs] == ["1", "2", "9"]
    assert found.most is None
    again = session_of(tiny, *runs)
    jobs = [*again.jobs.values()]
    assert [job.id for job in again.died(LOST, is_last_try=True).jobs] == ["9"]
    assert [job.failure for job in jobs if isinstance(job, LocalJob)] == [LOST, LOST, None]


class HangingWorker:
    """An engine that begins what it is given, and then neither reports nor reads anything until it is ended."""

    process_id = None
    has_reported = True

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.reports: queue.Queue[messages.Report | None] = queue.Queue()

    def send(self, command: messages.Command) -> None:
        if isinstance(command, messages.Train):
            for packed in command.pack:
                self.reports.put(messages.RunBegan((packed.job,)))
        else:  # its pipe is full
            self.ended.wait()

    def receive(self) -> messages.Report | None:
        return self.reports.get()

    @property
    def has_ended(self) -> bool:
        return self.ended.is_set()

    def end(self) -> None:
        self.ended.set()
        self.reports.put(None)

    def death(self) -> Failure:
        return Failure(FailureKind.CRASHED, "it was ended")


def test_an_engine_that_ignores_a_cancel_is_ended(tiny: BaseModelRef) -> None:
    """The job is cancelled; the other one of its pack is trained by the next engine."""
    workers: list[HangingWorker] = []

    def start() -> HangingWorker:
        workers.append(HangingWorker())
        return workers[-1]

    def train(jobs: Sequence[Job], most: int | None) -> messages.Train:
        return messages.Train(tuple(messages.PackedJob(job.id, job.request) for job in jobs), "", most=most)

    engine = EngineQueue(start, train, silence_s=0.01)
    jobs = [LocalJob(name, request_of(tiny, key=name), Path("missing")) for name in ("1", "2")]
    for job in jobs:
        engine.add_job(job)
    engine.begin()
    wait_until(lambda: all(job.state is JobState.RUNNING for job in jobs), "both are trained")
    engine.cancel(jobs[0])
    wait_until(lambda: len(workers) == 2 and jobs[1].state is JobState.RUNNING, "the other one is trained again")
    assert jobs[0].state is JobState.CANCELLED
    assert [worker.has_ended for worker in workers] == [True, False]
    engine.close()
