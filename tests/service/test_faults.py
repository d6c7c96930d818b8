"""A sweep at a real service, with a proxy between the two that injects faults: nothing is tuned twice or lost."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import stamina

import tunerun
from tests.engine.tiny_model import EXAMPLES, HELD_OUT
from tests.rigs.fault_proxy import (
    ANSWER_LOST,
    CUT,
    EMPTY,
    NOT_HTTP,
    NOT_JSON,
    RESET_BEFORE,
    TRUNCATED,
    Answer,
    Fault,
    FaultProxy,
    Request,
    Rule,
    by_rules,
    error,
    no_fault,
    redirect,
    refused,
    slow,
)
from tests.rigs.running_service import RunningService
from tests.service.client import Client, body
from tunerun.job import BaseModelRef, JobState
from tunerun.ledger import Ledger
from tunerun.planning import Trial
from tunerun.runner import SweepResult
from tunerun.runner.progress import Progress

RATES = (0.01, 0.02, 0.03)
SHORT_TIMEOUT_S, LONG_TIMEOUT_S = 0.4, 20.0
TOO_SLOW = slow(1.5 * SHORT_TIMEOUT_S)
FAULTS = (
    refused(0.1),
    RESET_BEFORE,
    ANSWER_LOST,
    error(429, retry_after_s=1),
    error(429, retry_delay_s=0.05),
    error(500),
    error(500, applied=True),
    error(503),
    error(503, applied=True),
    slow(0.0003),
    TOO_SLOW,
    NOT_HTTP,
    NOT_JSON,
    EMPTY,
    TRUNCATED,
    CUT,
)
REDIRECT = "redirect"
numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def no_waiting(running: RunningService, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As many attempts as ever, without the waits between them."""
    monkeypatch.setenv("GEMINI_API_KEY", running.key.secret)
    with stamina.set_testing(True, attempts=4):
        yield


@pytest.fixture
def proxy(running: RunningService) -> Iterator[FaultProxy]:
    with FaultProxy(running.address) as proxy:
        yield proxy


@pytest.fixture
def elsewhere(running: RunningService) -> Iterator[FaultProxy]:
    """The target of a redirect, which may not be followed."""
    with FaultProxy(running.address) as elsewhere:
        yield elsewhere
        assert elsewhere.requests == []


@pytest.fixture(params=[*FAULTS, REDIRECT], ids=str)
def fault(request: pytest.FixtureRequest, elsewhere: FaultProxy) -> Fault:
    return all_faults(elsewhere)[-1] if request.param == REDIRECT else request.param


def all_faults(elsewhere: FaultProxy) -> list[Fault]:
    return [*FAULTS, redirect(elsewhere.address.replace("127.0.0.1", "localhost"))]


class Notes(Progress):
    """Keeps what needs attention."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@dataclass(frozen=True)
class Outcome:
    """What came of a trial: its loss curve, and what the tuned and the base model answer."""

    losses: list[float]
    answers: list[str]


class Sweep:
    """A sweep over learning rates, at an address."""

    def __init__(self, folder: Path, tiny: BaseModelRef, address: str, trials: int, *overrides: str) -> None:
        rows = [{"text_input": one.text_input, "output": one.output} for one in (*EXAMPLES, HELD_OUT[0])]
        folder.mkdir()
        (folder / "rows.json").write_text(json.dumps(rows[:-1]))
        (folder / "held_out.json").write_text(json.dumps(rows[-1:]))
        self._experiment = tunerun.load(
            [
                f"name=faults-{next(numbers)}",
                f"dataset.path={folder / 'rows.json'}",
                f"dataset.validation.path={folder / 'held_out.json'}",
                "model=huggingface",
                f"model={{name: tiny, source: {tiny.source}}}",
                f"hyperparameters.learning_rate={','.join(map(str, RATES[:trials]))}",
                "hyperparameters.epoch_count=2",
                "hyperparameters.batch_size=4",
                "evaluation.metrics=[exact_match]",
                "evaluation.generation.max_output_tokens=4",
                "backend=gemini",
                f"backend.base_url={address}",
                "backend.poll_interval_s=0.05",
                f"backend.read_timeout_s={LONG_TIMEOUT_S}",
                "runner.backoff_s=0",
                "runner.unreachable_after_s=30",
                "tracking=none",
                f"paths.runs={folder / 'runs'}",
                f"paths.cache={folder / 'cache'}",
                *overrides,
            ]
        )
        self.notes: list[str] = []

    @property
    def trials(self) -> list[Trial]:
        return list(tunerun.plan(self._experiment).trials)

    @property
    def ids(self) -> list[str]:
        """Of the tuned models, by trial."""
        return [trial.request().tuned_model_id for trial in self.trials]

    def run(self) -> SweepResult:
        notes = Notes()
        result = tunerun.run(tunerun.plan(self._experiment), progress=notes)
        self.notes = notes.notes
        return result

    def outcomes(self) -> list[Outcome]:
        """Of each trial; fails where a key has succeeded twice, or its curve has a gap, or it was not measured."""
        trials = self.trials
        with Ledger(tunerun.plan(self._experiment).ledger_path) as ledger:
            return [_outcome(ledger, trial) for trial in trials]


def _outcome(ledger: Ledger, trial: Trial) -> Outcome:
    jobs = ledger.jobs(trial.key)
    assert [job.state for job in jobs].count(JobState.SUCCEEDED) == 1
    assert jobs[-1].state is JobState.SUCCEEDED
    snapshots = ledger.snapshots(jobs[-1].id)
    assert [snapshot.step for snapshot in snapshots] == list(range(1, trial.steps + 1))
    answers = []
    assert trial.validation is not None
    for subject in (trial.key, trial.baselines[0]):
        stored = ledger.answers(subject, trial.validation.digest, trial.answer_method)
        assert stored is not None
        answers.append(stored.texts[0])
    return Outcome([snapshot.mean_loss for snapshot in snapshots], answers)


SweepMaker = Callable[..., Sweep]


@pytest.fixture
def sweep_at(tmp_path: Path, tiny: BaseModelRef, client: Client) -> Iterator[SweepMaker]:
    """Makes sweeps; their tuned models are deleted at the end."""
    made: list[Sweep] = []

    def make(address: str, trials: int = 2, *overrides: str) -> Sweep:
        made.append(Sweep(tmp_path / f"sweep-{len(made)}", tiny, address, trials, *overrides))
        return made[-1]

    yield make
    for identifier in (identifier for sweep in made for identifier in sweep.ids):
        client.call("DELETE", f"/tunedModels/{identifier}")


@pytest.fixture(scope="module")
def undisturbed(running: RunningService, tiny: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    """What comes of a sweep that nothing happens to; the service's engines are warm after it."""
    with pytest.MonkeyPatch.context() as patch, Client(running.address, running.key.secret) as client:
        patch.setenv("GEMINI_API_KEY", running.key.secret)
        sweep = Sweep(tmp_path_factory.mktemp("undisturbed") / "sweep", tiny, running.address, 3)
        assert sweep.run().exit_code == 0
        for identifier in sweep.ids:
            client.good("DELETE", f"/tunedModels/{identifier}")
        return sweep.outcomes()


def check_whole(sweep: Sweep, result: SweepResult, undisturbed: list[Outcome]) -> None:
    """Every trial has succeeded and was measured, and all is as if nothing had happened."""
    assert result.exit_code == 0, (result.to_json(), sweep.notes)
    assert sweep.outcomes() == undisturbed[: len(sweep.trials)]


def check_created_once(proxy: FaultProxy) -> None:
    """By the proxy's record, no tuned model was created while there was one of that id."""
    alive: set[str] = set()
    for request in proxy.requests:
        if request.status != 200:
            continue
        if (request.method, request.path) == ("POST", "/v1beta/tunedModels"):
            assert request.parameters["tunedModelId"] not in alive
            alive.add(request.parameters["tunedModelId"])
        elif request.method == "DELETE":
            alive.discard(request.path.rpartition("/")[2])


def creations(proxy: FaultProxy) -> list[str]:
    created = [r for r in proxy.requests if (r.method, r.path, r.status) == ("POST", "/v1beta/tunedModels", 200)]
    return sorted(request.parameters["tunedModelId"] for request in created)


def timeout_for(fault: Fault) -> str:
    return f"backend.read_timeout_s={SHORT_TIMEOUT_S if fault is TOO_SLOW else LONG_TIMEOUT_S}"


def check_struck(proxy: FaultProxy, fault: Fault, times: int) -> None:
    """A fault was done so many times, and reached the service or not as it says."""
    struck = [request for request in proxy.requests if request.fault is not None]
    assert [(r.fault, r.status is not None) for r in struck] == [(fault, fault.applied)] * times


def test_a_disturbed_create_makes_one_tuned_model(
    fault: Fault, proxy: FaultProxy, sweep_at: SweepMaker, undisturbed: list[Outcome]
) -> None:
    """The create, the look-up after it and a poll are disturbed, and the run ends as if they had not been."""
    sweep = sweep_at(proxy.address, 2, timeout_for(fault))
    path = "/v1beta/tunedModels"
    proxy.choose = by_rules(
        Rule(fault, "POST", path),
        Rule(fault, "GET", f"{path}/{sweep.ids[0]}", first=2),
        Rule(fault, "GET", f"{path}/{sweep.ids[1]}", first=2),
    )
    result = sweep.run()
    check_struck(proxy, fault, 3)
    check_whole(sweep, result, undisturbed)
    assert creations(proxy) == sorted(sweep.ids)
    before = len(proxy.requests)
    check_whole(sweep, sweep.run(), undisturbed)
    assert len(proxy.requests) == before


@pytest.fixture
def left_over(client: Client) -> Callable[[Sweep], None]:
    """Makes a tuned model of a sweep's first trial that was cancelled, so that it has to be replaced."""

    def leave(sweep: Sweep) -> None:
        request = sweep.trials[0].request()
        payload = body(epochCount=100_000) | {"description": f"tunerun.key={request.key}"}
        operation = client.good("POST", "/tunedModels", payload, tunedModelId=request.tuned_model_id)["name"]
        client.good("POST", f"/{operation}:cancel")
        client.finished(request.tuned_model_id)

    return leave


def test_requests_that_are_safe_to_repeat_are_repeated(
    fault: Fault,
    proxy: FaultProxy,
    sweep_at: SweepMaker,
    left_over: Callable[[Sweep], None],
    undisturbed: list[Outcome],
) -> None:
    """Base model, look-up, operations, deletion, list and both models' answers are each disturbed once."""
    sweep = sweep_at(proxy.address, 3, timeout_for(fault))
    left_over(sweep)
    path = "/v1beta/tunedModels"
    proxy.choose = by_rules(
        Rule(fault, "GET", "/v1beta/models/tiny"),
        Rule(fault, "GET", f"{path}/{sweep.ids[0]}"),
        Rule(fault, "GET", f"{path}/{sweep.ids[0]}/operations"),
        Rule(fault, "DELETE", f"{path}/{sweep.ids[0]}"),
        Rule(fault, "GET", path),
        Rule(fault, "POST", "/v1beta/models/tiny:generateContent"),
        Rule(fault, "POST", f"{path}/{sweep.ids[0]}:generateContent"),
    )
    result = sweep.run()
    check_struck(proxy, fault, 7)
    check_whole(sweep, result, undisturbed)
    assert creations(proxy) == sorted(sweep.ids)
    before = len(proxy.requests)
    check_whole(sweep, sweep.run(), undisturbed)
    assert len(proxy.requests) == before


def test_an_outage_ends_the_run_with_a_reason(
    proxy: FaultProxy, elsewhere: FaultProxy, sweep_at: SweepMaker, undisturbed: list[Outcome]
) -> None:
    """Whatever happens to every request, the run ends with a reason and creates nothing; the next one completes."""
    sweep = sweep_at(proxy.address, 2, f"backend.read_timeout_s={SHORT_TIMEOUT_S}")
    for fault in all_faults(elsewhere):
        if fault.sent is Answer.as_sent and fault is not TOO_SLOW:  # there is an answer
            continue
        proxy.choose = lambda _, fault=fault: fault  # type: ignore[misc]
        result = sweep.run()
        assert result.exit_code == 1
        assert result.stopped
    with proxy.refusing():
        assert "refused" in (sweep.run().stopped or "")
    assert creations(proxy) == []
    proxy.forget()
    check_whole(sweep, sweep.run(), undisturbed)
    assert creations(proxy) == sorted(sweep.ids)


@pytest.mark.parametrize("fault", [ANSWER_LOST, error(503)], ids=str)
@pytest.mark.parametrize(
    ("method", "path", "first"),
    [
        ("GET", "/v1beta/tunedModels/.*", 1),
        ("POST", "/v1beta/tunedModels", 1),
        ("POST", "/v1beta/tunedModels", 2),
        ("GET", "/v1beta/tunedModels/.*", 3),
        ("POST", ".*:generateContent", 1),
    ],
    ids=["look-up", "create", "second create", "poll", "answers"],
)
def test_an_outage_in_the_middle_ends_the_run_and_the_next_one_continues(
    fault: Fault,
    method: str,
    path: str,
    first: int,
    proxy: FaultProxy,
    sweep_at: SweepMaker,
    undisturbed: list[Outcome],
) -> None:
    """From the first look-up, create, poll or answer on; what was created until then is used."""
    sweep = sweep_at(proxy.address, 2, "runner.unreachable_after_s=0.1")
    begins = by_rules(Rule(fault, method, path, first, times=None))
    has_begun: list[int] = []

    def choose(request: Request) -> Fault | None:
        if begins(request) is not None:
            has_begun.append(request.number)
        return fault if has_begun else None

    proxy.choose = choose
    result = sweep.run()
    assert has_begun
    assert result.exit_code == 1
    assert "no answer for" in (result.stopped or "")
    proxy.choose = no_fault
    check_whole(sweep, sweep.run(), undisturbed)
    assert creations(proxy) == sorted(sweep.ids)


@pytest.mark.parametrize("seed", range(8))
def test_whatever_happens_every_key_is_tuned_once(
    seed: int,
    proxy: FaultProxy,
    elsewhere: FaultProxy,
    sweep_at: SweepMaker,
    left_over: Callable[[Sweep], None],
    undisturbed: list[Outcome],
) -> None:
    """A dozen random faults: each run succeeds or states a reason, and at the end every trial is complete."""
    drawn = random.Random(seed)
    faults = drawn.choices(all_faults(elsewhere), k=12)
    sweep = sweep_at(proxy.address, 2 + seed % 2, f"backend.read_timeout_s={SHORT_TIMEOUT_S}")
    if seed % 4 < 2:
        left_over(sweep)

    def choose(_request: Request) -> Fault | None:
        return faults.pop() if faults and drawn.random() < 0.4 else None

    proxy.choose = choose
    result = sweep.run()
    while faults and result.exit_code == 1:
        assert result.stopped or sweep.notes or any(trial.failure for trial in result.verdict.trials)
        result = sweep.run()
    proxy.choose = no_fault
    check_whole(sweep, sweep.run(), undisturbed)
    check_created_once(proxy)
