"""Loss curves from events, checkpoints and result files."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.backends.openai.place import OpenAIPlace, ended
from tests.rigs.http_service import Json
from tests.rigs.openai_service import OpenAIService, Script, as_base64
from tunerun.backends.openai import OpenAIBackend
from tunerun.job import (
    Checkpoint,
    EpochLoss,
    JobState,
    TuningHyperparameters,
)


def test_a_running_job_has_its_curve_so_far(place: OpenAIPlace, backend: OpenAIBackend) -> None:
    """Each poll returns the new steps with their epochs, and requests new events only."""
    place.service.script.steps_per_look = 150
    long = replace(place.request("1"), hyperparameters=TuningHyperparameters(200, 3, None, 1.0))
    ref = backend.submit(long)
    steps: list[int] = []
    reads = []
    while True:
        before = len(place.service.requests)
        status = backend.poll([ref], {ref: len(steps)})[ref]
        steps += [snapshot.step for snapshot in status.snapshots]
        reads.append(len([each for each in place.service.requests[before:] if each.path.endswith("/events")]))
        if status.state.is_finished:
            break
    assert steps == list(range(1, 601))
    assert status.snapshots[-1].epoch == 200
    assert reads == [2, 2, 2, 2]  # 150 new events are on two pages, and the second one has a known event
    assert [one.epoch for one in status.validation] == list(range(1, 201))


def test_events_may_be_listed_oldest_first(place: OpenAIPlace, backend: OpenAIBackend) -> None:
    """The next request begins after the newest event that was read."""
    place.service.script.is_newest_first = False
    place.service.script.steps_per_look = 2
    ref = backend.submit(place.request("1"))
    counts = [len(backend.poll([ref])[ref].snapshots) for _ in range(3)]
    assert counts == [2, 4, 6]
    asked = [each.parameters.get("after") for each in place.service.requests if each.path.endswith("/events")]
    assert asked == [None, "ftevent-ftjob-1-2", "ftevent-ftjob-1-4"]


def without_data(event: Json) -> Json:
    """An event as of Azure, which has its numbers in the message alone, without the total of steps."""
    step = event["data"]["step"]
    return {**event, "data": None, "message": f"Step {step}: training loss={1 / step:.5f}"}


@pytest.mark.parametrize("result", [lambda content: content, as_base64], ids=["plain", "base64"])
def test_a_curve_with_gaps_is_completed_by_the_result_file(result: Any) -> None:
    """If events have only every second step, the curve is complete once the file exists, with each step once."""
    script = Script(steps_per_look=3, every=2, event=without_data, result=result)
    with OpenAIService(script) as service, OpenAIPlace(service).open() as backend:
        request = OpenAIPlace(service).request("1")
        ref = backend.submit(request)
        assert backend.poll([ref])[ref].snapshots == ()
        whole = backend.poll([ref])[ref]
        assert whole.state is JobState.SUCCEEDED
        assert [(s.step, s.epoch) for s in whole.snapshots] == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2)]
        assert [s.mean_loss for s in whole.snapshots] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6], abs=1e-5)
        assert whole.validation == ()


def test_rows_without_a_number_are_skipped() -> None:
    """NaN, empty cells and truncated lines of a result file are not steps of a curve."""
    rows = b'"step","train_loss","full_valid_loss"\n1,0.5,\n2,nan,\n3,0.25,0.75\n,,\n4'
    script = Script(event=lambda event: {**event, "data": {}, "message": ""}, result=lambda _: rows)
    with OpenAIService(script) as service, OpenAIPlace(service).open() as backend:
        status = ended(backend, replace(OpenAIPlace(service).request("1"), key="1" * 64))
        assert [(s.step, s.mean_loss) for s in status.snapshots] == [(1, 0.5), (3, 0.25)]


def test_checkpoints_are_kept_by_epoch(place: OpenAIPlace, backend: OpenAIBackend) -> None:
    """Each has a name of its own by which it can be called, the last one that of the tuned model."""
    request = replace(place.request("1"), hyperparameters=TuningHyperparameters(4, 3, None, 1.0))
    status = ended(backend, request)
    name = "ft:smollm2-135m:org:tiny-1-111111111111:ftjob-1"
    assert status.checkpoints == (
        Checkpoint(2, 6, f"{name}:ckpt-step-6"),
        Checkpoint(3, 9, f"{name}:ckpt-step-9"),
        Checkpoint(4, 12, name),
    )
    assert status.tuned_model is not None
    assert status.tuned_model.checkpoints == status.checkpoints
    assert status.validation == tuple(EpochLoss(epoch, 1 / epoch) for epoch in (1, 2, 3, 4))
    assert status.metrics == {"validation/loss": 0.25, "train/seconds": 11.0}
