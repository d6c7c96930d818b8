"""The contract of `tunerun.backends.base.Backend` as pytest tests, to be run on every implementation.

    class TestMyBackend(BackendContract):
        @pytest.fixture(scope="class")
        @classmethod
        def place(cls, tmp_path_factory):
            return MyPlace(tmp_path_factory.mktemp("runs"))

If an implementation fails a test, either the implementation or the contract has a bug; do not skip tests.
"""

# ruff: noqa: S101 - asserts are what a contract suite consists of

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Protocol

import pytest

from tunerun.backends.base import AnswersTogether, Backend
from tunerun.errors import BackendError, InputError
from tunerun.examples import Example, Turn
from tunerun.generation import GenerateOptions, ModelInputs
from tunerun.job import BaseModelRef, FailureKind, JobRef, JobState, TuningRequest
from tunerun.testing.waiting import wait_for_end, wait_for_steps

OPTIONS = GenerateOptions(max_output_tokens=8)
# The first and the last are equal, so their answers and losses have to be equal too, whatever shares their batch.
INPUTS = ("1", "a longer input, so that lengths differ", "two", "1")
ROWS = tuple(map(Example, INPUTS, ("2", "a longer output", "three", "2")))
TURNS = (Example("5", "6"),)
CONVERSATION = Example("3", "4", "Count on.", (Turn("1", "2"), Turn("2", "3", is_learned=False)))
CHOICES = ("2", "three", "a longer choice")


class BackendPlace(Protocol):
    """The environment of the backend under test: where its jobs are kept, and requests that are valid there.

    Attributes:
        missing_model: a base model that `prepare` has to reject, also under the name `another-missing-model`.
    """

    missing_model: BaseModelRef

    def open(self) -> Backend:
        """Return a new backend object on this place, as a later process would make it."""

    def request(self, digit: str) -> TuningRequest:
        """Return a small valid request with validation examples.

        Args:
            digit: a hexadecimal digit, from which key and tuned model id are derived; the same digit gives an equal
                request.
        """

    def long_request(self, digit: str) -> TuningRequest:
        """Return a request, as `request`, that would run for minutes."""


class BackendContract:
    """Every promise of the Protocol's docstring as a test; a subclass gives the fixture `place`, class-scoped.

    Tests that need a finished job share the one of the digit "1", since training takes most of the suite's time; a test
    that starts, cancels or loses a job has a digit of its own.
    """

    @pytest.fixture(scope="class")
    @classmethod
    def place(cls) -> BackendPlace:
        """Return the place under test; the subclass overrides it."""
        raise NotImplementedError("a subclass of BackendContract overrides the fixture `place`")

    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, place: BackendPlace) -> Iterator[Backend]:
        """Open one backend for the tests that need no second one."""
        with place.open() as backend:
            backend.prepare([place.request("0").model])
            yield backend

    def test_capabilities_never_change(self, place: BackendPlace, backend: Backend) -> None:
        """Two objects on the same place can do the same, and the limits name their source."""
        capabilities = backend.capabilities()
        # The second object is not entered: `capabilities` touches no network.
        assert capabilities == backend.capabilities() == place.open().capabilities()
        assert capabilities.kind
        assert capabilities.source
        assert capabilities.max_in_flight >= 1

    def test_prepare_may_be_repeated(self, place: BackendPlace, backend: Backend) -> None:
        """Preparing again has no effect on the backend's jobs."""
        ref = backend.submit(place.request("1"))
        before = wait_for_end(backend, ref)
        backend.prepare([place.request("0").model])
        assert backend.poll([ref])[ref] == before

    def test_prepare_names_every_missing_model(self, place: BackendPlace, backend: Backend) -> None:
        """Base models that cannot be found are an InputError with a problem for each."""
        other = replace(place.missing_model, name="another-missing-model")
        with pytest.raises(InputError, match=place.missing_model.name) as caught:
            backend.prepare([place.missing_model, place.request("0").model, other])
        assert len(caught.value.problems) == 2

    def test_job_succeeds(self, place: BackendPlace, backend: Backend) -> None:
        """A job ends SUCCEEDED, with a snapshot for every step, its metrics and a tuned model's name."""
        request = place.request("1")
        status = wait_for_end(backend, backend.submit(request))
        assert status.state == JobState.SUCCEEDED, status.failure
        assert status.failure is None
        assert [snapshot.step for snapshot in status.snapshots] == list(range(1, len(status.snapshots) + 1))
        epochs = [snapshot.epoch for snapshot in status.snapshots]
        assert epochs == sorted(epochs)
        assert epochs[-1] == request.hyperparameters.epoch_count
        assert all(math.isfinite(snapshot.mean_loss) for snapshot in status.snapshots)
        assert all(math.isfinite(value) for value in status.metrics.values())
        assert status.tuned_model is not None
        assert status.tuned_model.name == f"tunedModels/{request.tuned_model_id}"
        assert status.tuned_model.model == request.model

    def test_validation_loss_after_each_epoch(self, place: BackendPlace, backend: Backend) -> None:
        """Where the backend measures it, one for every epoch, the last of them the metric; else none."""
        request = place.request("1")
        status = wait_for_end(backend, backend.submit(request))
        epochs = request.hyperparameters.epoch_count if backend.capabilities().measures_epochs else 0
        assert [measured.epoch for measured in status.validation] == list(range(1, epochs + 1))
        if epochs:
            assert status.validation[-1].loss == status.metrics["validation/loss"]

    def test_poll_gives_the_same_or_more(self, place: BackendPlace, backend: Backend) -> None:
        """Each poll begins with the snapshots of the one before."""
        ref = backend.submit(place.request("2"))
        before = backend.poll([ref])[ref]
        while not before.state.is_finished:
            after = backend.poll([ref])[ref]
            assert after.snapshots[: len(before.snapshots)] == before.snapshots
            before = after
        assert before.state == JobState.SUCCEEDED, before.failure

    def test_poll_gives_what_is_new(self, place: BackendPlace, backend: Backend) -> None:
        """With a cursor only the snapshots after it, and the same state, metrics and tuned model."""
        ref = backend.submit(place.request("1"))
        whole = wait_for_end(backend, ref)
        last = whole.snapshots[-1].step
        assert backend.poll([ref], {ref: last - 1})[ref] == whole.after(last - 1)
        assert [s.step for s in whole.after(last - 1).snapshots] == [last]
        assert backend.poll([ref], {ref: last})[ref] == whole.after(last)

    def test_submit_is_idempotent(self, place: BackendPlace, backend: Backend) -> None:
        """The same key, from many threads and again after success, is one job."""
        with ThreadPoolExecutor(8) as threads:
            refs = set(threads.map(lambda _: backend.submit(place.request("3")), range(8)))
        assert len({ref.id for ref in refs}) == 1
        first = wait_for_end(backend, refs.pop())
        again = backend.submit(place.request("3"))
        assert backend.poll([again])[again] == first

    def test_find_looks_and_starts_nothing(self, place: BackendPlace, backend: Backend) -> None:
        """A key's job is found while it runs and when it has succeeded; one that never ran or was cancelled is not."""
        unknown, request, long = place.request("8"), place.request("1"), place.long_request("9")
        assert backend.find(unknown.key, unknown.tuned_model_id) is None
        ref = backend.submit(request)
        wait_for_end(backend, ref)
        running = backend.submit(long)
        for submitted, its_ref in ((request, ref), (long, running)):
            again = backend.find(submitted.key, submitted.tuned_model_id)
            assert again is not None
            assert backend.poll([again])[again].state.is_finished == backend.poll([its_ref])[its_ref].state.is_finished
        # A service may look for the tuned model's name; a job of another key is still not this key's.
        assert backend.find(unknown.key, request.tuned_model_id) is None
        backend.cancel(running)
        wait_for_end(backend, running)
        assert backend.find(long.key, long.tuned_model_id) is None
        assert backend.find(unknown.key, unknown.tuned_model_id) is None

    def test_later_process_finds_the_job(self, place: BackendPlace, backend: Backend) -> None:
        """A new object on the same place reports an old reference's status, and does not train a done key again."""
        ref = backend.submit(place.request("4"))
        first = wait_for_end(backend, ref)
        with place.open() as later:
            assert later.poll([ref])[ref] == first
            again = later.submit(place.request("4"))
            assert later.poll([again])[again] == first

    def test_poll_answers_for_every_reference(self, place: BackendPlace, backend: Backend) -> None:
        """Unknown references, also of another backend or with a strange id, are LOST."""
        own = backend.submit(place.request("1"))
        kind = backend.capabilities().kind
        # An id may become part of a path or an address: one with slashes must not lead elsewhere.
        strange = [JobRef(kind, "no-such-job"), JobRef("other", own.id), JobRef(kind, "../../etc"), JobRef(kind, "")]
        statuses = backend.poll([own, *strange])
        assert set(statuses) == {own, *strange}
        for ref in strange:
            failure = statuses[ref].failure
            assert statuses[ref].state == JobState.FAILED
            assert failure is not None
            assert failure.kind == FailureKind.LOST
        assert backend.poll([]) == {}

    def test_cancelled_job_ends_and_can_be_submitted_again(self, place: BackendPlace, backend: Backend) -> None:
        """A running and a waiting job end CANCELLED; submitting the key again starts another job."""
        running, waiting = backend.submit(place.long_request("5")), backend.submit(place.long_request("6"))
        wait_for_steps(backend, running, 2)
        for ref in (waiting, running):
            backend.cancel(ref)
        assert wait_for_end(backend, waiting).state == JobState.CANCELLED
        assert wait_for_end(backend, running).state == JobState.CANCELLED
        again = backend.submit(place.long_request("5"))
        assert not backend.poll([again])[again].state.is_finished
        backend.cancel(again)
        wait_for_end(backend, again)

    def test_cancel_of_a_finished_or_unknown_job_does_nothing(self, place: BackendPlace, backend: Backend) -> None:
        """A finished job keeps its status."""
        ref = backend.submit(place.request("1"))
        first = wait_for_end(backend, ref)
        backend.cancel(ref)
        backend.cancel(JobRef(backend.capabilities().kind, "no-such-job"))
        assert backend.poll([ref])[ref] == first

    def test_generate_answers_in_order(self, place: BackendPlace, backend: Backend) -> None:
        """One output per input, the same for the same input and again at temperature 0, tuned and base."""
        tuned = wait_for_end(backend, backend.submit(place.request("1"))).tuned_model
        assert tuned is not None
        for model in (tuned, place.request("1").model):
            outputs = backend.generate(model, INPUTS, OPTIONS)
            assert len(outputs) == len(INPUTS)
            assert outputs[0] == outputs[3]
            assert backend.generate(model, INPUTS, OPTIONS) == outputs
            assert backend.generate(model, [INPUTS[1]], OPTIONS) == [outputs[1]]
            assert backend.generate(model, [], OPTIONS) == []

    def test_models_are_answered_together_as_alone(self, place: BackendPlace, backend: Backend) -> None:
        """Answering several models together gives each the same answers as alone; an error affects only its model."""
        if not isinstance(backend, AnswersTogether):
            return  # optional: a service may take the inputs of one model at a time
        request = place.request("1")
        tuned = wait_for_end(backend, backend.submit(request)).tuned_model
        assert tuned is not None
        models, inputs = (tuned, request.model), (*INPUTS, CONVERSATION.input)
        each_model = [ModelInputs(m, inputs, OPTIONS, turns) for m in models for turns in ((), TURNS)]
        missing = ModelInputs(place.missing_model, inputs, OPTIONS)
        first, *others = each_model
        together = backend.generate_together([first, missing, *others, replace(first, inputs=())])
        assert isinstance(together.pop(1), InputError)
        alone = [backend.generate(each.model, each.inputs, each.options, each.examples) for each in each_model]
        assert together == [*alone, []]
        assert backend.generate_together([]) == []

    def test_generate_takes_examples_as_earlier_turns(self, place: BackendPlace, backend: Backend) -> None:
        """One output per input behind the same examples, in order and deterministic, tuned and base."""
        tuned = wait_for_end(backend, backend.submit(place.request("1"))).tuned_model
        assert tuned is not None
        for model in (tuned, place.request("1").model):
            outputs = backend.generate(model, INPUTS, OPTIONS, TURNS)
            assert len(outputs) == len(INPUTS)
            assert outputs[0] == outputs[3]
            assert backend.generate(model, [INPUTS[1]], OPTIONS, TURNS) == [outputs[1]]
            assert backend.generate(model, [], OPTIONS, TURNS) == []

    def test_generate_takes_conversations(self, place: BackendPlace, backend: Backend) -> None:
        """One output per input, with texts and conversations side by side, also behind examples, tuned and base."""
        tuned = wait_for_end(backend, backend.submit(place.request("1"))).tuned_model
        assert tuned is not None
        inputs = [CONVERSATION.input, INPUTS[0], CONVERSATION.input]
        for model in (tuned, place.request("1").model):
            outputs = backend.generate(model, inputs, OPTIONS)
            assert len(outputs) == len(inputs)
            assert outputs[0] == outputs[2]
            assert outputs[1] == backend.generate(model, INPUTS[:1], OPTIONS)[0]
            assert len(backend.generate(model, inputs, OPTIONS, TURNS)) == len(inputs)
            if backend.capabilities().measures_losses:
                losses = backend.losses(model, [CONVERSATION, ROWS[0]], TURNS)
                assert all(math.isfinite(loss) and loss >= 0 for loss in losses)
                assert set(backend.choose(model, inputs, CHOICES, TURNS)) <= set(CHOICES)

    def test_conversations_are_tuned_or_refused(self, place: BackendPlace, backend: Backend) -> None:
        """Examples with a system message and earlier turns train, or are refused before anything starts."""
        plain = place.request("a")
        request = replace(plain, training=(CONVERSATION, *plain.training), validation=(CONVERSATION,))
        if backend.capabilities().trains_conversations:
            status = wait_for_end(backend, backend.submit(request))
            assert status.state == JobState.SUCCEEDED, status.failure
            return
        with pytest.raises(InputError, match=backend.capabilities().kind):
            backend.submit(request)
        assert backend.find(request.key, request.tuned_model_id) is None

    def test_losses_are_measured_in_order_or_refused(self, place: BackendPlace, backend: Backend) -> None:
        """One finite loss for each row, independent of the other rows; a backend without losses raises an error."""
        tuned = wait_for_end(backend, backend.submit(place.request("1"))).tuned_model
        assert tuned is not None
        for model in (tuned, place.request("1").model):
            if not backend.capabilities().measures_losses:
                with pytest.raises(InputError, match=backend.capabilities().kind):
                    backend.losses(model, ROWS)
                continue
            for examples in ((), TURNS):
                losses = backend.losses(model, ROWS, examples)
                assert len(losses) == len(ROWS)
                assert all(math.isfinite(loss) and loss >= 0 for loss in losses)
                # Not exact: in a batch of another shape the same sums are rounded in another order.
                assert losses[0] == pytest.approx(losses[3], rel=1e-4)
                assert backend.losses(model, [ROWS[1]], examples) == [pytest.approx(losses[1], rel=1e-4)]
                assert backend.losses(model, ROWS, examples) == losses
            assert backend.losses(model, []) == []

    def test_choose_answers_with_one_of_the_choices_or_is_refused(self, place: BackendPlace, backend: Backend) -> None:
        """In the order of the inputs, on a tie the first choice; a backend without likelihoods raises an error."""
        tuned = wait_for_end(backend, backend.submit(place.request("1"))).tuned_model
        assert tuned is not None
        for model in (tuned, place.request("1").model):
            if not backend.capabilities().measures_losses:
                with pytest.raises(InputError, match=backend.capabilities().kind):
                    backend.choose(model, INPUTS, CHOICES)
                continue
            for examples in ((), TURNS):
                chosen = backend.choose(model, INPUTS, CHOICES, examples)
                assert len(chosen) == len(INPUTS)
                assert set(chosen) <= set(CHOICES)
                assert chosen[0] == chosen[3]
                assert backend.choose(model, [INPUTS[1]], CHOICES, examples) == [chosen[1]]
            assert backend.choose(model, INPUTS, CHOICES[:1]) == [CHOICES[0]] * len(INPUTS)
            assert backend.choose(model, [], CHOICES) == []

    def test_generate_with_a_missing_model_is_an_input_error(self, place: BackendPlace, backend: Backend) -> None:
        """A base model that does not exist cannot answer."""
        with pytest.raises((InputError, BackendError), match=place.missing_model.name):
            backend.generate(place.missing_model, INPUTS, OPTIONS)

    def test_leaving_keeps_or_loses_jobs_as_promised(self, place: BackendPlace) -> None:
        """A job that is running when the backend is closed is lost, or continues if `survives_runner` is True."""
        with place.open() as first:
            ref = first.submit(place.long_request("7"))
            wait_for_steps(first, ref, 1)
        with place.open() as later:
            status = later.poll([ref])[ref]
            if later.capabilities().survives_runner:
                assert not status.state.is_finished
                later.cancel(ref)
            else:
                assert status.state == JobState.FAILED
                assert status.failure is not None
                assert status.failure.kind == FailureKind.LOST
