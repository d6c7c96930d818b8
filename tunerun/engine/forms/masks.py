"""Attention masks for sequences that hold several rows, in the shape that an architecture takes."""

from __future__ import annotations

from typing import Any

import torch

from tunerun.engine.forms.base import UnfitError

_FULL, _SLIDING = "full_attention", "sliding_attention"

Mask = torch.Tensor | dict[str, torch.Tensor]


def build(network: Any, ends: torch.Tensor, positions: torch.Tensor, before: int = 0) -> Mask:
    """Return the attention mask of a pass.

    transformers passes a mask of four dimensions to every layer unchanged (5.23, masking_utils.py). So the mask has to
    contain the sliding window, and a model with two kinds of layers needs one mask for each kind.

    Args:
        network: the transformers model.
        ends: for each token the index after the last token that may attend to it, [members, time]; see `Layout`.
        positions: of each token within its row, counted from the start of a cached prefix, [members, time].
        before: the length of a cached prefix, which all tokens may attend to.

    Returns:
        [members, 1, time, before + time]; if layers differ, by the kind of layer.

    Raises:
        UnfitError: some layers are neither full nor sliding-window attention.
    """
    config = network.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds <= {_FULL, _SLIDING}:
        raise UnfitError
    seen = _seen(ends, before)
    if len(kinds) > 1:
        return {
            kind: _shaped(network, _within(seen, positions, _window(config) if kind == _SLIDING else None))
            for kind in kinds
        }
    window = None if kinds == {_FULL} else _window(config)
    return _shaped(network, _within(seen, positions, window))


def _seen(ends: torch.Tensor, before: int) -> torch.Tensor:
    """Return which keys each token may attend to, [members, time, before + time]; True: it may."""
    places = torch.arange(ends.shape[1], device=ends.device)
    seen = (places[None, :] <= places[:, None]) & (places[:, None] < ends[:, None, :])
    if not before:
        return seen
    return torch.cat([seen.new_ones(*seen.shape[:2], before), seen], dim=2)


def _window(config: Any) -> int | None:
    # Qwen2's config states a window with `use_sliding_window: false`, which switches it off.
    if getattr(config, "use_sliding_window", True) is False and not getattr(config, "layer_types", None):
        return None
    window: int | None = getattr(config, "sliding_window", None)
    return window


def _within(seen: torch.Tensor, positions: torch.Tensor, window: int | None) -> torch.Tensor:
    if window is None:
        return seen
    # By positions within rows, not by indices in the sequence: a row's tokens need not be neighbours in it.
    before = seen.shape[2] - positions.shape[1]
    first = torch.arange(before, device=positions.device).expand(len(positions), -1)
    distance = positions[:, :, None] - torch.cat([first, positions], dim=1)[:, None, :]
    return seen & (distance < window)


def _shaped(network: Any, seen: torch.Tensor) -> torch.Tensor:
    """Return the mask as [members, 1, time, before + time], boolean or, for `eager` attention, additive."""
    if network.config.get_text_config()._attn_implementation != "eager":
        return seen[:, None]
    hidden = torch.finfo(network.dtype).min  # not -inf: a row of only -inf has a softmax of NaN
    return torch.zeros_like(seen, dtype=network.dtype).masked_fill(~seen, hidden)[:, None]
