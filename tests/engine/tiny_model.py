"""A random Llama of two layers with a tokenizer and a chat template: a real base model that trains in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.engine import tokenizers
from tests.engine.chat_templates import ADDED_TOKENS, SPECIAL_TOKENS
from tunerun.examples import Example
from tunerun.job import BaseModelRef, TemplateText, TuningHyperparameters, TuningRequest

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTEXT_TOKENS = 128
EXAMPLES = tuple(
    Example(text_input, output)
    for text_input, output in [
        ("1", "2"),
        ("3", "4"),
        ("twenty two", "twenty three"),
        ("ninety nine", "one hundred"),
        ("8", "9"),
        ("one", "two"),
        ("seven", "eight"),
    ]
)
TOKENIZERS: dict[str, Callable[[], Any]] = {
    "bytes": lambda: tokenizers.of_bytes(EXAMPLES, SPECIAL_TOKENS, ADDED_TOKENS),
    "pieces": lambda: tokenizers.of_pieces(EXAMPLES, is_legacy=False),
    "legacy pieces": lambda: tokenizers.of_pieces(EXAMPLES, is_legacy=True),
    "unigram": lambda: tokenizers.of_unigram(EXAMPLES),
}
HELD_OUT = (Example("two", "three"), Example("thirteen", "fourteen"))


def build(folder: Path, *, chat_template: str | None = CHAT_TEMPLATE, tokenizer: Any = None) -> Path:
    """Write the model in transformers' format; the same bytes every time."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tokenizers.of_bytes(EXAMPLES) if tokenizer is None else tokenizer
    tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
        initializer_range=0.3,  # large enough for the frozen output layer to be sure of a token
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def model_of(folder: Path) -> BaseModelRef:
    """Return the base model in a folder."""
    return BaseModelRef(name="tiny", source=str(folder))


def request_of(
    model: BaseModelRef,
    *,
    key: str = "a",
    seed: int = 0,
    training: tuple[Example, ...] = EXAMPLES,
    validation: tuple[Example, ...] = (),
    **hyperparameters: Any,
) -> TuningRequest:
    """Return a request; `key` is a hexadecimal digit that makes the key and the tuned model's id."""
    settings: dict[str, Any] = {
        "epoch_count": 2,
        "batch_size": 3,
        "adapter_rank": 4,
        "learning_rate": 0.01,
    } | hyperparameters
    return TuningRequest(
        key=key * 64,
        tuned_model_id=f"tiny-{key}",
        model=model,
        hyperparameters=TuningHyperparameters(**settings),
        seed=seed,
        template=TemplateText(),
        training=training,
        validation=validation,
    )


def build_other(folder: Path, like: Path, architecture: str, **settings: Any) -> Path:
    """Write a random model of another architecture, with the tokenizer of a folder that `build` wrote."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(like)
    tokenizer.save_pretrained(folder)
    common = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": 0.3,
    }
    config = AutoConfig.for_model(architecture, **(common | settings))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder
