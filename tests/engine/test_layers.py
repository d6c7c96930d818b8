"""Which layers get adapters, in state-space models and mixtures of experts too; the record names the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import REPOSITORY
from tests.engine import peft_loop, tiny_model, training
from tests.engine.observer import Recording
from tests.engine.test_generation import tune
from tunerun.engine import layers, lora, model_facts, network
from tunerun.engine.forms.padded import Padded
from tunerun.engine.generation import Generation
from tunerun.engine.network import LoadedModel
from tunerun.generation import GenerateOptions, Prompt
from tunerun.job import JobState, TuningHyperparameters

ATTENTION = {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 128,
}
STATE = {"state_size": 4, "num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 8}
HYBRID = {
    "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 8,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}

ARCHITECTURES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "mamba": ({"state_size": 4}, ("mixer", "mixer.conv1d", "mixer.dt_proj", "mixer.out_proj")),
    "mamba2": (STATE, ("mixer.conv1d", "mixer.out_proj")),
    "falcon_h1": (ATTENTION | HYBRID, ("mamba.conv1d", "mamba.out_proj")),
    "mixtral": (ATTENTION | {"num_local_experts": 4}, ("mlp.experts", "mlp.gate")),
    "qwen2_moe": (
        ATTENTION | EXPERTS | {"shared_expert_intermediate_size": 16},
        ("mlp.experts", "mlp.gate", "mlp.shared_expert_gate"),
    ),
    "deepseek_v3": (
        ATTENTION
        | {
            "num_key_value_heads": 4,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
            "n_shared_experts": 1,
        },
        (
            "mlp.down_proj",
            "mlp.experts",
            "mlp.gate",
            "mlp.gate_proj",
            "mlp.shared_experts.down_proj",
            "mlp.shared_experts.gate_proj",
            "mlp.shared_experts.up_proj",
            "mlp.up_proj",
        ),
    ),
    "gpt_oss": (ATTENTION | {"num_local_experts": 4, "head_dim": 8}, ("mlp.experts", "mlp.router")),
    "gpt2": ({"n_positions": 128, "n_head": 4}, ()),
}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def other(
    request: pytest.FixtureRequest, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[LoadedModel, Path, tuple[str, ...]]:
    """A tiny model of another architecture, prepared and loaded like any base model."""
    settings, left_alone = ARCHITECTURES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    tiny_model.build_other(folder / "model", tiny_folder, request.param, **settings)
    model = tiny_model.model_of(folder / "model")
    torch.set_num_threads(1)
    return network.load(model, folder / "cache", network.choose_device("cpu")), folder, left_alone


def test_other_architectures_learn(other: tuple[LoadedModel, Path, tuple[str, ...]], tmp_path: Path) -> None:
    """The loss falls, the base model is unchanged, PEFT loads the saved adapter, and routers get none."""
    base, folder, left_alone = other
    named = model_facts.of_folder(folder / "model").layers  # of experts the files have other names
    assert named is None or set(named) >= set(layers.with_adapter(base.network))
    before = {name: value.clone() for name, value in base.network.state_dict().items()}
    request = tiny_model.request_of(tiny_model.model_of(folder / "model"), epoch_count=6)
    observer = Recording(folder=tmp_path)
    (outcome,) = training.train([request], base, observer)
    assert outcome.state is JobState.SUCCEEDED, outcome.failure
    losses = observer.losses(request)
    assert losses[-1] < losses[0]
    assert all(torch.equal(value, before[name]) for name, value in base.network.state_dict().items())
    learned = {name: value for name, value in observer.adapters[request.key].items() if "lora_B" in name}
    assert all(bool(value.any()) for value in learned.values()), "an adapter without effect"
    assert not any(router in name for name in learned for router in (".gate.", ".router.", "shared_expert_gate"))
    with network.peft_warnings_ignored():
        from peft import PeftModel  # 4 s of import, which every run of the tests would take while it collects

        adapted = PeftModel.from_pretrained(base.network, tmp_path / request.tuned_model_id)
    missed = {name.rpartition(".")[0] for name in layers.without_adapter(base.network, adapted.targeted_module_names)}
    assert tuple(sorted(name.partition("*.")[2] for name in missed)) == left_alone
    peft_loop.take_off(base, adapted)


def test_other_architectures_answer_different_adapters_together(
    other: tuple[LoadedModel, Path, tuple[str, ...]], tmp_path: Path
) -> None:
    """Answers are the same in one call, alone, and from PEFT, whether or not layers treat a batch row by row."""
    base, folder, _ = other
    model = tiny_model.model_of(folder / "model")
    settings: dict[str, Any] = {"epoch_count": 3, "learning_rate": 0.05}
    tuned = [tune(base, tiny_model.request_of(model, key=key, seed=ord(key), **settings), tmp_path) for key in "ab"]
    options = GenerateOptions(max_output_tokens=6)
    prompts = [
        Prompt(text, options, adapter)
        for adapter in (None, *map(str, tuned))
        for text in ("8", "twenty two and some more words")
    ]
    together = Generation(base).answer(prompts)
    assert together == [Generation(base).answer([prompt])[0] for prompt in prompts]
    assert len(set(together)) > 2
    (answer,) = Generation(base).answer([Prompt("8", options, str(tuned[0]))])
    with peft_loop.learned_adapter(base, tuned[0]) as adapted:
        alone = Generation(replace(base, network=adapted)).answer([Prompt("8", options)])
    assert [answer] == alone


def test_other_architectures_measure_outputs_as_whole_sequences(
    other: tuple[LoadedModel, Path, tuple[str, ...]],
) -> None:
    """The prompts' common prefix is computed once if the architecture allows it, with the same losses."""
    base, _folder, _ = other
    rows = [(text, ("9", "twenty three", "x")) for text in ("8", "twenty two and some more words")]
    shared = Generation(base).measure(rows)
    # A form that was not probed is not trusted to follow a cached prefix, so nothing is shared.
    whole_sequences = Generation(replace(base, form=Padded())).measure(rows)
    for one, whole in zip(shared, whole_sequences, strict=True):
        assert [each.nats for each in one] == pytest.approx([each.nats for each in whole], rel=1e-4)


def test_record_names_what_has_no_adapter(base: LoadedModel) -> None:
    """The adapter of a plain model changes every layer, so the list is empty."""
    assert layers.without_adapter(base.network, layers.with_adapter(base.network)) == ()


def test_same_bytes_in_every_process(tiny_folder: Path, tmp_path: Path) -> None:
    """The saved files do not depend on the order of sets, which differs between processes."""
    deep = tiny_model.build_other(tmp_path / "model", tiny_folder, "llama", **ATTENTION | {"num_hidden_layers": 4})
    in_process = tmp_path / "in process"  # whose hashes have a seed of their own
    base = network.load(tiny_model.model_of(deep), tmp_path / "cache", network.choose_device("cpu"))
    lora.fresh(base, TuningHyperparameters(), 0).save(("owner/name", "a1"), in_process)
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tunerun.engine import lora, network\n"
        "from tunerun.job import TuningHyperparameters\n"
        "from tests.engine import tiny_model\n"
        "source, cache, out = map(Path, sys.argv[1:])\n"
        "base = network.load(tiny_model.model_of(source), cache, network.choose_device('cpu'))\n"
        "lora.fresh(base, TuningHyperparameters(), 0).save(('owner/name', 'a1'), out)\n"
    )
    out = tmp_path / "other process"
    command = [sys.executable, "-c", code, str(deep), str(tmp_path / "cache"), str(out)]
    subprocess.run(command, check=True, capture_output=True, cwd=REPOSITORY, env=os.environ | {"PYTHONHASHSEED": "1"})
    written = [{file.name: file.read_bytes() for file in folder.iterdir()} for folder in (in_process, out)]
    assert written[0] == written[1]
    config = json.loads(written[0]["adapter_config.json"])
    assert (config["base_model_name_or_path"], config["revision"]) == ("owner/name", "a1")
