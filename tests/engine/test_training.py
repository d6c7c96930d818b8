"""Training: the loss, reproducible bits, validation, and how jobs end."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.engine import peft_loop, tiny_model, training
from tests.engine.observer import Recording
from tests.engine.tiny_model import EXAMPLES, HELD_OUT, request_of
from tunerun.engine import encoding, forms, lora
from tunerun.engine.network import LoadedModel
from tunerun.engine.observer import TrainingOutcome
from tunerun.engine.training_run import epoch_order
from tunerun.examples import Example
from tunerun.job import BaseModelRef, FailureKind, JobState, TuningRequest

REPOSITORY = Path(__file__).parents[2]

TRAIN_IN_A_FRESH_PROCESS = """
import sys
import torch
from pathlib import Path
from tests.engine import test_training, tiny_model
from tunerun.engine import network
torch.set_num_threads(1)
model = tiny_model.model_of(Path(sys.argv[1]))
base = network.load(model, Path(sys.argv[2]), network.choose_device("cpu"))
print(test_training.adapter_digest(base, tiny_model.request_of(model), Path(sys.argv[3])))
"""


def run(base: LoadedModel, *pack: TuningRequest, observer: Recording | None = None) -> list[TrainingOutcome]:
    ended = {outcome.request.key: outcome for outcome in training.train(pack, base, observer or Recording())}
    return [ended[request.key] for request in pack]


def adapter_digest(base: LoadedModel, request: TuningRequest, folder: Path) -> str:
    run(base, request, observer=Recording(folder=folder))
    return hashlib.sha256((folder / request.tuned_model_id / "adapter_model.safetensors").read_bytes()).hexdigest()


def independent_loss(base: LoadedModel, examples: Sequence[Example]) -> float:
    """The mean loss over output tokens, one example at a time, from log probabilities of the plain model."""
    total, count = 0.0, 0
    for example in examples:
        prompt = base.tokenizer.encode(base.chat.prompt(example.text_input), add_special_tokens=False).ids
        target = base.tokenizer.encode(example.output + base.chat.end, add_special_tokens=False).ids
        with torch.no_grad():
            logits = base.network(input_ids=torch.tensor([prompt + target])).logits[0]
        log_probabilities = logits.log_softmax(-1)
        for offset, token in enumerate(target):
            total -= float(log_probabilities[len(prompt) - 1 + offset, token])
            count += 1
    return total / count


def test_adapter_is_the_same_to_the_bit_in_a_fresh_process(
    base: LoadedModel, tiny: BaseModelRef, cache: Path, tmp_path: Path
) -> None:
    """A job that runs after another one in the same process writes the same bytes as in a fresh process."""
    first = adapter_digest(base, request_of(tiny), tmp_path / "first")
    run(base, request_of(tiny, key="b", seed=5, adapter_rank=2, learning_rate=0.1))
    again = adapter_digest(base, request_of(tiny), tmp_path / "again")
    fresh = subprocess.run(
        [sys.executable, "-c", TRAIN_IN_A_FRESH_PROCESS, tiny.source, str(cache), str(tmp_path / "fresh")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert first == again == fresh


def test_adapter_config_is_the_same_to_the_byte(base: LoadedModel, tiny: BaseModelRef, tmp_path: Path) -> None:
    """PEFT's config lists the layers in order, and contains no path of the cache."""
    adapter_digest(base, request_of(tiny), tmp_path)
    config = json.loads((tmp_path / "tiny-a" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == tiny.source
    assert config["target_modules"] == sorted(config["target_modules"])
    assert len(config["target_modules"]) == 14
    assert sorted(file.name for file in (tmp_path / "tiny-a").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_another_seed_gives_another_adapter(base: LoadedModel, tiny: BaseModelRef, tmp_path: Path) -> None:
    """The order of examples and the initial weights depend on the seed."""
    one = adapter_digest(base, request_of(tiny, seed=1), tmp_path / "one")
    assert one != adapter_digest(base, request_of(tiny, seed=2), tmp_path / "two")


def test_training_leaves_the_base_model_as_it_was(base: LoadedModel, tiny: BaseModelRef) -> None:
    """After a job the network has the same modules with the same weights, without hooks or modules of PEFT."""
    before = {name: value.clone() for name, value in base.network.state_dict().items()}
    modules = [type(module) for module in base.network.modules()]
    run(base, request_of(tiny))
    after = base.network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert [type(module) for module in base.network.modules()] == modules


def test_fewer_epochs_are_a_prefix_of_more(base: LoadedModel, tiny: BaseModelRef) -> None:
    """A job of 3 epochs has exactly the losses of the first 3 epochs of a job of 5."""
    short, long = request_of(tiny, epoch_count=3), request_of(tiny, key="b", epoch_count=5)
    observer = Recording()
    run(base, short, long, observer=observer)
    assert len(observer.losses(short)) == 9
    assert observer.losses(short) == observer.losses(long)[:9]


def test_snapshots_count_steps_and_epochs(base: LoadedModel, tiny: BaseModelRef) -> None:
    """Seven examples in batches of three make three steps per epoch: the last, smaller batch is not dropped."""
    request, observer = request_of(tiny), Recording()
    run(base, request, observer=observer)
    assert [(one.step, one.epoch) for one in observer.snapshots[request.key]] == [
        (1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2),
    ]  # fmt: skip


def test_loss_is_on_output_tokens_only(base: LoadedModel, tiny: BaseModelRef) -> None:
    """The first step's loss is the mean over output tokens that plain log probabilities give."""
    request, observer = request_of(tiny, batch_size=7), Recording()
    run(base, request, observer=observer)
    assert observer.losses(request)[0] == pytest.approx(independent_loss(base, EXAMPLES), rel=1e-5)


def test_gradient_is_of_output_tokens_only(base: LoadedModel, tiny: BaseModelRef) -> None:
    """The adapter's gradient is the one that a plain sum over the output tokens gives."""
    request = request_of(tiny)
    encoded = encoding.encode_examples(base.tokenizer, base.chat, EXAMPLES)
    adapter = lora.fresh(base, request.hyperparameters, 0)
    with lora.on(base.network, [adapter]):
        torch.autograd.backward(forms.choose(base).losses(base, [encoded]).sum())
    ours = [matrix.grad for matrix in adapter.parameters()]
    with peft_loop.fresh_adapter(base, request.hyperparameters, 0) as adapted:
        for one in encoded:
            logits = adapted(input_ids=torch.tensor([one.prompt + one.target])).logits[0].log_softmax(-1)
            chosen = torch.arange(len(one.prompt) - 1, len(one) - 1)
            (-logits[chosen, torch.tensor(one.target)]).sum().backward()
        plain = [one.grad for one in adapted.parameters() if one.requires_grad]
    largest = max(float(one.abs().max()) for one in plain)
    for left, right in zip(ours, plain, strict=True):
        assert left is not None
        assert float((left - right).abs().max()) <= 1e-5 * largest


def test_training_learns(base: LoadedModel, tiny: BaseModelRef) -> None:
    """The loss on the training examples falls, and the metrics say how long it took and for how many tokens."""
    request = request_of(tiny, validation=EXAMPLES, epoch_count=20, batch_size=7, adapter_rank=8)
    (outcome,) = run(base, request)
    assert outcome.state == JobState.SUCCEEDED
    assert outcome.metrics["validation/loss"] < outcome.metrics["validation/base_loss"] / 2
    assert outcome.metrics["validation/base_loss"] == pytest.approx(independent_loss(base, EXAMPLES), rel=1e-5)
    assert outcome.metrics["train/seconds"] > 0
    assert outcome.metrics["train/peak_bytes"] > 10**7
    lengths = [len(one) for one in encoding.encode_examples(base.tokenizer, base.chat, EXAMPLES)]
    assert outcome.metrics["tokens/train"] == 20 * sum(lengths)


def test_no_validation_loss_without_held_out_examples(base: LoadedModel, tiny: BaseModelRef) -> None:
    """Neither the metrics nor the result contain one."""
    (outcome,) = run(base, request_of(tiny))
    assert sorted(outcome.metrics) == ["tokens/train", "train/peak_bytes", "train/seconds"]


def validation_of(observer: Recording, request: TuningRequest) -> list[float]:
    return [one.loss for one in observer.validation[request.key]]


def test_the_validation_loss_is_measured_after_each_epoch(base: LoadedModel, tiny: BaseModelRef) -> None:
    """After each epoch it equals the final loss of a job of that many epochs; the last one is the metric."""
    long, observer = request_of(tiny, epoch_count=4, validation=HELD_OUT), Recording()
    (outcome,) = run(base, long, observer=observer)
    assert [one.epoch for one in observer.validation[long.key]] == [1, 2, 3, 4]
    for epochs, loss in enumerate(validation_of(observer, long), start=1):
        (short,) = run(base, request_of(tiny, epoch_count=epochs, validation=HELD_OUT))
        assert short.metrics["validation/loss"] == loss
    assert outcome.metrics["validation/loss"] == loss
    assert "train/kept_epoch" not in outcome.metrics


def test_validation_does_not_change_the_training(base: LoadedModel, tiny: BaseModelRef, tmp_path: Path) -> None:
    """Adapter and losses have the same bits as without held-out examples, and torch's global random state is unchanged."""
    alone, beside, state = Recording(folder=tmp_path / "a"), Recording(folder=tmp_path / "b"), torch.get_rng_state()
    run(base, request_of(tiny), observer=alone)
    run(base, request_of(tiny, validation=HELD_OUT), observer=beside)
    assert torch.equal(state, torch.get_rng_state())
    assert alone.losses(request_of(tiny)) == beside.losses(request_of(tiny))
    weights = [(tmp_path / name / "tiny-a" / "adapter_model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]


def test_the_best_epoch_is_kept(base: LoadedModel, tiny: BaseModelRef) -> None:
    """The tuned model has the bits of a job that ends with that epoch; the snapshots are those of the whole job."""
    last = request_of(tiny, epoch_count=8, learning_rate=0.01, validation=HELD_OUT)
    best = replace(last, key="b" * 64, hyperparameters=replace(last.hyperparameters, keep="best"))
    observer = Recording()
    ended, kept = run(base, last, best, observer=observer)
    losses = validation_of(observer, last)
    epoch = losses.index(min(losses)) + 1
    assert 1 < epoch < 8
    assert observer.losses(best) == observer.losses(last)
    assert validation_of(observer, best) == losses
    assert kept.metrics["train/kept_epoch"] == epoch
    assert (ended.metrics["validation/loss"], kept.metrics["validation/loss"]) == (losses[-1], min(losses))
    short = replace(last, key="c" * 64, hyperparameters=replace(last.hyperparameters, epoch_count=epoch))
    run(base, short, observer=observer)
    expected, found = observer.adapters[short.key], observer.adapters[best.key]
    assert all(torch.equal(weights, found[name]) for name, weights in expected.items())
    assert any(not torch.equal(weights, found[name]) for name, weights in observer.adapters[last.key].items())


def test_of_equal_epochs_the_earlier_one_is_kept(base: LoadedModel, tiny: BaseModelRef) -> None:
    """With almost no learning rate all epochs have the same loss."""
    request = request_of(tiny, epoch_count=3, learning_rate=1e-30, validation=HELD_OUT)
    request = replace(request, hyperparameters=replace(request.hyperparameters, keep="best"))
    observer = Recording()
    (outcome,) = run(base, request, observer=observer)
    assert len(set(validation_of(observer, request))) == 1
    assert outcome.metrics["train/kept_epoch"] == 1


def test_the_best_epoch_needs_held_out_examples(base: LoadedModel, tiny: BaseModelRef) -> None:
    """`keep: best` without held-out examples is refused."""
    request = request_of(tiny)
    (outcome,) = run(base, replace(request, hyperparameters=replace(request.hyperparameters, keep="best")))
    assert outcome.failure is not None
    assert outcome.failure.kind == FailureKind.INVALID
    assert "hyperparameters.keep: best needs held-out examples" in outcome.failure.message


def test_base_loss_is_measured_once(base: LoadedModel, tiny: BaseModelRef) -> None:
    """Two jobs with the same held-out examples share the base model's loss."""
    run(base, request_of(tiny, validation=HELD_OUT))
    measured = dict(base.base_losses)
    run(base, request_of(tiny, key="b", seed=3, validation=HELD_OUT))
    assert base.base_losses == measured


@pytest.mark.parametrize("learning_rate", [1e30, 1e38])
def test_divergence_ends_the_job(base: LoadedModel, tiny: BaseModelRef, learning_rate: float) -> None:
    """A loss that is not finite fails the job as DIVERGED and is not reported as a snapshot."""
    request, observer = request_of(tiny, learning_rate=learning_rate), Recording()
    (outcome,) = run(base, request, observer=observer)
    assert outcome.failure is not None
    assert outcome.failure.kind == FailureKind.DIVERGED
    assert "learning_rate" in outcome.failure.message
    assert all(loss == loss and abs(loss) != float("inf") for loss in observer.losses(request))


def test_a_failed_job_does_not_affect_the_next(base: LoadedModel, tiny: BaseModelRef, tmp_path: Path) -> None:
    """A job that is trained together with one that diverges has the same result as alone."""
    alone = adapter_digest(base, request_of(tiny), tmp_path / "alone")
    observer = Recording(folder=tmp_path / "pack")
    diverges = request_of(tiny, key="b", learning_rate=1e30)
    states = [outcome.state for outcome in run(base, diverges, request_of(tiny), observer=observer)]
    assert states == [JobState.FAILED, JobState.SUCCEEDED]
    file = tmp_path / "pack" / "tiny-a" / "adapter_model.safetensors"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == alone


def test_cancel_takes_effect_before_the_next_step(base: LoadedModel, tiny: BaseModelRef) -> None:
    """A job that is cancelled after two steps ends CANCELLED with two snapshots."""
    request, observer = request_of(tiny), Recording(cancel_after=2)
    (outcome,) = run(base, request, observer=observer)
    assert outcome.state == JobState.CANCELLED
    assert len(observer.losses(request)) == 2


def test_too_long_examples_are_invalid(base: LoadedModel, tiny: BaseModelRef) -> None:
    """An example longer than the model's context fails the job; the message has its number and its length."""
    long = Example("1 " * tiny_model.CONTEXT_TOKENS, "2")
    (outcome,) = run(base, request_of(tiny, training=(EXAMPLES[0], long)))
    assert outcome.failure is not None
    assert outcome.failure.kind == FailureKind.INVALID
    assert "1 of 2 training examples are longer than the base model's 128 tokens" in outcome.failure.message
    assert "number 2" in outcome.failure.message


def test_no_examples_are_invalid(base: LoadedModel, tiny: BaseModelRef) -> None:
    """A request without training examples is refused."""
    (outcome,) = run(base, request_of(tiny, training=()))
    assert outcome.failure is not None
    assert outcome.failure.kind == FailureKind.INVALID


def test_a_multiplier_trains_as_its_learning_rate(base: LoadedModel, tiny: BaseModelRef) -> None:
    """A multiplier of 10 trains as the learning rate 0.01."""
    observer = Recording()
    plain = request_of(tiny)
    times = request_of(tiny, key="b")
    multiplied = replace(times.hyperparameters, learning_rate=None, learning_rate_multiplier=10.0)
    times = replace(times, hyperparameters=multiplied)
    run(base, plain, times, observer=observer)
    assert observer.losses(plain) == observer.losses(times)


@given(seed=st.integers(0, 2**32 - 1), epoch=st.integers(1, 100), count=st.integers(0, 50))
def test_an_epoch_sees_every_example_once(seed: int, epoch: int, count: int) -> None:
    """The order of an epoch is a permutation that depends on seed and epoch alone."""
    order = epoch_order(seed, epoch, count)
    assert sorted(order) == list(range(count))
    assert order == epoch_order(seed, epoch, count)
