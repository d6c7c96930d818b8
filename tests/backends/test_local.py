"""The local backend: the contract, and what happens when its engine or its runner dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.engine.tiny_model import HELD_OUT, request_of
from tunerun.backends.local import LocalBackend
from tunerun.engine import tuned_model
from tunerun.engine.settings import EngineSettings
from tunerun.errors import BackendError, InputError, NotFoundError
from tunerun.examples import Example
from tunerun.generation import GenerateOptions, Prompt
from tunerun.job import BaseModelRef, FailureKind, JobState, TunedModel, TuningRequest
from tunerun.testing.backend_contract import BackendContract
from tunerun.testing.waiting import wait_for_end, wait_for_steps, wait_until

pytestmark = pytest.mark.engine

REPOSITORY = Path(__file__).parents[2]

RUNNER = """
import sys
from pathlib import Path
from tests.engine.tiny_model import model_of, request_of
from tunerun.backends.local import LocalBackend
from tunerun.engine.settings import EngineSettings
from tunerun.testing.waiting import wait_for_steps
model, runs, cache = model_of(Path(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3])
backend = LocalBackend(runs, cache, EngineSettings(threads=1))
ref = backend.submit(request_of(model, epoch_count=1_000_000))
wait_for_steps(backend, ref, 7)
print(backend.engine_process_id, ref.id, flush=True)
sys.stdin.read()
"""


class LocalPlace:
    """A runs directory with a tiny base model."""

    missing_model = BaseModelRef(name="missing-model", source="./no/such/folder")

    def __init__(self, runs: Path, cache: Path, model: BaseModelRef) -> None:
        self._runs = runs
        self._cache = cache
        self._model = model

    def open(self, packing: str = "auto") -> LocalBackend:
        return LocalBackend(self._runs, self._cache, EngineSettings("cpu", 1, packing=packing))

    def request(self, digit: str) -> TuningRequest:
        return request_of(self._model, key=digit, validation=HELD_OUT)

    def long_request(self, digit: str) -> TuningRequest:
        return request_of(self._model, key=digit, epoch_count=1_000_000)

    @property
    def runs(self) -> Path:
        return self._runs


@pytest.fixture
def place(tmp_path: Path, engine_cache: Path, tiny: BaseModelRef) -> LocalPlace:
    return LocalPlace(tmp_path / "runs", engine_cache, tiny)


@pytest.fixture
def backend(place: LocalPlace) -> Iterator[LocalBackend]:
    with place.open() as backend:
        yield backend


def is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{process_id}/stat")  # a dead process that has not been waited for is a zombie
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


class TestContract(BackendContract):
    """The local backend keeps the contract."""

    @pytest.fixture(scope="class")
    @classmethod
    def place(cls, tmp_path_factory: pytest.TempPathFactory, engine_cache: Path, tiny: BaseModelRef) -> LocalPlace:
        return LocalPlace(tmp_path_factory.mktemp("runs"), engine_cache, tiny)


@pytest.mark.parametrize(
    ("number", "kinds"),
    [
        (signal.SIGKILL, {FailureKind.LOST, FailureKind.OUT_OF_MEMORY}),  # by whether this kernel counts its own kills
        (signal.SIGSEGV, {FailureKind.CRASHED}),
    ],
)
def test_killed_engine_fails_its_job_only(place: LocalPlace, number: signal.Signals, kinds: set[FailureKind]) -> None:
    """A job that trained alone when its engine died is FAILED with its snapshots; the next ones run in a new engine."""
    with place.open(packing="off") as backend:
        dies, next_one = backend.submit(place.long_request("1")), backend.submit(place.request("2"))
        wait_for_steps(backend, dies, 2)
        assert backend.poll([next_one])[next_one].state is JobState.QUEUED
        process_id = backend.engine_process_id
        assert process_id is not None
        os.kill(process_id, number)
        status = wait_for_end(backend, dies)
        assert status.state == JobState.FAILED
        assert status.failure is not None
        assert status.failure.kind in kinds
        assert len(status.snapshots) >= 2
        assert wait_for_end(backend, next_one).state == JobState.SUCCEEDED
        assert backend.engine_process_id != process_id
    # A state to continue from that was half written stays until the job is submitted again; no tuned model is half there.
    assert not list((place.runs / "tuned_models").glob(".tiny-*"))


def test_engine_that_died_idle_fails_nothing(backend: LocalBackend, place: LocalPlace) -> None:
    """An engine that was killed with nothing to do is replaced."""
    wait_for_end(backend, backend.submit(place.request("1")))
    process_id = backend.engine_process_id
    assert process_id is not None
    os.kill(process_id, signal.SIGKILL)
    wait_until(lambda: not is_alive(process_id), "the engine is dead")
    status = wait_for_end(backend, backend.submit(place.request("2")))
    assert status.state == JobState.SUCCEEDED, status.failure


def test_killed_engine_fails_a_call(backend: LocalBackend, place: LocalPlace, tiny: BaseModelRef) -> None:
    """Leaving the backend while a call to another base model waits raises BackendError from the call."""
    from concurrent.futures import ThreadPoolExecutor

    ref = backend.submit(place.long_request("1"))
    wait_for_steps(backend, ref, 1)
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(backend.generate, replace(tiny, name="another"), ["1"], GenerateOptions())
        wait_until(lambda: backend.calls_waiting == 1, "the call waits")
        backend.__exit__(None, None, None)
        with pytest.raises(BackendError, match="ended"):
            call.result(timeout=60)


def test_engine_dies_with_its_runner(place: LocalPlace, tiny: BaseModelRef, engine_cache: Path) -> None:
    """A runner that is killed with -9 leaves no engine behind; the next one continues its job after its last epoch."""
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER, tiny.source, str(place.runs), str(engine_cache)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with runner:
        assert runner.stdout is not None
        engine, _job = runner.stdout.readline().split()
        assert is_alive(int(engine))
        runner.kill()
        wait_until(lambda: not is_alive(int(engine)), "the engine is dead")
    killed_at = time.time()
    with place.open() as backend:
        ref = backend.submit(request_of(tiny, epoch_count=1_000_000))
        wait_for_steps(backend, ref, 1)
        first, *_ = backend.poll([ref])[ref].snapshots
    assert (first.step, first.compute_time < killed_at) == (1, True)


def test_generate_is_served_between_two_steps(backend: LocalBackend, place: LocalPlace) -> None:
    """A call is answered while a job of its base model is trained."""
    ref = backend.submit(place.long_request("2"))
    wait_for_steps(backend, ref, 1)
    assert len(backend.generate(place.request("1").model, ["1"], GenerateOptions(max_output_tokens=2))) == 1
    assert backend.poll([ref])[ref].state is JobState.RUNNING
    backend.cancel(ref)


def test_failures_of_training_are_reported(backend: LocalBackend, place: LocalPlace) -> None:
    """A job that diverges and one that is too long fail with their kinds, and the engine continues."""
    diverges = replace(
        place.request("1"),
        hyperparameters=request_of(BaseModelRef(name="x", source="x"), learning_rate=1e30).hyperparameters,
    )
    too_long = replace(place.request("2"), training=(Example("1 " * 500, "2"),))
    kinds = []
    for request in (diverges, too_long):
        status = wait_for_end(backend, backend.submit(request))
        assert status.failure is not None
        kinds.append(status.failure.kind)
    assert kinds == [FailureKind.DIVERGED, FailureKind.INVALID]
    assert wait_for_end(backend, backend.submit(place.request("3"))).state == JobState.SUCCEEDED


def test_invalid_unicode_fails_the_job(backend: LocalBackend, place: LocalPlace) -> None:
    """An unpaired surrogate cannot be sent; nothing hangs."""
    status = wait_for_end(backend, backend.submit(replace(place.request("1"), training=(Example("\ud800", "2"),))))
    assert status.failure is not None
    assert status.failure.kind == FailureKind.INVALID


def test_tuned_model_folder_explains_itself(backend: LocalBackend, place: LocalPlace) -> None:
    """It has the key, the template, the base model, the chat format and the job's outcome."""
    status = wait_for_end(backend, backend.submit(place.request("1")))
    assert status.tuned_model is not None
    folder = Path(status.tuned_model.location)
    assert folder == place.runs / "tuned_models" / "tiny-1"
    record = tuned_model.read(folder)
    request = place.request("1")
    assert (record.key, record.template, record.base_model) == (request.key, request.template, request.model)
    assert record.chat_format.prefix == "<|im_start|>user\n"
    finished = tuned_model.read_finished(folder)
    assert finished is not None
    assert finished.snapshots == status.snapshots
    assert sorted(file.name for file in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "status.json",
        "tunerun.json",
    ]


def test_a_job_has_the_environment_that_trained_it(backend: LocalBackend, place: LocalPlace) -> None:
    """The engine's own device, CPU, threads, build and packages; a later process finds them beside the tuned model."""
    ref = backend.submit(place.request("1"))
    trained_on = wait_for_end(backend, ref).trained_on
    assert trained_on is not None
    assert (trained_on.device, trained_on.form, trained_on.precision) == ("cpu", "shared prefix", "float32")
    assert trained_on.threads >= 1
    assert trained_on.processor
    assert trained_on.instructions
    assert trained_on.build.startswith(trained_on.packages["torch"])
    assert {"transformers", "peft", "safetensors", "tokenizers", "numpy"} <= set(trained_on.packages)
    backend.__exit__(None, None, None)
    with place.open() as later:
        assert later.poll([ref])[ref].trained_on == trained_on


def test_a_removed_folder_is_trained_again(backend: LocalBackend, place: LocalPlace) -> None:
    """Removing a tuned model's folder is how to train its key again."""
    import shutil

    first = backend.submit(place.request("1"))
    status = wait_for_end(backend, first)
    assert status.tuned_model is not None
    shutil.rmtree(status.tuned_model.location)
    again = backend.submit(place.request("1"))
    assert again != first
    assert [one.mean_loss for one in wait_for_end(backend, again).snapshots] == [
        one.mean_loss for one in status.snapshots
    ]


def test_folder_of_another_trial_is_never_overwritten(backend: LocalBackend, place: LocalPlace) -> None:
    """An id whose folder holds a tuned model of another key is refused."""
    wait_for_end(backend, backend.submit(place.request("1")))
    with pytest.raises(InputError, match="contains the tuned model of another trial"):
        backend.submit(replace(place.request("2"), tuned_model_id="tiny-1"))


@pytest.mark.parametrize("identifier", ["", "../x", "Big", "a-", "a" * 41, "a/b"])
def test_ids_are_checked(place: LocalPlace, identifier: str) -> None:
    """An id that could leave the folder of tuned models is refused."""
    with pytest.raises(InputError, match="is not allowed"):
        place.open().submit(replace(place.request("1"), tuned_model_id=identifier))


def test_generate_needs_a_tuned_model(place: LocalPlace, tiny: BaseModelRef, tmp_path: Path) -> None:
    """A location without a tuned model is an error that the user can fix."""
    with pytest.raises(NotFoundError, match="does not hold a tuned model"):
        place.open().generate(TunedModel("tunedModels/x", tiny, str(tmp_path)), ["1"], GenerateOptions())


def test_a_closed_backend_accepts_no_work(place: LocalPlace, tiny: BaseModelRef) -> None:
    """After leaving, submit and generate raise; poll still answers."""
    backend = place.open()
    with backend:
        ref = backend.submit(place.long_request("1"))
    with pytest.raises(BackendError, match="was closed"):
        backend.submit(place.request("2"))
    with pytest.raises(BackendError, match="was closed"):
        backend.generate(tiny, ["1"], GenerateOptions())
    failure = backend.poll([ref])[ref].failure
    assert failure is not None
    assert failure.kind == FailureKind.LOST


def test_a_cancelled_job_can_keep_its_tuned_model(place: LocalPlace, engine_cache: Path, tiny: BaseModelRef) -> None:
    """It can be called by this process and a later one; submitted again, the job starts from the beginning and replaces it."""
    request = place.long_request("1")
    with LocalBackend(place.runs, engine_cache, EngineSettings("cpu", 1), keep_cancelled=True) as backend:
        ref = backend.submit(request)
        wait_for_steps(backend, ref, 2)
        backend.cancel(ref)
        status = wait_for_end(backend, ref)
        assert status.state is JobState.CANCELLED
        assert status.tuned_model is not None
        assert len(backend.generate(status.tuned_model, ["1"], GenerateOptions(max_output_tokens=2))) == 1
        assert backend.find(request.key, request.tuned_model_id) is None
    with place.open() as later:
        found = later.poll([ref])[ref]
        assert (found.state, found.tuned_model) == (JobState.CANCELLED, status.tuned_model)
        assert found.snapshots[: len(status.snapshots)] == status.snapshots
        again = later.submit(place.request("1"))
        assert again != ref
        assert wait_for_end(later, again).state is JobState.SUCCEEDED


def test_prompts_to_several_models_are_answered_together(
    place: LocalPlace, backend: LocalBackend, tiny: BaseModelRef, tmp_path: Path
) -> None:
    """Each prompt has its own options, parts and error."""
    parts: list[list[str]] = [[], [], []]
    prompts = [
        Prompt("twenty two", GenerateOptions(max_output_tokens=12)),
        Prompt("8", GenerateOptions(), str(tmp_path / "missing")),
        Prompt("one", GenerateOptions(max_output_tokens=6, temperature=1.0, seed=3)),
    ]
    on_parts = [lambda part, said=said: said.append(part.text) for said in parts]
    asked = backend.ask(tiny, prompts, on_parts)
    first, last = asked[0].result(), asked[2].result()
    assert ["".join(said) for said in parts] == [first.text, "", last.text]
    with pytest.raises(NotFoundError, match="missing"):
        asked[1].result()
    assert backend.answer(tiny, ["one"], prompts[2].options) == [last]
    with pytest.raises(InputError, match="1 of 2 inputs cannot be answered; number 2: the input takes"):
        backend.answer(tiny, ["8", "8 " * 1000], GenerateOptions())


def test_an_answer_is_streamed(place: LocalPlace, backend: LocalBackend, tiny: BaseModelRef) -> None:
    """Its parts arrive while it is generated, and add up to its text."""
    parts: list[str] = []
    (answer,) = backend.answer(tiny, ["twenty two"], GenerateOptions(max_output_tokens=12), parts.append)
    assert "".join(parts) == answer.text
    assert 1 <= answer.tokens <= 12


WITHOUT_DESCRIPTORS = """
import os, resource, sys
from pathlib import Path
from tests.engine.tiny_model import model_of, request_of
from tunerun.backends.local import LocalBackend
from tunerun.engine.settings import EngineSettings
from tunerun.errors import AccessError
from tunerun.job import JobState
from tunerun.testing.waiting import wait_for_end, wait_until

def refusal(backend, ref):
    try:
        backend.poll([ref])
    except AccessError as error:
        return str(error)
    return None

backend = LocalBackend(Path("runs"), Path(sys.argv[2]), EngineSettings("cpu", 1))
backend.find("a" * 64, "tiny-a")
resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
kept = []
while True:
    try:
        kept.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        break
for _ in range(4):  # enough to look the base model up; a process needs seven
    os.close(kept.pop())
ref = backend.submit(request_of(model_of(Path(sys.argv[1]))))
wait_until(lambda: refusal(backend, ref) is not None, "a refusal")
print(refusal(backend, ref))
for descriptor in kept:
    os.close(descriptor)
wait_until(lambda: refusal(backend, ref) is None, "an engine")
print(wait_for_end(backend, ref).state)
backend.__exit__(None, None, None)
"""


def test_too_few_descriptors_stop_the_run_and_fail_no_job(
    tiny: BaseModelRef, engine_cache: Path, tmp_path: Path
) -> None:
    """`poll` raises as long as no engine can start; the job waits, and is trained once one can."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_DESCRIPTORS, tiny.source, str(engine_cache)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    said, _, state = done.stdout.strip().partition("\n")
    assert "the engine's process cannot start: Too many open files; raise this machine's limits" in said, done.stderr
    assert state == "SUCCEEDED"
