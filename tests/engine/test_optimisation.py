"""The learning rate of each step, clipping, and resuming with the same bits; transformers is the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine import peft_loop, training
from tests.engine.observer import Recording
from tests.engine.tiny_model import request_of
from tunerun.engine.encoding import NOT_LEARNED, EncodedExample, encode_examples
from tunerun.engine.network import LoadedModel
from tunerun.engine.optimisation import Optimiser, learning_rate
from tunerun.engine.training_run import epoch_order
from tunerun.errors import InputError
from tunerun.job import BaseModelRef, TuningHyperparameters, TuningRequest

FALLING: dict[str, Any] = {"schedule": "cosine", "warmup_fraction": 0.2, "max_grad_norm": 0.5, "epoch_count": 4}


@pytest.mark.parametrize("fraction", [0.0, 0.3])
@pytest.mark.parametrize(
    ("schedule", "theirs"), [("constant", "constant_with_warmup"), ("linear", "linear"), ("cosine", "cosine")]
)
def test_schedules_are_those_of_transformers(schedule: str, theirs: str, fraction: float) -> None:
    """Every step's learning rate is the one that transformers gives for the same number of steps."""
    from transformers import TrainingArguments, get_scheduler

    steps, settings = 21, TuningHyperparameters(schedule=schedule, warmup_fraction=fraction, learning_rate=0.01)
    adamw = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=0.01)
    warmup = TrainingArguments("unused", warmup_steps=fraction).get_warmup_steps(steps)
    scheduler = get_scheduler(theirs, adamw, num_warmup_steps=warmup, num_training_steps=steps)
    for taken in range(steps):
        assert learning_rate(settings, taken, steps) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-12, abs=1e-15)
        adamw.step()
        scheduler.step()


def side_by_side(rows: list[EncodedExample], pad_id: int) -> dict[str, torch.Tensor]:
    time = max(map(len, rows))
    tokens = [row.prompt + row.target + [pad_id] * (time - len(row)) for row in rows]
    labels = [row.labels(0) + [NOT_LEARNED] * (time - len(row)) for row in rows]
    return {"input_ids": torch.tensor(tokens), "labels": torch.tensor(labels)}


def losses_of_a_trainer(base: LoadedModel, request: TuningRequest, folder: Path) -> list[float]:
    """Return the loss of each step from transformers' Trainer with a PEFT adapter, on rows in our order."""
    from transformers import Trainer, TrainingArguments

    chosen = request.hyperparameters
    rows = encode_examples(base.tokenizer, base.chat, request.training, base.turns)
    orders = [epoch_order(request.seed, epoch, len(rows)) for epoch in range(1, chosen.epoch_count + 1)]
    dataset = [
        side_by_side([rows[place] for place in order[start : start + chosen.batch_size]], base.pad_id)
        for order in orders
        for start in range(0, len(order), chosen.batch_size)
    ]
    with peft_loop.fresh_adapter(base, chosen, request.seed) as adapted:
        trainer = Trainer(
            adapted,
            TrainingArguments(
                str(folder),
                per_device_train_batch_size=1,
                num_train_epochs=1,
                learning_rate=chosen.effective_learning_rate,
                weight_decay=0.0,
                max_grad_norm=chosen.max_grad_norm or 0.0,
                lr_scheduler_type=chosen.schedule,
                warmup_steps=chosen.warmup_fraction,
                train_sampling_strategy="sequential",
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                use_cpu=True,
                disable_tqdm=True,
                dataloader_pin_memory=False,
            ),
            train_dataset=dataset,
            data_collator=lambda entries: entries[0],
        )
        adapted.eval()
        trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.filterwarnings("ignore")
def test_losses_are_those_of_transformers_trainer(base: LoadedModel, tiny: BaseModelRef, tmp_path: Path) -> None:
    """With clipping, warm-up and a cosine schedule, the loss of every step equals the Trainer's."""
    request, observer = request_of(tiny, **FALLING), Recording()
    list(training.train([request], base, observer))
    theirs = losses_of_a_trainer(base, request, tmp_path)
    assert observer.losses(request) == pytest.approx(theirs, rel=1e-4)
    plain = Recording()
    list(training.train([request_of(tiny, **FALLING | {"max_grad_norm": None})], base, plain))
    assert observer.losses(request) != pytest.approx(plain.losses(request), rel=1e-3)


def test_training_continues_with_the_same_bits() -> None:
    """An optimiser with the state of another one computes the steps that the other one would have computed."""
    settings = TuningHyperparameters(schedule="linear", warmup_fraction=0.5, max_grad_norm=0.1)

    def learned(steps: range, start: list[torch.Tensor], state: dict[str, torch.Tensor] | None) -> tuple[Any, Any]:
        parameters = [value.clone().requires_grad_(True) for value in start]
        optimiser = Optimiser(parameters, settings, 6)
        if state is not None:
            optimiser.load_state(state)
        for step in steps:
            for parameter in parameters:
                parameter.grad = torch.linspace(-1, step, parameter.numel()).view_as(parameter)
            optimiser.step()
        return [parameter.detach() for parameter in parameters], optimiser.state()

    start = [torch.ones(3, 2), torch.zeros(4)]
    whole, _state = learned(range(6), start, None)
    half, state = learned(range(3), start, None)
    rest, _state = learned(range(3, 6), half, state)
    assert all(torch.equal(a, b) for a, b in zip(whole, rest, strict=True))


def test_a_falling_rate_is_a_training_run_of_its_own(base: LoadedModel, tiny: BaseModelRef) -> None:
    """Trials of 1 and 2 epochs share their first epoch only with a constant rate."""

    def sharing(**settings: Any) -> set[str]:
        requests = [request_of(tiny, key=key, epoch_count=int(key), **settings) for key in "12"]
        return {o.trained.training_run for o in training.train(requests, base, Recording()) if o.trained is not None}

    assert sharing() == {"", "2" * 64}
    assert sharing(schedule="linear") == sharing(warmup_fraction=0.5) == {""}


def test_target_modules_choose_layers(base: LoadedModel, tiny: BaseModelRef) -> None:
    """Only layers whose names end in a target get an adapter; an unknown target is an error that lists the possible ones."""
    request, observer = request_of(tiny, target_modules=("self_attn.q_proj", "down_proj")), Recording()
    list(training.train([request], base, observer))
    adapted = {name.split(".lora_")[0].rpartition(".")[2] for name in observer.adapters[request.key]}
    assert adapted == {"q_proj", "down_proj"}
    (outcome,) = training.train([request_of(tiny, target_modules=("q_proj", "proj", "lm_head"))], base, Recording())
    assert outcome.failure is not None
    with pytest.raises(InputError, match=r"called proj, lm_head; there are .*q_proj.*; choose among these"):
        raise InputError(outcome.failure.message)


def test_the_last_epochs_are_averaged(base: LoadedModel, tiny: BaseModelRef) -> None:
    """A trial of two epochs with `average_last: 2` has the mean of the adapters of trials of one and two epochs."""
    one, two = (request_of(tiny, key=key, epoch_count=int(key)) for key in "12")
    mean, observer = request_of(tiny, key="3", epoch_count=2, average_last=2), Recording()
    for request in (one, two, mean):
        list(training.train([request], base, observer))
    for name, found in observer.adapters[mean.key].items():
        expected = (observer.adapters[one.key][name] + observer.adapters[two.key][name]) / 2
        torch.testing.assert_close(found, expected)
