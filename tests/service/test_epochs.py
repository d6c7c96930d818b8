"""Checkpoints after each epoch, and pausing, in the core that every wire builds on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.engine.tiny_model import EXAMPLES, HELD_OUT
from tests.rigs.running_service import RunningService
from tunerun.engine.tuned_model import WEIGHTS_FILE, epochs_folder
from tunerun.examples import Example, Turn
from tunerun.generation import GenerateOptions, Prompt
from tunerun.service.app import Service, Settings
from tunerun.service.core.model_calls import ServedModels
from tunerun.service.core.new_model import NewModel
from tunerun.service.core.problems import Code, ServiceError
from tunerun.service.core.records import ModelState, TunedModelRow
from tunerun.testing.waiting import wait_until

NEW = NewModel("tiny", EXAMPLES, epoch_count=3, batch_size=4, learning_rate=0.01, validation=HELD_OUT, seed=7)
STEPS = 2
"""Of an epoch."""


@pytest.fixture(autouse=True)
def _clean(running: RunningService) -> Iterator[None]:
    """Leave the shared service as it was."""
    yield
    for row in running.service.library.newest(running.key, 1000):
        running.service.library.delete(running.key, row.id)


def finished(service: Service, identifier: str) -> TunedModelRow:
    def row() -> TunedModelRow:
        row = service.state.tuned_model(identifier)
        assert row is not None
        return row

    wait_until(lambda: row().state is not ModelState.CREATING, f"{identifier} is finished")
    return row()


def weights(service: Service, folder: str) -> bytes:
    return (service.tuner.folder_of(folder) / WEIGHTS_FILE).read_bytes()


def test_each_epoch_leaves_a_checkpoint_that_answers(running: RunningService) -> None:
    """Bit-identical to a job of that many epochs; the last is the tuned model; they are deleted with it."""
    service = running.service
    service.library.create(running.key, replace(NEW, identifier="kept", keeps_epochs=True))
    service.library.create(running.key, replace(NEW, identifier="short", epoch_count=1))
    row, short = finished(service, "kept"), finished(service, "short")
    epochs = service.library.epochs(row)
    assert [(one.epoch, one.step) for one in epochs] == [(1, STEPS), (2, 2 * STEPS), (3, 3 * STEPS)]
    assert epochs[-1].folder == row.folder
    assert epochs[-1].validation_loss == row.validation_loss
    assert weights(service, epochs[0].folder) == weights(service, short.folder)
    assert [one.folder for one in service.library.epochs(short)] == [""]
    assert epochs[0].validation_loss == short.validation_loss
    models = ServedModels(service.library, service.tuner, service.answerer)
    prompt = Prompt("twenty two", GenerateOptions(max_output_tokens=8))
    served = [models.tuned(running.key, "kept", STEPS), models.tuned(running.key, "short")]
    texts = [models.ask(one, [replace(prompt, adapter=one.adapter)])[0].result().text for one in served]
    assert texts[0] == texts[1]
    with pytest.raises(ServiceError, match="step 5 of tunedModels/kept"):
        models.tuned(running.key, "kept", 5)
    service.library.delete(running.key, "kept")
    wait_until(lambda: not service.tuner.folder_of(row.folder).exists(), "its folder is gone")
    wait_until(lambda: not epochs_folder(service.tuner.folder_of(row.folder)).exists(), "its checkpoints are gone")
    assert service.state.epochs(row.key) == []


def test_each_job_has_its_own_seed(running: RunningService) -> None:
    """Another seed gives another loss curve, the same one the same curve."""
    service = running.service
    for number, seed in enumerate((7, 7, 8)):
        service.library.create(running.key, replace(NEW, identifier=f"seed{number}", seed=seed, epoch_count=1))
    losses = [[s.mean_loss for s in service.library.curve(finished(service, f"seed{n}"))] for n in range(3)]
    assert losses[0] == losses[1] != losses[2]


def test_a_paused_job_lets_others_go_first(running: RunningService) -> None:
    """It keeps its curve; resumed, it gives the same tuned model and checkpoints; an ended job cannot be paused."""
    service, library, key = running.service, running.service.library, running.key
    library.create(key, replace(NEW, identifier="paused", epoch_count=30, keeps_epochs=True))
    wait_until(lambda: len(service.state.epochs(row_of(service, "paused").key)) > 1, "two epochs have ended")
    assert library.pause(key, "paused").is_paused
    library.create(key, replace(NEW, identifier="next", epoch_count=1))
    finished(service, "next")
    waiting = row_of(service, "paused")
    assert waiting.is_paused
    assert waiting.started_at is None
    assert waiting.state is ModelState.CREATING
    before = library.curve(waiting)
    assert 0 < len(before) < waiting.total_steps
    assert not library.resume(key, "paused").is_paused
    row = finished(service, "paused")
    assert row.state is ModelState.ACTIVE
    assert library.curve(row)[: len(before)] == before
    library.create(key, replace(NEW, identifier="straight", epoch_count=30))
    straight = finished(service, "straight")
    assert weights(service, row.folder) == weights(service, straight.folder)
    assert [s.mean_loss for s in library.curve(row)] == [s.mean_loss for s in library.curve(straight)]
    assert [one.epoch for one in library.epochs(row)] == list(range(1, 31))
    with pytest.raises(ServiceError, match="its job has ended") as refused:
        library.pause(key, "paused")
    assert refused.value.code is Code.FAILED_PRECONDITION


def test_a_paused_job_that_is_cancelled_ends(running: RunningService) -> None:
    """Without being resumed first, and its saved state is removed."""
    service, library, key = running.service, running.service.library, running.key
    library.create(key, replace(NEW, identifier="ended", epoch_count=1000, keeps_epochs=True))
    wait_until(lambda: len(service.state.epochs(row_of(service, "ended").key)) > 1, "two epochs have ended")
    library.pause(key, "ended")
    wait_until(lambda: row_of(service, "ended").started_at is None, "it has stopped")
    assert [*(running.state / "tuned_models").glob("training.*")]
    library.cancel(key, "ended")
    assert finished(service, "ended").error_code == Code.CANCELLED.number
    wait_until(lambda: not [*(running.state / "tuned_models").glob("training.*")], "its state is gone")


def test_a_restart_in_the_middle_of_a_job(settings: Settings, tmp_path: Path) -> None:
    """Each epoch is recorded once, with the files of the job that ended; a paused job stays paused."""
    own = replace(settings, state=tmp_path / "state")
    conversation = Example("two", "2", "Answer with a number.", (Turn("one", "1", is_learned=False),))
    with RunningService(own) as running:
        running.service.library.create(running.key, replace(NEW, identifier="long", epoch_count=25, keeps_epochs=True))
        new = replace(NEW, identifier="later", training=(conversation,), metadata={"a": "b"}, suffix="x", epoch_count=1)
        running.service.library.create(running.key, new)
        running.service.library.pause(running.key, "later")
        key = row_of(running.service, "long").key
        wait_until(lambda: len(running.service.state.epochs(key)) > 1, "two epochs have ended")
    with RunningService(own) as running:
        row = finished(running.service, "long")
        assert row.state is ModelState.ACTIVE
        epochs = running.service.library.epochs(row)
        assert [one.epoch for one in epochs] == list(range(1, 26))
        assert all(weights(running.service, one.folder) for one in epochs)
        later = row_of(running.service, "later")
        assert (later.is_paused, later.metadata, later.suffix) == (True, {"a": "b"}, "x")
        assert running.service.library.examples(later) == (conversation,)


def row_of(service: Service, identifier: str) -> TunedModelRow:
    found = service.state.tuned_model(identifier)
    assert found is not None
    return found
