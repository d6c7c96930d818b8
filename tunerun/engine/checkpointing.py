"""Gradient checkpointing: activations inside a layer are recomputed in the backward pass. Imports torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from tunerun.errors import BaseModelError


def enable(what: str, network: Any) -> None:
    """Make a network keep only the input of each layer for the backward pass, for about a third more computation.

    transformers' own switch works in training mode only, which would turn dropout on; here the network is always in
    eval mode.

    Args:
        what: the model in words, for errors.
        network: the transformers model.

    Raises:
        BaseModelError: the architecture has no layers that can be recomputed.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise BaseModelError(
            f"{what} has no layers that can be computed again; set backend.gradient_checkpointing=false, and lower "
            "backend.micro_batch for less memory"
        )
    for layer in layers:
        layer.forward = _computed_again(layer.forward)


def _computed_again(forward: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*inputs: Any, **named: Any) -> Any:
        # Recomputing a layer that appends to a cache would append the same keys twice.
        if not torch.is_grad_enabled() or named.get("past_key_values") is not None:
            return forward(*inputs, **named)
        return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False, **named)

    return wrapped
