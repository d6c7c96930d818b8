"""A sweep that is killed at any instant and started again ends as if nothing had happened."""

from __future__ import annotations

import itertools
import random
import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.crash.kills import Instant, Kill, Run
from tests.crash.rig import ENVIRONMENT, Outcome, Rig, states
from tunerun.testing.waiting import wait_until

pytestmark = [
    pytest.mark.process,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
]

AT_SERVICE = (Instant.RECEIVED, Instant.APPLIED, Instant.ANSWERED)
SHARES = 2
"""Each instant's points are shared out among so many tests, so that both cores are at work to the end."""


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing kills.

    Attributes:
        outcome: what it ends with.
        requests: the numbers of its requests, by what is asked for.
    """

    outcome: Outcome
    requests: dict[str, list[int]]


@cache
def undisturbed_of(_sweep: str, _address: str) -> list[Undisturbed]:
    """Room for the run of a sweep at a service, made by the first test that needs it."""
    return []


def undisturbed(rig: Rig) -> Undisturbed:
    """A run that nothing kills: every trial is submitted once, and the best is found."""
    known = undisturbed_of(rig.sweep, rig.service.address)
    if not known:
        known.append(run_undisturbed(rig))
    return known[0]


def run_undisturbed(rig: Rig) -> Undisturbed:
    place = rig.place()
    outcome = rig.outcome(place, rig.run(place))
    assert [trial["state"] for trial in outcome.document["trials"]] == ["SUCCEEDED"] * len(outcome.document["trials"])
    assert set(outcome.created.values()) == {1}
    assert len(outcome.created) >= len(outcome.document["trials"])
    kinds: dict[str, list[int]] = {}
    for request in rig.service.requests:
        kinds.setdefault(f"{request.method} {re.sub('[a-z]+-[0-9]+', 'ID', request.path)}", []).append(request.number)
    return Undisturbed(outcome, kinds)


def check_points(rig: Rig, instant: Instant, numbers: Iterable[int]) -> None:
    """Kill at each of the points, all of which have to come."""
    expected = undisturbed(rig).outcome
    for number in numbers:
        struck, outcome = rig.survives(Kill(instant, number))
        assert struck, f"{instant} {number}"
        assert outcome == expected, f"killed at {instant} {number}"


def check_every_point(rig: Rig, instant: Instant, first: int, stride: int) -> int:
    """Kill at the first, first + stride, ... until there is no such point left; return how many there were."""
    expected = undisturbed(rig).outcome
    for points in itertools.count():
        kill = Kill(instant, first + points * stride)
        struck, outcome = rig.survives(kill)
        assert outcome == expected, f"killed at {kill}"
        if not struck:
            return points
    raise AssertionError("there is a last point")


@pytest.mark.parametrize("share", range(SHARES))
def test_a_tracked_sweep_survives_a_kill_at_every_write(tracked: Rig, share: int) -> None:
    """The table, the service's record, every curve and all of MLflow are those of an undisturbed run."""
    assert check_every_point(tracked, Instant.WRITE, 1 + share, SHARES) >= 28 // SHARES


def test_a_tracked_sweep_survives_a_kill_between_two_writes(tracked: Rig) -> None:
    """With a kill at every fourth request.

    What is shown in MLflow comes from the ledger alone, so all instants between the same two writes are one to the
    tracker; what the service makes of them is what the longer sweep is killed at.
    """
    assert check_every_point(tracked, Instant.APPLIED, 1, 4) >= 3


@pytest.mark.parametrize("share", range(SHARES))
def test_a_kill_while_tracking_duplicates_nothing(tracked: Rig, share: int) -> None:
    """Killed at every seventh commit to MLflow's store, each run and each point exists once in the end."""
    assert check_every_point(tracked, Instant.SHOWN, 1 + 7 * share, 7 * SHARES) >= 4


def test_a_kill_while_the_store_is_created_leaves_no_damage(unmade: Rig) -> None:
    """After a kill in the first seconds of a project, the next run creates the store and tracks everything.

    At the first and in the middle of 1,668 statements: a store is made beside its place and renamed when it is whole,
    so that what a kill leaves is an empty file or half a store, and nothing reads either.
    """
    check_points(unmade, Instant.MADE, (1, 834))


def test_a_longer_sweep_survives_a_kill_at_every_write(untracked: Rig) -> None:
    """Four trials, two at a time: from the write on at which the two are under way, as in the tracked sweep."""
    assert check_every_point(untracked, Instant.WRITE, 6, 1) >= 15


@pytest.mark.parametrize("share", range(SHARES))
def test_a_longer_sweep_survives_a_kill_at_every_request(untracked: Rig, share: int) -> None:
    """The last request took effect, and its response is lost."""
    assert check_every_point(untracked, Instant.APPLIED, 1 + share, SHARES) >= 25 // SHARES


@pytest.mark.parametrize("instant", [Instant.RECEIVED, Instant.ANSWERED])
def test_a_longer_sweep_creates_nothing_twice(untracked: Rig, instant: Instant) -> None:
    """Killed before and after the service creates each job; for any other request these are the same instant."""
    creating = undisturbed(untracked).requests["POST /v1beta/tunedModels"]
    assert len(creating) == 4
    check_points(untracked, instant, creating)


@pytest.mark.parametrize("instant", AT_SERVICE)
def test_a_sweep_at_an_openai_service_creates_nothing_twice(at_openai: Rig, instant: Instant) -> None:
    """Killed at every upload and every creation of a job, and, an effect done, at the first request of each kind."""
    kinds = undisturbed(at_openai).requests
    creating = [*kinds["POST /v1/files"], *kinds["POST /v1/fine_tuning/jobs"]]
    assert len(creating) == 4
    firsts = [numbers[0] for numbers in kinds.values()] if instant is Instant.APPLIED else []
    check_points(at_openai, instant, sorted({*creating, *firsts}))


def test_a_sweep_at_an_openai_service_survives_a_kill_between_two_requests(at_openai: Rig) -> None:
    """At every fourth commit to the ledger."""
    assert check_every_point(at_openai, Instant.WRITE, 1, 4) >= 3


@pytest.mark.parametrize("seed", range(4))
def test_a_sweep_survives_being_killed_again_and_again(untracked: Rig, seed: int) -> None:
    """Killed three times at random points, it still has the same result."""
    draw = random.Random(seed)
    kills = [Kill(draw.choice([Instant.WRITE, *AT_SERVICE]), draw.randint(1, 12)) for _ in range(3)]
    _, outcome = untracked.survives(*kills)
    assert outcome == undisturbed(untracked).outcome, f"killed at {', '.join(map(str, kills))}"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_hosted_jobs_running(untracked: Rig, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM end the command at once with exit code 130 and the command to resume; no job is cancelled or duplicated."""
    expected = undisturbed(untracked).outcome
    place = untracked.place()
    untracked.service.script.steps_per_look = 0
    run = Run(untracked.arguments, place, ENVIRONMENT)
    wait_until(lambda: len(untracked.service.created) == 2, "two jobs are created")
    run.interrupt(number)
    ended = run.wait(timeout_s=10)
    assert ended.exit_code == 130
    assert "interrupted; run the same command to continue:\n  tunerun run" in ended.stderr
    assert "jobs that are under way at a service continue" in ended.stderr
    assert not [request for request in untracked.service.requests if "cancel" in request.path]
    untracked.service.script.steps_per_look = 3
    assert untracked.outcome(place, untracked.run(place)) == expected


def test_an_interrupt_is_tracked_at_once(tracked: Rig) -> None:
    """After an interrupted process has ended, nothing is Running in MLflow; the next run has the undisturbed result."""
    expected = undisturbed(tracked).outcome
    place = tracked.place()
    tracked.service.script.steps_per_look = 0
    run = Run(tracked.arguments, place, ENVIRONMENT)
    store = place / "runs" / "mlflow.db"
    wait_until(lambda: states(store).get(("trial", "1")) == "RUNNING", "both trials are shown")
    run.interrupt(signal.SIGINT)
    assert run.wait(timeout_s=20).exit_code == 130
    assert set(states(store).values()) == {"KILLED"}
    tracked.service.script.steps_per_look = 3
    assert tracked.outcome(place, tracked.run(place)) == expected


def test_the_key_is_in_no_file(tracked: Rig) -> None:
    """No file of a run contains the API key."""
    place: Path = tracked.place()
    tracked.outcome(place, tracked.run(place))
    for file in place.rglob("*"):
        assert not file.is_file() or ENVIRONMENT["GEMINI_API_KEY"].encode() not in file.read_bytes(), file
