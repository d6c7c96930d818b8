"""The size of a base model, as far as its memory depends on it, from its config and the shapes of its weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from tunerun.engine.target_modules import OTHER_SENSES

LAYER_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_WIDTHS = ("hidden_size", "n_embd", "d_model")
_INNER_WIDTHS = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_KEY_VALUE_HEADS = ("num_key_value_heads", "num_kv_heads")

_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks|block)\.(\d+)\.")

Tensor = tuple[str, list[int]]
"""The type and the shape of a tensor."""


@dataclass(frozen=True)
class ModelShape:
    """The size of a base model.

    Attributes:
        parameters: all parameters; those that two layers share count once.
        linear_parameters: the parameters of the linear layers that an adapter changes.
        adapter_width: the sum of the inputs and outputs of these layers: an adapter has rank times as many parameters.
        layers: the number of transformer layers.
        width: of the residual stream.
        inner: the width between the two layers of the MLP.
        attention: the width of all attention heads together.
        vocabulary: the number of tokens that the output layer chooses from.
    """

    parameters: int
    linear_parameters: int
    adapter_width: int
    layers: int
    width: int
    inner: int
    attention: int
    vocabulary: int


def of_config(config: Mapping[str, Any], tensors: Mapping[str, Tensor] = MappingProxyType({})) -> ModelShape | None:
    """Return the size of a base model; None: its config does not have the fields of a transformer.

    Args:
        config: the content of config.json.
        tensors: the type and shape of each tensor; without them parameters are counted as in a Llama.
    """
    text = text_config(config)
    width, layers, heads = (first_count(text, names) for names in (_WIDTHS, LAYER_COUNTS, _HEADS))
    vocabulary = first_count(text, ("vocab_size",))
    if width is None or layers is None or heads is None or vocabulary is None:
        return None
    head = first_count(text, ("head_dim",)) or width // heads
    attention = heads * head
    key_value = (first_count(text, _KEY_VALUE_HEADS) or heads) * head
    inner = first_count(text, _INNER_WIDTHS) or 4 * width

    if tensors:
        parameters = sum(math.prod(shape) for _, shape in tensors.values())
        # The linear layers inside of the language model's layers.
        adapted = [
            shape
            for name, (_, shape) in tensors.items()
            if len(shape) == 2 and _LAYER.search(name) and OTHER_SENSES.isdisjoint(name.split("."))
        ]
        linear, adapter = sum(map(math.prod, adapted)), sum(map(sum, adapted))
    else:
        sizes = [(width, attention), (width, key_value), (width, key_value), (attention, width)]
        sizes += [(width, inner), (width, inner), (inner, width)]
        linear = layers * sum(inputs * outputs for inputs, outputs in sizes)
        adapter = layers * sum(inputs + outputs for inputs, outputs in sizes)
        is_tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings"))
        parameters = linear + vocabulary * width * (1 if is_tied else 2)
    return ModelShape(parameters, linear, adapter, layers, width, inner, attention, vocabulary)


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a config that describes the language model; models with image input have it nested."""
    nested = config.get("text_config")
    return nested if isinstance(nested, dict) else config


def first_count(config: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    """Return the first positive integer in a config under one of the names that architectures use for it; or None."""
    values = (config.get(name) for name in names)
    return next((value for value in values if isinstance(value, int) and value > 0), None)


def layer_count(tensors: Iterable[str], pattern: re.Pattern[str] = _LAYER) -> int | None:
    """Return the number of layers that the names of tensors show; None: no name has a layer's number.

    Args:
        tensors: names.
        pattern: its first group is the number of a layer, from 0; by default that of transformers.
    """
    numbers = [int(match[1]) for name in tensors if (match := pattern.search(name))]
    return max(numbers) + 1 if numbers else None
