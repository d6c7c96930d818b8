"""Which layers of a base model an adapter changes, and which it leaves alone.

Every linear layer but the output layer gets an adapter, with two exceptions: what chooses between experts (a router
that learns on few rows sends all tokens to one expert), and what PEFT refuses in state-space models, whose kernels read
the weights directly. Experts that are one tensor for all of them get none; the tuned model's record names them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch

_EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_ROUTERS = frozenset({"gate", "router", "shared_expert_gate"})

# peft/tuners/tuners_utils.py 0.21, _check_lora_target_modules_mamba; dt_proj's weight is read without calling the layer
_STATE_SPACE = frozenset({"falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"})
_READ_DIRECTLY = frozenset({"conv1d", "dt_proj", "out_proj"})


def with_adapter(network: Any) -> list[str]:
    """Return the names of the layers that get an adapter, sorted."""
    from transformers.pytorch_utils import Conv1D  # GPT-2's linear layer

    output, config = network.get_output_embeddings(), network.config.get_text_config()
    left_out = _READ_DIRECTLY if config.model_type in _STATE_SPACE else frozenset()
    routers = _ROUTERS if any(getattr(config, name, None) for name in _EXPERT_COUNTS) else frozenset()
    return sorted(
        name
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D)
        and module is not output
        and name.rpartition(".")[2] not in left_out
        and routers.isdisjoint(name.split("."))
    )


def without_adapter(network: Any, adapted: Iterable[str]) -> tuple[str, ...]:
    """Return the weights in layers that get no adapter, embeddings and vectors apart; `*` is any layer's number."""
    return tuple(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in _unadapted(network, frozenset(adapted))))


def _unadapted(network: Any, adapted: frozenset[str]) -> Iterator[str]:
    output = network.get_output_embeddings()
    for name, module in network.named_modules():
        is_inside_adapted = any(name == one or name.startswith(f"{one}.") for one in adapted)
        if is_inside_adapted or module is output or isinstance(module, torch.nn.Embedding):
            continue
        yield from (f"{name}.{own}" for own, weight in module.named_parameters(recurse=False) if weight.ndim > 1)
