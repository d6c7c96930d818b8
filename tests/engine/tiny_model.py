"""A random Llama of two layers with a tokenizer and a chat template: a real base model that trains in milliseconds."""

from __future__ import annotations

from pathlib import Path

from tunerun.job import Example, TuningRequest
from tunerun.schema import Hyperparameters, Model, Template

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
HELD_OUT = (Example("two", "three"), Example("thirteen", "fourteen"))


def build(folder: Path, *, chat_template: str | None = CHAT_TEMPLATE) -> Path:
    """Write the model in transformers' format; the same bytes every time."""
    import tokenizers
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([f"{one.text_input} {one.output}" for one in EXAMPLES], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
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
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def model_of(folder: Path) -> Model:
    """Return the config's model section for a folder."""
    return Model(name="tiny", source=str(folder))


def request_of(
    model: Model,
    *,
    key: str = "a",
    seed: int = 0,
    training: tuple[Example, ...] = EXAMPLES,
    validation: tuple[Example, ...] = (),
    **hyperparameters: float,
) -> TuningRequest:
    """Return a request; `key` is a hexadecimal digit that makes the key and the tuned model's id."""
    settings = {"epoch_count": 2, "batch_size": 3, "adapter_rank": 4, "learning_rate": 0.01} | hyperparameters
    return TuningRequest(
        key=key * 64,
        tuned_model_id=f"tiny-{key}",
        model=model,
        hyperparameters=Hyperparameters.model_validate(settings),
        seed=seed,
        template=Template(),
        training=training,
        validation=validation,
    )
