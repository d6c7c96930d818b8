"""Which layers of a base model an adapter changes, and which it leaves alone.

Every linear layer but the output layer gets an adapter, with two exceptions: what chooses between experts (a router
that learns on few rows sends all tokens to one expert), and what PEFT refuses in state-space models, whose kernels read
the weights directly. Experts that are one tensor for all of them get none; the tuned model's record names them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from tunerun.engine import private_names, target_modules
from tunerun.engine.model_facts import EXPERT_COUNTS
from tunerun.engine.target_modules import OTHER_SENSES, ends_with
from tunerun.errors import InputError

_ROUTERS = frozenset({"gate", "router", "shared_expert_gate"})

# peft/tuners/tuners_utils.py 0.21, _check_lora_target_modules_mamba
_STATE_SPACE = frozenset({"falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"})
_REFUSED = frozenset({"conv1d", "out_proj"})
_READ_DIRECTLY = frozenset({"dt_proj"})  # state-space layers use its weight without calling it


def with_adapter(network: Any, targets: Sequence[str] | None = None) -> list[str]:
    """Return the names of the layers that get an adapter, sorted.

    Args:
        network: the transformers model.
        targets: last parts of their names, such as `q_proj`, or more of the end, such as `self_attn.q_proj`; None: all
            that can have one.

    Raises:
        InputError: a target is the end of no such layer's name.
    """
    from transformers.pytorch_utils import Conv1D  # GPT-2's linear layer

    output, config = network.get_output_embeddings(), network.config.get_text_config()
    left_out = _READ_DIRECTLY | private_names.names_renamed_by_peft(config.model_type)
    left_out |= _REFUSED if config.model_type in _STATE_SPACE else frozenset()
    has_experts = any(getattr(config, name, None) for name in EXPERT_COUNTS)
    parts_left_out = OTHER_SENSES | (_ROUTERS if has_experts else frozenset())
    names = sorted(
        name
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D)
        and module is not output
        and name.rpartition(".")[2] not in left_out
        and parts_left_out.isdisjoint(name.split("."))
    )
    if targets is None:
        return names
    if (problem := target_modules.problem(targets, names)) is not None:
        raise InputError(problem)
    return [name for name in names if any(ends_with(name, target) for target in targets)]


def without_adapter(network: Any, adapted: Iterable[str]) -> tuple[str, ...]:
    """Return the weights in layers that get no adapter, except embeddings, the output layer and vectors.

    Args:
        network: the transformers model.
        adapted: the names of the layers that get one.

    Returns:
        The weights' names, each once; `*` is any layer's number.
    """
    adapted, output, names = frozenset(adapted), network.get_output_embeddings(), []
    for name, module in network.named_modules():
        # By prefix: with PEFT's modules attached, the original weight is inside an adapted layer as `base_layer`.
        is_inside_adapted = any(name == one or name.startswith(f"{one}.") for one in adapted)
        if is_inside_adapted or module is output or isinstance(module, torch.nn.Embedding):
            continue
        names += [f"{name}.{own}" for own, weight in module.named_parameters(recurse=False) if weight.ndim > 1]
    return tuple(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in names))
