"""Gradient checkpointing: a layer's inner values are not kept for the gradient, but computed again. Heavy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from tunerun.errors import BaseModelError


def enable(what: str, network: Any) -> None:
    """Have a network keep one value a layer and token for the gradient, for about a third more arithmetic.

    transformers' own switch works in training mode alone, which would turn dropout on; the network is never in it.

    Args:
        what: the model in words, for errors.

    Raises:
        BaseModelError: the architecture has no layers that can be computed again.
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
        # A cache would get the same keys twice.
        if not torch.is_grad_enabled() or named.get("past_key_values") is not None:
            return forward(*inputs, **named)
        return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False, **named)

    return wrapped
