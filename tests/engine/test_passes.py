"""Passes: how shares are grouped, lack of memory, and failures that affect one share only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.engine import training
from tests.engine.observer import Recording
from tests.engine.tiny_model import EXAMPLES, request_of
from tunerun.engine import forms, lora
from tunerun.engine.encoding import EncodedExample, encode_examples
from tunerun.engine.forms import Form
from tunerun.engine.network import LoadedModel
from tunerun.engine.passes import RECOVERS_AFTER, Computed, Passes, Share, grouped
from tunerun.engine.shared_prefix import Prefix
from tunerun.job import BaseModelRef, FailureKind, JobState, TuningHyperparameters, TuningRequest


@given(
    lengths=st.lists(st.integers(1, 500), max_size=12),
    most=st.integers(1, 12),
    most_tokens=st.one_of(st.just(math.inf), st.integers(1, 3000)),
    own_cost=st.integers(0, 300),
)
def test_each_share_is_in_one_pass(lengths: list[int], most: int, most_tokens: float, own_cost: int) -> None:
    """Passes respect the limits, unless a single share exceeds them, and cost no more than their shares one by one."""
    passes = grouped(lengths, most, most_tokens, own_cost)
    assert sorted(number for one in passes for number in one) == list(range(len(lengths)))
    for one in passes:
        filled = len(one) * max(lengths[number] for number in one)
        assert len(one) <= most
        assert len(one) == 1 or filled <= most_tokens
        assert filled + own_cost <= sum(lengths[number] + own_cost for number in one)


def test_shares_of_similar_length_are_grouped() -> None:
    """If the fixed cost of a pass is low, only similar lengths share one; if it is high, all do."""
    assert grouped([30, 400, 31, 29, 410], 8, math.inf, 48) == [[0, 2, 3], [1, 4]]
    assert grouped([30, 400, 31, 29, 410], 8, math.inf, 2048) == [[0, 1, 2, 3, 4]]


class Limited(Form):
    """A form that fails for some members, as with too little memory or on an unsuitable architecture."""

    def __init__(self, form: Form, refuses: Callable[[Sequence[Sequence[EncodedExample]]], str | None]) -> None:
        self.name, self.takes_packs = form.name, form.takes_packs
        self._form, self._refuses = form, refuses
        self.widths: list[int] = []

    def row_losses(
        self, base: LoadedModel, members: Sequence[Sequence[EncodedExample]], prefix: Prefix | None = None
    ) -> torch.Tensor:
        self.widths.append(len(members))
        if (reason := self._refuses(members)) is not None:
            raise RuntimeError(reason)
        return self._form.row_losses(base, members, prefix)

    def size(self, rows: Sequence[EncodedExample]) -> int:
        return self._form.size(rows)


@pytest.fixture
def limited(base: LoadedModel) -> Iterator[Callable[[Any], Limited]]:
    """Return a function that gives the base model a form which fails for the members that a predicate selects."""
    form = forms.choose(base)

    def limit(refuses: Any) -> Limited:
        base.form = Limited(form, refuses)
        return base.form

    yield limit
    base.form = form


def trained(base: LoadedModel, *requests: TuningRequest, most: int = 8) -> Recording:
    observer = Recording()
    for outcome in training.train(requests, base, observer, most=most):
        observer.outcomes[outcome.request.key] = outcome
    return observer


def test_a_pass_that_runs_out_of_memory_is_divided(
    base: LoadedModel, tiny: BaseModelRef, limited: Callable[[Any], Limited]
) -> None:
    """Every trial ends as alone, and the full width is tried again later."""
    requests = [request_of(tiny, key=key, seed=int(key, 16), epoch_count=23) for key in "abc"]
    form = limited(lambda members: "CUDA out of memory" if len(members) > 2 else None)
    together = trained(base, *requests)
    failed = [number for number, width in enumerate(form.widths) if width > 2]
    assert len(failed) <= 5  # of 69 steps
    assert failed[-1] > RECOVERS_AFTER
    for request in requests:
        assert together.outcomes[request.key].state is JobState.SUCCEEDED
        assert together.losses(request)[:3] == pytest.approx(trained(base, request).losses(request)[:3], rel=1e-5)


def test_a_trial_that_is_too_large_by_itself_fails_alone(
    base: LoadedModel, tiny: BaseModelRef, limited: Callable[[Any], Limited]
) -> None:
    """The failure says what to do; the others of its pack end as without it."""
    small = request_of(tiny, key="a")
    large = request_of(tiny, key="b", batch_size=7)
    limited(lambda members: "DefaultCPUAllocator: can't allocate memory" if max(map(len, members)) > 3 else None)
    together = trained(base, large, small)
    failure = together.outcomes[large.key].failure
    assert failure is not None
    assert failure.kind is FailureKind.OUT_OF_MEMORY
    assert "lower hyperparameters.batch_size" in failure.message
    assert together.losses(small) == pytest.approx(trained(base, small).losses(small), rel=1e-6)


def test_an_unexpected_error_ends_only_its_own_trial(
    base: LoadedModel, tiny: BaseModelRef, limited: Callable[[Any], Limited]
) -> None:
    """The others continue in passes of the same width."""
    requests = [request_of(tiny, key=key, seed=int(key, 16)) for key in "abcd"]
    broken = replace(requests[1], training=EXAMPLES[:1] * 7)
    form = limited(lambda members: "boom" if any(rows[0] == rows[-1] and len(rows) > 1 for rows in members) else None)
    together = trained(base, *requests[:1], broken, *requests[2:])
    failure = together.outcomes[broken.key].failure
    assert failure is not None
    assert (failure.kind, failure.message) == (FailureKind.CRASHED, "RuntimeError: boom")
    assert form.widths[-1] == 3
    for request in (requests[0], *requests[2:]):
        assert together.losses(request) == pytest.approx(trained(base, request).losses(request), rel=1e-5)


def test_shares_that_fail_only_together_are_computed_one_by_one(
    base: LoadedModel, tiny: BaseModelRef, limited: Callable[[Any], Limited]
) -> None:
    """An architecture that does not support packs after all costs one failed pass, not one per step."""
    requests = [request_of(tiny, key=key) for key in "ab"]
    requests[1] = replace(requests[1], seed=1)
    form = limited(lambda members: "shape mismatch" if len(members) > 1 else None)
    together = trained(base, *requests)
    assert form.widths.count(2) == 1
    assert {one.state for one in together.outcomes.values()} == {JobState.SUCCEEDED}


def test_a_nan_does_not_reach_other_shares(base: LoadedModel) -> None:
    """Losses and gradients of the others are the same as without it; the share itself gets no gradients."""
    rows = encode_examples(base.tokenizer, base.chat, EXAMPLES)[:3]
    adapters = [lora.fresh(base, TuningHyperparameters(adapter_rank=rank), seed=rank) for rank in (2, 4, 3)]
    for adapter in adapters:  # else B is zero, and A has no gradient
        with torch.no_grad():
            for number, matrix in enumerate(adapter.parameters()):
                matrix.add_(0.01 * ((number % 7) + 1))

    def computed(chosen: list[lora.LearningAdapter]) -> tuple[list[Any], list[list[torch.Tensor]]]:
        for adapter in chosen:
            adapter.forget_gradients()
        shares = [Share(adapter, rows) for adapter in chosen]
        found = [one for _number, one in Passes(base, 8).compute(shares, learns=True)]
        return found, [[m.grad.clone() for m in a.parameters() if m.grad is not None] for a in chosen]

    without, expected = computed([adapters[0], adapters[2]])
    with torch.no_grad():
        adapters[1].parameters()[5].fill_(float("nan"))
    with_it, gradients = computed(adapters)
    assert math.isnan(with_it[1].nats)
    for number, other in ((0, 0), (2, 1)):
        assert isinstance(with_it[number], Computed)
        assert with_it[number].nats == pytest.approx(without[other].nats, rel=1e-6)
        largest = max(float(one.abs().max()) for one in expected[other])
        for found, one in zip(gradients[number], expected[other], strict=True):
            assert float((found - one).abs().max()) <= 1e-5 * largest
