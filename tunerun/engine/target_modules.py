"""The names in `hyperparameters.target_modules` and the layers that they mean. Light: `plan` checks them too."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

OTHER_SENSES = frozenset(
    {"audio_tower", "embed_audio", "embed_vision", "multi_modal_projector", "vision_model", "vision_tower", "visual"}
)
"""Parts of a model that also sees or hears, by their names in transformers; no row of text passes through them."""

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
    """Return why targets are refused; None: each one means a layer.

    Args:
        names: of the layers that can have an adapter.
    """
    names = list(names)
    missing = [target for target in targets if not any(ends_with(name, target) for name in names)]
    if not missing:
        return None
    allowed = list(dict.fromkeys(name.rpartition(".")[2] for name in names))
    close = dict.fromkeys(found for one in missing for found in difflib.get_close_matches(one, allowed, n=1))
    hint = f"; did you mean {', '.join(close)}?" if close else ""
    return (
        f"hyperparameters.target_modules: no layer of the base model that can have an adapter is called "
        f"{', '.join(missing)}; there are {', '.join(allowed)}{hint}; choose among these, or set it to null for all"
    )


def of_tensors(tensors: Mapping[str, tuple[str, list[int]]]) -> tuple[str, ...]:
    """Return the layers that may have an adapter, by the names and shapes of a folder's weights.

    Args:
        tensors: the type and shape of each tensor, by its name. Only of a dense model: transformers merges the experts
            of others into tensors with other names.
    """
    return tuple(
        name.removesuffix(".weight")
        for name, (_, shape) in tensors.items()
        if name.endswith(".weight") and len(shape) == 2 and _may_be_adapted(name.split(".")[:-1])
    )


def _may_be_adapted(parts: Sequence[str]) -> bool:
    return OTHER_SENSES.isdisjoint(parts) and not _NOT_ADAPTED.match(parts[-1])


def of_gguf(architecture: object, tensors: Iterable[str]) -> tuple[str, ...] | None:
    """Return what the layers of a GGUF file are called in transformers; None: not known for this architecture."""
    if architecture not in _GGUF_ARCHITECTURES:
        return None
    found = [match.groups() for name in tensors if (match := _GGUF_LAYER.match(name))]
    linear = [(layer, part) for layer, part in found if not part.endswith("norm")]
    if not linear or any(part not in _OF_GGUF for _, part in linear):
        return None
    return tuple(f"model.layers.{layer}.{_OF_GGUF[part]}" for layer, part in linear)
