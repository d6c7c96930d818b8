"""A pack: each trial learns what it learns alone, also if others fail, diverge or are cancelled."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engine import peft_loop, tiny_model, training
from tests.engine.observer import Recording
from tests.engine.tiny_model import EXAMPLES, HELD_OUT, request_of
from tunerun.engine import devices, forms, lora, machine, memory, model_shape, network, pass_limits
from tunerun.engine.network import LoadedModel
from tunerun.engine.pack import Pack, most_members
from tunerun.engine.settings import EngineSettings
from tunerun.examples import Example
from tunerun.job import BaseModelRef, FailureKind, JobState, TuningHyperparameters, TuningRequest


def trained(base: LoadedModel, *requests: TuningRequest, most: int = 8) -> Recording:
    observer = Recording()
    for outcome in training.train(requests, base, observer, most=most):
        observer.outcomes[outcome.request.key] = outcome
    return observer


@pytest.mark.parametrize("rank", [1, 8])
def test_a_fresh_adapter_has_the_bits_of_pefts(base: LoadedModel, rank: int) -> None:
    """The same seed gives exactly the numbers that PEFT draws."""
    chosen = TuningHyperparameters(adapter_rank=rank)
    ours = lora.fresh(base, chosen, seed=3).named()
    with peft_loop.fresh_adapter(base, chosen, 3) as adapted:
        theirs = {name.replace(".default", ""): one for name, one in adapted.named_parameters() if one.requires_grad}
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_trials_of_a_pack_learn_what_they_learn_alone(base: LoadedModel, tiny: BaseModelRef) -> None:
    """With mixed rates, ranks, seeds, batch sizes and examples, the losses of every step agree with those alone."""
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
    """One becomes NaN; the others stay finite and end as they do alone."""
    request, other = request_of(tiny), request_of(tiny, key="b", learning_rate=1e30)
    together = trained(base, other, request)
    failure = together.outcomes[other.key].failure
    assert failure is not None
    assert failure.kind is FailureKind.DIVERGED
    assert together.losses(request) == pytest.approx(trained(base, request).losses(request), rel=1e-4)


def test_trials_that_differ_in_epochs_alone_are_one_training_run(base: LoadedModel, tiny: BaseModelRef) -> None:
    """Both have the bits that each has alone, and the short one records the key of the long one."""
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


TEMPLATES: tuple[Callable[[Example], Example], ...] = (
    lambda example: example,
    lambda example: Example(f"what follows {example.text_input}?", example.output),
    lambda example: Example(example.text_input, example.output, system="count"),
)

MIXES = st.lists(
    st.fixed_dictionaries(
        {
            "learning_rate": st.sampled_from([0.001, 0.005, 0.02]),
            "adapter_rank": st.sampled_from([1, 2, 8]),
            "adapter_alpha": st.sampled_from([4.0, 16.0]),
            "batch_size": st.integers(1, 7),
            "epoch_count": st.integers(1, 3),
            "target_modules": st.sampled_from([None, ("q_proj", "v_proj"), ("down_proj",)]),
            "max_grad_norm": st.sampled_from([None, 0.5]),
            "schedule": st.sampled_from(["constant", "cosine"]),
            "seed": st.integers(0, 99),
            "template": st.integers(0, len(TEMPLATES) - 1),
            "rows": st.integers(2, len(EXAMPLES)),
        }
    ),
    min_size=2,
    max_size=6,
)


def mixed(tiny: BaseModelRef, mix: list[dict[str, Any]]) -> list[TuningRequest]:
    return [
        request_of(
            tiny,
            key="abcdef"[number],
            seed=chosen["seed"],
            training=tuple(map(TEMPLATES[chosen["template"]], EXAMPLES[: chosen["rows"]])),
            **{name: value for name, value in chosen.items() if name not in ("seed", "template", "rows")},
        )
        for number, chosen in enumerate(mix)
    ]


def answers_of(base: LoadedModel, adapter: lora.LearningAdapter) -> list[list[int]]:
    """Greedy answers of four tokens to the held-out inputs."""
    found = []
    with torch.no_grad(), lora.on(base.network, [adapter]):
        for example in HELD_OUT:
            ids = base.tokenizer.encode(base.chat.prompt(example.text_input), add_special_tokens=False).ids
            for _token in range(4):
                logits = base.network(input_ids=torch.tensor([ids], device=base.device)).logits
                ids = [*ids, int(logits[0, -1].argmax())]
            found.append(ids[-4:])
    return found


def differences(base: LoadedModel, requests: list[TuningRequest]) -> tuple[float, float, int]:
    """The largest relative difference of a loss from the trial alone, in the first epoch and in all; equal answers."""
    together = trained(base, *requests)
    first, later, equal = 0.0, 0.0, 0
    for request in requests:
        alone = trained(base, request, most=1)
        ends = alone.snapshots[request.key]
        assert len(together.snapshots[request.key]) == len(ends)
        for ours, theirs in zip(together.snapshots[request.key], ends, strict=True):
            difference = abs(ours.mean_loss - theirs.mean_loss) / abs(theirs.mean_loss)
            later = max(later, difference)
            first = max(first, difference) if theirs.epoch == 1 else first
        answers = [answers_of(base, one.finished[request.key].adapter) for one in (together, alone)]
        equal += answers[0] == answers[1]
    return first, later, equal


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(mix=MIXES)
def test_random_mixes_learn_what_they_learn_alone(base: LoadedModel, tiny: BaseModelRef, mix: list[Any]) -> None:
    """Relative differences are below 1e-5 in the first epoch and 1e-3 at the end; greedy answers are equal. `pytest -s` shows them."""
    requests = mixed(tiny, mix)
    first, later, equal = differences(base, requests)
    sys.stdout.write(
        f"\na pack of {len(requests)} against each alone: loss {first:.1e} in the first epoch, {later:.1e} to the end; "
        f"{equal} of {len(requests)} answer equally"
    )
    assert first <= 1e-5
    assert later <= 1e-3
    assert equal == len(requests)


@pytest.mark.parametrize(
    ("architecture", "chosen"),
    [
        ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "hidden_size": 32}),
        ("qwen3", {"intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}),
        ("mistral", {"intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 8}),
        ("bloom", {"n_head": 4, "n_layer": 2}),
    ],
)
def test_other_architectures_learn_what_they_learn_alone(
    tiny_folder: Path, cache: Path, tmp_path: Path, architecture: str, chosen: dict[str, Any]
) -> None:
    """In a pack if the architecture allows it, otherwise one by one."""
    model = tiny_model.model_of(tiny_model.build_other(tmp_path / architecture, tiny_folder, architecture, **chosen))
    other = network.load(model, cache, network.choose_device("cpu"))
    requests = [
        request_of(model, key="a"),
        request_of(model, key="b", seed=3, adapter_rank=2, learning_rate=0.005, batch_size=2),
        request_of(model, key="c", seed=4, batch_size=7),
    ]
    first, later, equal = differences(other, requests)
    sys.stdout.write(f"\n{architecture} ({forms.choose(other).name}): {first:.1e}, {later:.1e}, {equal} of 3 answers")
    assert first <= 1e-5
    assert later <= 1e-3
    assert equal == 3


def test_the_same_pack_gives_the_same_bits(base: LoadedModel, tiny: BaseModelRef) -> None:
    """For requests in the same order; with one trial per pass, the bits of each alone."""
    requests = [request_of(tiny, key=key, seed=int(key, 16), batch_size=int(key, 16) - 8) for key in "abc"]
    runs = [trained(base, *requests, most=most) for most in (8, 8, 1)]
    for request in requests:
        assert runs[0].losses(request) == runs[1].losses(request)
        assert runs[2].losses(request) == trained(base, request).losses(request)
        same = runs[0].adapters[request.key].items()
        assert all(torch.equal(value, runs[1].adapters[request.key][name]) for name, value in same)


def test_a_trial_that_leaves_or_joins_does_not_change_the_others(base: LoadedModel, tiny: BaseModelRef) -> None:
    """Losses of the others are those of a pack without it."""

    class CancelsOne(Recording):
        def is_cancelled(self, request: TuningRequest) -> bool:
            return request.key == "f" * 64 and len(self.losses(request)) >= 2

    others = [request_of(tiny, key=key, seed=int(key, 16)) for key in "ab"]
    without, observer = trained(base, *others), CancelsOne()
    pack = Pack(base, observer, most=8)
    pack.add([others[0], request_of(tiny, key="f", seed=7), others[1]])
    outcomes = list(pack.step())
    pack.add([request_of(tiny, key="e", seed=9)])
    while not pack.is_empty:
        outcomes += pack.step()
    states = {outcome.request.key[0]: outcome.state for outcome in outcomes}
    assert states == dict.fromkeys("abe", JobState.SUCCEEDED) | {"f": JobState.CANCELLED}
    for request in others:
        assert observer.losses(request) == pytest.approx(without.losses(request), rel=1e-6)


@pytest.mark.parametrize(
    ("packing", "expected"), [("off", 1), (3, 3), (40, 40), ("auto", pass_limits.most_members("auto", "cpu"))]
)
def test_how_many_runs_share_a_pass_is_configured(
    packing: str | int, expected: int, base: LoadedModel, tiny: BaseModelRef
) -> None:
    """`auto` is the most that speeds up this device; a number is used as it is."""
    chosen = replace(base, settings=EngineSettings(device="cpu", packing=packing))
    assert most_members(chosen, request_of(tiny)) == expected


@pytest.mark.parametrize(("share", "expected"), [(3.5, 3), (0.5, 1)])
def test_auto_is_limited_by_memory(share: float, expected: int, base: LoadedModel, tiny: BaseModelRef) -> None:
    """A few adapters of this rank fill the memory of this machine; one is trained in any case."""
    shape, available = model_shape.of_config(base.network.config.to_dict()), machine.obtainable_bytes(base.device, 1)
    assert shape is not None
    assert available is not None
    rank = int((available - memory.RUNTIME) / share / (memory.LEARNED_TOGETHER * shape.adapter_width))
    chosen = replace(base, settings=EngineSettings(device="cpu"))
    assert most_members(chosen, request_of(tiny, adapter_rank=rank)) == expected


def test_engines_on_one_machine_share_its_memory(base: LoadedModel, tiny: BaseModelRef) -> None:
    """Each gets an equal part of it, and no more than other programs leave free."""
    total = devices.main_memory_bytes()
    assert total is not None
    assert machine.obtainable_bytes(base.device, 1000) == total // 1000
    assert (machine.obtainable_bytes(base.device, 1) or 0) <= total
    crowded = replace(base, settings=EngineSettings(device="cpu", engines=1000))
    assert most_members(crowded, request_of(tiny)) == 1
