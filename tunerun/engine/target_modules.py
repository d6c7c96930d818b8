"""The names in `hyperparameters.target_modules` and the layers that they select. Imports no torch: `plan` uses it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

OTHER_SENSES = frozenset(
    {"audio_tower", "embed_audio", "embed_vision", "multi_modal_projector", "vision_model", "vision_tower", "visual"}
)
"""Parts of multimodal models by their names in transformers; no text passes through them."""

_NOT_ADAPTED = re.compile(r"^(embed\w*|\w*embeddings?|wte|wpe|lm_head|embed_out)$")
"""Embeddings and output layers, by the last part of their names in transformers 5.23."""

_GGUF_LAYER = re.compile(r"^blk\.(\d+)\.(\w+)\.weight$")
_GGUF_ARCHITECTURES = frozenset({"gemma", "gemma2", "gemma3", "llama", "qwen2", "qwen3"})
_OF_GGUF: Mapping[str, str] = MappingProxyType(
    {
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
)
"""Names in GGUF files of these architectures, and in transformers (gguf 0.19, constants.py, MODEL_TENSOR)."""


def ends_with(name: str, target: str) -> bool:
    """Return whether a target, such as `q_proj` or `self_attn.q_proj`, is a layer's name or whole last parts of it."""
    return f".{name}".endswith(f".{target}")


def problem(targets: Sequence[str], names: Iterable[str]) -> str | None:
    """Check that each target selects at least one layer.

    Args:
        targets: from the config.
        names: of the layers that can have an adapter.

    Returns:
        The error message; None: there is no problem.
    """
    names = list(names)
    # One target that selects nothing is a typo, though PEFT (0.21) accepts it if another target selects a layer.
    missing = [target for target in targets if not any(ends_with(name, target) for name in names)]
    if not missing:
        return None
    allowed = list(dict.fromkeys(name.rpartition(".")[2] for name in names))
    close = dict.fromkeys(name for target in missing for name in difflib.get_close_matches(target, allowed, n=1))
    hint = f"; did you mean {', '.join(close)}?" if close else ""
    return (
        f"hyperparameters.target_modules: no layer of the base model that can have an adapter is called "
        f"{', '.join(missing)}; there are {', '.join(allowed)}{hint}; choose among these, or set it to null for all"
    )


def of_tensors(tensors: Mapping[str, tuple[str, list[int]]]) -> tuple[str, ...]:
    """Return the names of the layers that can have an adapter, from the names and shapes of a model's tensors.

    Args:
        tensors: the type and the shape of each tensor, by its name. Of dense models only: transformers merges the
            tensors of experts into others with other names.
    """
    return tuple(
        name.removesuffix(".weight")
        for name, (_, shape) in tensors.items()
        if name.endswith(".weight")
        and len(shape) == 2  # a norm's weight has one dimension, a convolution's three
        and OTHER_SENSES.isdisjoint(name.split("."))
        and not _NOT_ADAPTED.match(name.split(".")[-2])
    )


def of_gguf(architecture: object, tensors: Iterable[str]) -> tuple[str, ...] | None:
    """Return the names that the layers of a GGUF file have in transformers.

    Args:
        architecture: as the file's header states it.
        tensors: the names of the file's tensors.

    Returns:
        The names of the linear layers; None: the architecture, or one of its tensors, is not in `_OF_GGUF`.
    """
    # None rather than a guess: `plan` would refuse right names, while the engine checks the loaded model anyway.
    if architecture not in _GGUF_ARCHITECTURES:
        return None
    weights = [match.groups() for name in tensors if (match := _GGUF_LAYER.match(name))]
    linear = [(layer, part) for layer, part in weights if not part.endswith("norm")]
    if not linear or any(part not in _OF_GGUF for _, part in linear):
        return None
    return tuple(f"model.layers.{layer}.{_OF_GGUF[part]}" for layer, part in linear)
