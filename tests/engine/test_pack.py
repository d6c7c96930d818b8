"""A pack: each trial learns what it learns alone, whatever becomes of the others."""

from __future__ import annotations

import pytest
import torch

from tests.engine import peft_loop
from tests.engine.observer import Recording
from tests.engine.tiny_model import EXAMPLES, HELD_OUT, request_of
from tunerun.engine import lora, training
from tunerun.engine.network import LoadedModel
from tunerun.job import BaseModelRef, FailureKind, JobState, TuningHyperparameters, TuningRequest


def trained(base: LoadedModel, *requests: TuningRequest, most: int = 8) -> Recording:
    observer = Recording()
    for outcome in training.train(requests, base, observer, most=most):
        observer.outcomes[outcome.request.key] = outcome
    return observer


@pytest.mark.parametrize("rank", [1, 8])
def test_an_adapter_begins_as_pefts(base: LoadedModel, rank: int) -> None:
    """The same seed gives the numbers that PEFT draws, to the bit."""
    settings = TuningHyperparameters(adapter_rank=rank)
    ours = lora.fresh(base, settings, seed=3).named()
    with peft_loop.fresh_adapter(base, settings, 3) as adapted:
        theirs = {name.replace(".default", ""): one for name, one in adapted.named_parameters() if one.requires_grad}
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_trials_of_a_pack_learn_what_they_learn_alone(base: LoadedModel, tiny: BaseModelRef) -> None:
    """Mixed rates, ranks, seeds, batch sizes and examples: the losses of every step agree with those alone."""
    requests = [
        request_of(tiny, key="a"),
        request_of(tiny, key="b", adapter_rank=2, learning_rate=0.05, epoch_count=1),
        request_of(tiny, key="c", seed=4, batch_size=7, validation=HELD_OUT),
        request_of(tiny, key="d", training=EXAMPLES[:3], batch_size=1),
    ]
    together = trained(base, *requests)
    for request in requests:
        alone = trained(base, request)
        assert together.losses(request) == pytest.approx(alone.losses(request), rel=1e-4)
        assert together.outcomes[request.key].metrics.keys() == alone.outcomes[request.key].metrics.keys()
    partners = set(together.finished["b" * 64].packed_with)
    assert partners  # which ones depends on the lengths of each step's rows
    assert partners <= {"a" * 64, "c" * 64, "d" * 64}


def test_a_diverging_trial_leaves_the_others_alone(base: LoadedModel, tiny: BaseModelRef) -> None:
    """One becomes NaN; the others are finite and end as they do alone."""
    request, other = request_of(tiny), request_of(tiny, key="b", learning_rate=1e30)
    together = trained(base, other, request)
    failure = together.outcomes[other.key].failure
    assert failure is not None
    assert failure.kind is FailureKind.DIVERGED
    assert together.losses(request) == pytest.approx(trained(base, request).losses(request), rel=1e-4)


def test_trials_that_differ_in_epochs_alone_are_one_training_run(base: LoadedModel, tiny: BaseModelRef) -> None:
    """Both have the bits that each has alone, and the short one says whose beginning it is."""
    requests = [request_of(tiny, key="a", epoch_count=1), request_of(tiny, key="b", epoch_count=3)]
    together = trained(base, *requests)
    for request in requests:
        assert together.outcomes[request.key].state is JobState.SUCCEEDED
        alone = trained(base, request)
        assert together.losses(request) == alone.losses(request)
        ours, theirs = together.adapters[request.key], alone.adapters[request.key]
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert [together.finished[request.key].training_run for request in requests] == ["b" * 64, ""]
    assert together.finished["a" * 64].packed_with == ()
