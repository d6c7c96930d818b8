"""A training run that several trials share: each gets the result that it would have alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
import torch

from tests.engine import training
from tests.engine.observer import Recording
from tests.engine.tiny_model import EXAMPLES, HELD_OUT, request_of
from tunerun.engine import forms, lora
from tunerun.engine.encoding import encode_examples
from tunerun.engine.network import LoadedModel
from tunerun.engine.observer import TrainingOutcome
from tunerun.engine.pack import Pack
from tunerun.job import BaseModelRef, JobState, TuningHyperparameters, TuningRequest, in_common

HANDED_OUT: dict[str, dict[str, Any]] = {
    "a": {"epoch_count": 5},
    "b": {"epoch_count": 2},
    "c": {"epoch_count": 5, "keep": "best"},
    "d": {"epoch_count": 3, "keep": "best"},
    "e": {"epoch_count": 5, "average_last": 3},
    "f": {"epoch_count": 4, "average_last": 2},
    "9": {"epoch_count": 1, "average_last": 1},
}


def requests_of(tiny: BaseModelRef) -> list[TuningRequest]:
    return [
        request_of(tiny, key=key, validation=HELD_OUT, learning_rate=0.02, **chosen)
        for key, chosen in HANDED_OUT.items()
    ]


def train(base: LoadedModel, requests: Sequence[TuningRequest]) -> Recording:
    observer = Recording()
    for outcome in training.train(requests, base, observer):
        observer.outcomes[outcome.request.key] = outcome
    return observer


@pytest.fixture(scope="module")
def together(base: LoadedModel, tiny: BaseModelRef) -> Recording:
    return train(base, requests_of(tiny))


@pytest.mark.parametrize("number", range(len(HANDED_OUT)), ids=list(HANDED_OUT))
def test_each_trial_has_the_result_that_it_has_alone(
    base: LoadedModel, tiny: BaseModelRef, together: Recording, number: int
) -> None:
    """Adapter, snapshots, validation losses and metrics have the same bits; only time and memory differ."""
    request = requests_of(tiny)[number]
    alone = train(base, [request])
    assert together.losses(request) == alone.losses(request)
    assert together.validation[request.key] == alone.validation[request.key]
    ours, theirs = together.adapters[request.key], alone.adapters[request.key]
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    found, expected = (dict(one.outcomes[request.key].metrics) for one in (together, alone))
    for cost in ("train/seconds", "train/peak_bytes"):
        assert found.pop(cost) > 0
        expected.pop(cost)
    assert found == expected


def test_the_reported_loss_is_that_of_the_adapter(base: LoadedModel, tiny: BaseModelRef, together: Recording) -> None:
    """Also for the best epoch and for means of several epochs."""
    rows = encode_examples(base.tokenizer, base.chat, HELD_OUT)
    learned = sum(row.learned for row in rows)
    for request in requests_of(tiny):
        adapter = together.finished[request.key].adapter.like(
            [value.clone() for value in together.adapters[request.key].values()]
        )
        with torch.no_grad(), lora.on(base.network, [adapter]):
            loss = float(forms.choose(base).losses(base, [rows])[0]) / learned
        assert together.outcomes[request.key].metrics["validation/loss"] == pytest.approx(loss, rel=1e-6)


def test_a_mean_is_of_the_matrices_after_the_last_epochs(
    base: LoadedModel, tiny: BaseModelRef, together: Recording
) -> None:
    """A and B are averaged separately, so the adapter keeps its rank."""
    of_two = next(request for request in requests_of(tiny) if request.key[0] == "f")
    ends = [
        train(base, [replace(of_two, hyperparameters=replace(of_two.hyperparameters, epoch_count=n, average_last=1))])
        for n in (3, 4)
    ]
    for name, value in together.adapters[of_two.key].items():
        expected = sum(end.adapters[of_two.key][name] for end in ends) / 2
        assert torch.allclose(value, expected, rtol=1e-6, atol=1e-9)


def test_trials_name_the_longest_one_of_their_run(tiny: BaseModelRef, together: Recording) -> None:
    """The shorter ones record its key as their training run; no trial is recorded as packed with another."""
    owner, *others = requests_of(tiny)
    assert together.finished[owner.key].training_run == ""
    assert {together.finished[other.key].training_run for other in others} == {owner.key}
    assert {together.finished[one.key].packed_with for one in (owner, *others)} == {()}


def test_seconds_and_tokens_are_those_of_the_trials_own_epochs(tiny: BaseModelRef, together: Recording) -> None:
    """So seconds per token, from which later runs are estimated, do not depend on how many trials share a run."""
    by_epochs = sorted((one.hyperparameters.epoch_count, one.key) for one in requests_of(tiny))
    metrics = [together.outcomes[key].metrics for _epochs, key in by_epochs]
    tokens = [one["tokens/train"] for one in metrics]
    assert [count / tokens[0] for count in tokens] == [epochs for epochs, _key in by_epochs]
    seconds = [one["train/seconds"] for one in metrics]
    assert seconds == sorted(seconds)


def test_which_trials_can_share_a_run(tiny: BaseModelRef) -> None:
    """With a constant rate those that differ in their epochs only; with a schedule the number of epochs is equal too."""
    requests = requests_of(tiny)
    assert all(in_common(one) == in_common(other) for one, other in combinations(requests, 2))
    falling: tuple[dict[str, Any], ...] = ({"schedule": "linear"}, {"warmup_fraction": 0.1})
    for settings in falling:
        long, short, mean = (
            request_of(tiny, epoch_count=4, **settings),
            request_of(tiny, epoch_count=3, **settings),
            request_of(tiny, epoch_count=4, average_last=2, **settings),
        )
        assert in_common(long) == in_common(mean) != in_common(short)


@pytest.mark.parametrize(
    ("changes", "is_taken"),
    [
        ({"epoch_count": 5}, True),
        ({"epoch_count": 1}, False),  # its last epoch is over
        ({"epoch_count": 4, "average_last": 2}, False),  # the first epoch was not kept for it
        ({"epoch_count": 4, "keep": "best"}, False),
    ],
)
def test_a_trial_that_is_added_later_has_the_result_that_it_has_alone(
    base: LoadedModel, tiny: BaseModelRef, changes: dict[str, Any], is_taken: bool
) -> None:
    """It joins the active run if that kept everything it needs; otherwise it gets a run of its own."""
    first = request_of(tiny, key="a", epoch_count=3, validation=HELD_OUT)
    settings = replace(first.hyperparameters, **changes)
    later = replace(first, key="b" * 64, tuned_model_id="tiny-b", hyperparameters=settings)
    observer = Recording()
    pack = Pack(base, observer, most=2)
    pack.add([first])
    outcomes: list[TrainingOutcome] = []
    for _step in range(4):  # one into the second epoch
        outcomes += pack.step()
    pack.add([later])
    assert (len(observer.losses(later)) == 4) == is_taken
    while not pack.is_empty:
        outcomes += pack.step()
    alone = train(base, [later])
    assert observer.losses(later) == pytest.approx(alone.losses(later), rel=1e-4)
    assert [one.loss for one in observer.validation[later.key]] == pytest.approx(
        [one.loss for one in alone.validation[later.key]], rel=1e-4
    )
    assert {one.request.key: one.state for one in outcomes} == {
        first.key: JobState.SUCCEEDED,
        later.key: JobState.SUCCEEDED,
    }


def test_a_cancelled_trial_does_not_end_its_run(base: LoadedModel, tiny: BaseModelRef) -> None:
    """Even if it is the longest one, the others end as without it."""

    class CancelsTheLongest(Recording):
        def is_cancelled(self, request: TuningRequest) -> bool:
            return request.key == "a" * 64 and len(self.losses(request)) >= 4

    long, short = (request_of(tiny, key=key, epoch_count=epochs) for key, epochs in (("a", 9), ("b", 2)))
    observer = CancelsTheLongest()
    states = {o.request.key: o.state for o in training.train([long, short], base, observer)}
    assert states == {long.key: JobState.CANCELLED, short.key: JobState.SUCCEEDED}
    assert observer.losses(short) == train(base, [short]).losses(short)
    assert len(observer.losses(long)) == 4
    assert observer.finished[short.key].training_run == ""


def test_a_trial_that_cannot_be_served_fails_alone(base: LoadedModel, tiny: BaseModelRef) -> None:
    """A request for the best epoch without held-out examples does not fail the others."""
    settings = TuningHyperparameters(epoch_count=1, batch_size=7)
    plain = replace(request_of(tiny, key="a", training=EXAMPLES), hyperparameters=settings)
    best = replace(plain, key="b" * 64, hyperparameters=replace(settings, keep="best"))
    states = {o.request.key: o.state for o in training.train([plain, best], base, Recording())}
    assert states == {plain.key: JobState.SUCCEEDED, best.key: JobState.FAILED}
