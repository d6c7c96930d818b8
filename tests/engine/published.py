"""What the config.json of published base models says of their size and form, and the same shrunk for tests.

Read on 2026-11-26: Qwen3 and Llama 3.2 as torchtune's model builders and published copies of config.json have them;
Gemma 3 as transformers' convert_gemma3_weights.py; SmolLM2, SmolLM3 and Phi-4-mini from published copies of config.json.
"""

from __future__ import annotations

from typing import Any

_QWEN3 = {
    "model_type": "qwen3",
    "vocab_size": 151936,
    "head_dim": 128,
    "num_key_value_heads": 8,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000,
    "sliding_window": None,
    "use_sliding_window": False,
}
_LLAMA = {
    "model_type": "llama",
    "vocab_size": 128256,
    "num_key_value_heads": 8,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "tie_word_embeddings": True,
}
_SMOLLM2 = {
    "model_type": "llama",
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100_000,
    "tie_word_embeddings": True,
}
_GEMMA3 = {
    "model_type": "gemma3_text",
    "vocab_size": 262144,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 512,
    "max_position_embeddings": 32768,
    "hidden_activation": "gelu_pytorch_tanh",
    "rope_theta": 1_000_000,
    "rope_local_base_freq": 10_000,
    "tie_word_embeddings": True,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "smollm2-135m": _SMOLLM2 | {
        "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
        "intermediate_size": 1536,
    },
    "smollm2-360m": _SMOLLM2 | {
        "hidden_size": 960, "num_hidden_layers": 32, "num_attention_heads": 15, "num_key_value_heads": 5,
        "intermediate_size": 2560,
    },
    "smollm2-1.7b": _SMOLLM2 | {
        "hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 32, "num_key_value_heads": 32,
        "intermediate_size": 8192, "rope_theta": 130_000,
    },
    "qwen3-0.6b": _QWEN3 | {
        "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "intermediate_size": 3072,
        "tie_word_embeddings": True,
    },
    "qwen3-1.7b": _QWEN3 | {
        "hidden_size": 2048, "num_hidden_layers": 28, "num_attention_heads": 16, "intermediate_size": 6144,
        "tie_word_embeddings": True,
    },
    "qwen3-4b": _QWEN3 | {
        "hidden_size": 2560, "num_hidden_layers": 36, "num_attention_heads": 32, "intermediate_size": 9728,
        "tie_word_embeddings": True,
    },
    "qwen3-8b": _QWEN3 | {
        "hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32, "intermediate_size": 12288,
        "tie_word_embeddings": False,
    },
    "llama-3.2-1b": _LLAMA | {
        "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "head_dim": 64,
    },
    "llama-3.2-3b": _LLAMA | {
        "hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 24, "head_dim": 128,
    },
    "gemma-3-270m": _GEMMA3 | {
        "hidden_size": 640, "num_hidden_layers": 18, "num_attention_heads": 4, "num_key_value_heads": 1,
        "intermediate_size": 2048,
    },
    "gemma-3-1b": _GEMMA3 | {
        "hidden_size": 1152, "num_hidden_layers": 26, "num_attention_heads": 4, "num_key_value_heads": 1,
        "intermediate_size": 6912,
    },
    "gemma-3-4b": _GEMMA3 | {
        "hidden_size": 2560, "num_hidden_layers": 34, "num_attention_heads": 8, "num_key_value_heads": 4,
        "intermediate_size": 10240, "sliding_window": 1024, "max_position_embeddings": 131072,
    },
    "smollm3-3b": {
        "model_type": "smollm3", "vocab_size": 128256, "hidden_size": 2048, "num_hidden_layers": 36,
        "num_attention_heads": 16, "num_key_value_heads": 4, "intermediate_size": 11008,
        "max_position_embeddings": 65536, "rms_norm_eps": 1e-6, "rope_theta": 5_000_000.0,
        "no_rope_layer_interval": 4, "use_sliding_window": False, "tie_word_embeddings": True,
    },
    "phi-4-mini": {
        "model_type": "phi3", "vocab_size": 200064, "hidden_size": 3072, "num_hidden_layers": 32,
        "num_attention_heads": 24, "num_key_value_heads": 8, "intermediate_size": 8192,
        "max_position_embeddings": 131072, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0, "partial_rotary_factor": 0.75, "sliding_window": 262144, "tie_word_embeddings": True,
    },
}  # fmt: skip
"""The fields of config.json that decide form and size; the rest is as transformers' classes have it."""

PARAMETERS = {
    "smollm2-135m": 0.135e9, "smollm2-360m": 0.36e9, "smollm2-1.7b": 1.7e9, "qwen3-0.6b": 0.6e9, "qwen3-1.7b": 1.7e9,
    "qwen3-4b": 4.0e9, "qwen3-8b": 8.2e9, "llama-3.2-1b": 1.23e9, "llama-3.2-3b": 3.21e9, "gemma-3-270m": 0.27e9,
    "gemma-3-1b": 1.0e9, "gemma-3-4b": 3.9e9, "smollm3-3b": 3.1e9, "phi-4-mini": 3.8e9,
}  # fmt: skip
"""As the models' own pages say, rounded as there; of Gemma 3 4B without what sees."""

_PHI_FACTORS = {"short_factor": [1.0, 1.0, 1.0], "long_factor": [1.0, 7.485, 47.77]}
"""Of 48 and of 1 to 47.77 in the model's own config.json; one for each two of the rotary dimensions."""

_VISION = {
    "model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
    "num_attention_heads": 2, "image_size": 28, "patch_size": 14, "vision_use_head": False,
}  # fmt: skip


def shrunk(name: str, tokenizer: Any) -> Any:
    """Return a config of the published form, with few layers and small widths, for a tokenizer's vocabulary.

    The proportions of widths, heads and MLP, tied embeddings, rotary settings and kinds of layers are the published
    ones; windows are shorter than a test's rows where the published model's layers have some.
    """
    from transformers import AutoConfig

    given = CONFIGS[name]
    ratio = given["num_attention_heads"] // given["num_key_value_heads"]
    key_values = min(2, given["num_key_value_heads"])
    heads, head = key_values * ratio, 8
    of_attention = given["hidden_size"] / (
        given["num_attention_heads"] * given.get("head_dim", given["hidden_size"] // given["num_attention_heads"])
    )
    width = max(16, 2 * round(heads * head * of_attention / 2))
    small = given | {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": round(width * given["intermediate_size"] / given["hidden_size"]),
        "num_attention_heads": heads,
        "num_key_value_heads": key_values,
        "num_hidden_layers": {"gemma3_text": 6, "smollm3": 4}.get(given["model_type"], 2),
        "initializer_range": 0.3,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    kind = small.pop("model_type")
    if "head_dim" in given:
        small["head_dim"] = head
    if kind == "phi3":
        small["rope_scaling"] = {"rope_type": "longrope", **_PHI_FACTORS}
    if kind == "gemma3_text":
        small |= {"query_pre_attn_scalar": head, "sliding_window": 8}
    if name == "gemma-3-4b":
        small["rope_scaling"] = {"rope_type": "linear", "factor": 8.0}
        return AutoConfig.for_model("gemma3", text_config=small, vision_config=_VISION, mm_tokens_per_image=4)
    return AutoConfig.for_model(kind, **small)
