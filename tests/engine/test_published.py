"""The base models of conf/model/, shrunk and with random weights: tuned, called, and loaded with PEFT."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine import chat_templates, peft_loop, tiny_model, tokenizers
from tests.engine.published import CONFIGS, shrunk
from tests.engine.test_generation import tune
from tunerun.engine import layers, lora, model_facts, network
from tunerun.engine.generation import Generation
from tunerun.examples import Example
from tunerun.generation import GenerateOptions, Prompt
from tunerun.job import TuningHyperparameters

pytestmark = pytest.mark.engine

TEMPLATES = {
    "smollm2": "smollm2", "qwen3": "qwen3", "llama-3.2": "llama-3.2", "gemma-3": "gemma-3", "smollm3": "smollm3",
    "phi-4": "phi-4-mini",
}  # fmt: skip
BEFORE_ANSWER = {
    "smollm2": "<|im_end|>\n<|im_start|>assistant\n",
    "qwen3": "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "llama-3.2": "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "gemma-3": "<end_of_turn>\n<start_of_turn>model\n",
    "smollm3": "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n",
    "phi-4": "<|end|><|assistant|>",
}
ASKED = Prompt("twenty two and some more words", GenerateOptions(max_output_tokens=5))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tokenizers.of_bytes(tiny_model.EXAMPLES, chat_templates.SPECIAL_TOKENS, chat_templates.ADDED_TOKENS)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "smollm2-135m"])
def test_a_published_model_is_tuned_and_loaded_in_peft(name: str, tokenizer: Any, tmp_path: Path) -> None:
    """Its layers and its chat format without reasoning are found, the loss falls, and PEFT gives the same answers."""
    family = next(family for family in TEMPLATES if name.startswith(family))
    tokenizer.chat_template = chat_templates.WITH_SYSTEM[TEMPLATES[family]]
    tokenizer.save_pretrained(tmp_path / "model")
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        config = shrunk(name, tokenizer)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    torch.set_num_threads(1)
    model = tiny_model.model_of(tmp_path / "model")
    base = network.load(model, tmp_path / "cache", network.choose_device("cpu"))
    assert base.chat.suffix == BEFORE_ANSWER[family]
    assert base.turns.system is not None
    facts = model_facts.of_folder(tmp_path / "model")
    assert facts.layers is not None
    named = sorted(name[name.index("layers.") :] for name in facts.layers)  # what is before it, transformers renames
    assert named == sorted(name[name.index("layers.") :] for name in layers.with_adapter(base.network))
    shape = facts.shape
    assert shape is not None
    matrices = lora.fresh(base, TuningHyperparameters(adapter_rank=1), 0).parameters()
    assert shape.adapter_width == sum(matrix.numel() for matrix in matrices)
    training = (*tiny_model.EXAMPLES[:3], Example("8", "9", system="Count."))
    request = tiny_model.request_of(model, training=training, batch_size=4, epoch_count=4, learning_rate=0.03)
    tuned = tune(base, request, tmp_path)
    first, *_, last = _losses(tuned)
    assert last < first
    asked = replace(ASKED, adapter=str(tuned))
    (answer,) = Generation(base).answer([asked])
    assert answer != Generation(base).answer([ASKED])[0]
    with peft_loop.learned_adapter(base, tuned) as adapted:
        assert Generation(replace(base, network=adapted)).answer([ASKED]) == [answer]


def _losses(folder: Path) -> list[float]:
    from tunerun.engine import tuned_model

    finished = tuned_model.read_finished(folder)
    assert finished is not None
    return [snapshot.mean_loss for snapshot in finished.snapshots]
