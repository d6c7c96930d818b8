"""Resuming: a job whose process dies continues after its last complete epoch and ends with the same bits."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.observer import Recording
from tests.engine.tiny_model import EXAMPLES, HELD_OUT, request_of
from tunerun.engine import resuming, tuned_model
from tunerun.engine.network import LoadedModel
from tunerun.engine.observer import TrainingOutcome
from tunerun.engine.pack import Pack
from tunerun.files import partial_folder
from tunerun.job import BaseModelRef, JobState, TuningHyperparameters, TuningRequest
from tunerun.workers import states as states_of

STEPS = 3  # of an epoch: seven examples, three at once
EPOCHS = 4


def requests_of(tiny: BaseModelRef, **settings: Any) -> list[TuningRequest]:
    """Requests of one training run: with fewer and more epochs, the best epoch, a mean, and checkpoints."""
    longest = request_of(tiny, key="a", epoch_count=EPOCHS, learning_rate=0.02, validation=HELD_OUT, **settings)

    def another(key: str, **changes: Any) -> TuningRequest:
        chosen = replace(longest.hyperparameters, **changes)
        return replace(longest, key=key * 64, tuned_model_id=f"tiny-{key}", hyperparameters=chosen)

    return [
        replace(longest, keeps_epochs=True),
        another("b", epoch_count=EPOCHS - 1),
        another("c", keep="best"),
        another("d", average_last=2),
    ]


def train(
    base: LoadedModel, requests: list[TuningRequest], folder: Path | None, *, most: int = 1, steps: int | None = None
) -> Recording:
    """Train to the end, or for some steps only, as if the process had died then."""
    observer = Recording()
    pack = Pack(base, observer, most=most, states=folder)
    pack.add(requests)
    while not pack.is_empty and steps != 0:
        for outcome in pack.step():
            observer.outcomes[outcome.request.key] = outcome
        steps = None if steps is None else steps - 1
    return observer


def assert_same(found: Recording, expected: Recording, request: TuningRequest) -> None:
    assert found.losses(request) == expected.losses(request)
    assert [one.step for one in found.snapshots[request.key]] == list(range(1, len(found.losses(request)) + 1))
    assert found.validation[request.key] == expected.validation[request.key]
    assert found.kept_steps.get(request.key) == expected.kept_steps.get(request.key)
    ours, theirs = found.adapters[request.key], expected.adapters[request.key]
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    costs = {"train/seconds", "train/peak_bytes"}
    measured = [
        {name: value for name, value in one.outcomes[request.key].metrics.items() if name not in costs}
        for one in (found, expected)
    ]
    assert measured[0] == measured[1]


@pytest.fixture(scope="module")
def whole(base: LoadedModel, tiny: BaseModelRef) -> Recording:
    """The result of a process that is not interrupted."""
    return train(base, requests_of(tiny), None)


@pytest.mark.parametrize("stopped_after", range(1, EPOCHS * STEPS))
def test_a_job_continues_after_its_last_complete_epoch(
    base: LoadedModel, tiny: BaseModelRef, tmp_path: Path, whole: Recording, stopped_after: int
) -> None:
    """Whatever the step of the interruption, the result has the same bits, and all snapshots are reported once, in order."""
    requests = requests_of(tiny)
    first = train(base, requests, tmp_path, steps=stopped_after)
    left = [request for request in requests if request.key not in first.outcomes]
    assert len(list(tmp_path.iterdir())) == (stopped_after >= STEPS)
    again = train(base, left, tmp_path)
    for request in left:
        assert_same(again, whole, request)
    assert list(tmp_path.iterdir()) == []


def test_a_schedule_and_clipping_continue(base: LoadedModel, tiny: BaseModelRef, tmp_path: Path) -> None:
    """The learning rate and the clipped gradient of each step are those of the uninterrupted job."""
    [request, *_others] = requests_of(tiny, schedule="cosine", warmup_fraction=0.2, max_grad_norm=0.5)
    train(base, [request], tmp_path, steps=STEPS + 1)
    assert_same(train(base, [request], tmp_path), train(base, [request], None), request)


def test_one_of_several_jobs_continues_alone(
    base: LoadedModel, tiny: BaseModelRef, tmp_path: Path, whole: Recording
) -> None:
    """Jobs that are submitted again one after another continue as one training run."""
    longest, shorter, best, mean = requests_of(tiny)
    train(base, [longest, shorter, best, mean], tmp_path, steps=STEPS)
    observer = Recording()
    pack = Pack(base, observer, states=tmp_path)
    pack.add([shorter])
    list(pack.step())
    assert len(observer.losses(shorter)) == STEPS + 1
    pack.add([mean, best, longest])
    while not pack.is_empty:
        for outcome in pack.step():
            observer.outcomes[outcome.request.key] = outcome
    for request in (longest, shorter, best, mean):
        assert_same(observer, whole, request)
    assert observer.finished[shorter.key].training_run in {mean.key, best.key, longest.key}


def test_a_paused_job_continues_at_its_step(
    base: LoadedModel, tiny: BaseModelRef, tmp_path: Path, whole: Recording
) -> None:
    """Its state is saved in the middle of an epoch too, and no tuned model is written."""
    [longest, *_others] = requests_of(tiny)
    observer = Recording(cancel_after=STEPS + 2)
    observer.paused.add(longest.key)
    pack = Pack(base, observer, keep_cancelled=True, states=tmp_path)
    pack.add([longest])
    outcomes: list[TrainingOutcome] = []
    while not pack.is_empty:
        outcomes += pack.step()
    assert [(one.state, one.trained) for one in outcomes] == [(JobState.CANCELLED, None)]
    again = Recording()
    resumed = Pack(base, again, states=tmp_path)
    resumed.add([longest])
    list(resumed.step())
    assert len(again.losses(longest)) == STEPS + 3
    assert_same(train(base, [longest], tmp_path), whole, longest)


def test_a_cancelled_or_failed_job_leaves_no_state(base: LoadedModel, tiny: BaseModelRef, tmp_path: Path) -> None:
    """The saved state is removed, because no job will resume it."""
    [longest, *_others] = requests_of(tiny)
    pack = Pack(base, Recording(cancel_after=STEPS + 1), states=tmp_path)
    pack.add([longest])
    while not pack.is_empty:
        list(pack.step())
    assert list(tmp_path.iterdir()) == []
    diverges = replace(longest, hyperparameters=TuningHyperparameters(batch_size=7, learning_rate=1e30))
    train(base, [diverges], tmp_path)
    assert list(tmp_path.iterdir()) == []


def damage_tensors(folder: Path) -> None:
    file = folder / resuming.TENSORS_FILE
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def of_another_version(folder: Path) -> None:
    file = folder / resuming.STATE_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format_version": 99}))


def half_written(folder: Path) -> None:
    (folder / resuming.TENSORS_FILE).unlink()


def of_another_trial(folder: Path) -> None:
    file = folder / resuming.STATE_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"requests": {"f" * 64: False}}))


@pytest.mark.parametrize("change", [damage_tensors, of_another_version, half_written, of_another_trial])
def test_a_state_that_does_not_fit_is_ignored(
    base: LoadedModel, tiny: BaseModelRef, tmp_path: Path, whole: Recording, change: Any
) -> None:
    """The job starts from the beginning."""
    [longest, *_others] = requests_of(tiny)
    train(base, [longest], tmp_path, steps=STEPS)
    [folder] = tmp_path.iterdir()
    change(folder)
    observer = Recording()
    pack = Pack(base, observer, states=tmp_path)
    pack.add([longest])
    list(pack.step())
    assert observer.losses(longest) == whole.losses(longest)[:1]


def test_a_state_belongs_to_one_training_run(base: LoadedModel, tiny: BaseModelRef, tmp_path: Path) -> None:
    """A request with another seed, rate or example does not resume it, even with the same key."""
    [longest, *_others] = requests_of(tiny)
    train(base, [longest], tmp_path, steps=STEPS)
    for other in (replace(longest, seed=5), replace(longest, training=EXAMPLES[1:])):
        assert len(train(base, [other], tmp_path, steps=1).losses(other)) == 1


def test_a_full_disk_does_not_end_a_job(
    base: LoadedModel, tiny: BaseModelRef, tmp_path: Path, whole: Recording
) -> None:
    """If no state can be written, the jobs end as without one, and each is reported once."""
    requests = requests_of(tiny)
    no_folder = tmp_path / "a file"
    no_folder.touch()
    found = train(base, requests, no_folder)
    for request in requests:
        assert_same(found, whole, request)
    assert sorted(found.without_state) == [(request.key, "Not a directory") for request in requests]


def test_states_that_no_job_resumes_are_removed(base: LoadedModel, tiny: BaseModelRef, tmp_path: Path) -> None:
    """States of ended jobs, old states and incomplete folders are removed; the state of an interrupted job is kept."""
    [ended, *_others] = requests_of(tiny)
    for request in (ended, replace(ended, key="e" * 64, seed=1), replace(ended, key="f" * 64, seed=2)):
        train(base, [request], tmp_path, steps=STEPS)
    states = {next(iter(keys)): name for name, keys in states_of.keys(tmp_path).items()}
    os.utime(tmp_path / states["f" * 64] / resuming.STATE_FILE, (0, 0))
    (tmp_path / ".training.0.partial").mkdir()
    record, finished = tuned_model.record_of(ended, base.identity, base.chat), tuned_model.FinishedJob("tiny-a.1", ())
    tuned_model.write(tmp_path / "tiny-a", record, finished, lambda folder: (folder / tuned_model.WEIGHTS_FILE).touch())
    with partial_folder(tmp_path / "tiny-b"):
        resuming.clean(tmp_path)
        assert {file.name for file in tmp_path.iterdir()} == {"tiny-a", ".tiny-b.partial", states["e" * 64]}
