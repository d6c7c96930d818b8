"""Attention masks for sequences that hold several rows, in the shape that an architecture takes."""

from __future__ import annotations

from typing import Any

import torch

from tunerun.engine import private_names
from tunerun.engine.forms.base import UnfitError

_FULL, _SLIDING = "full_attention", "sliding_attention"

Mask = torch.Tensor | dict[str, torch.Tensor]


def build(network: Any, ends: torch.Tensor, positions: torch.Tensor, before: int = 0) -> Mask:
    """Return the attention mask of a pass.

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
    # transformers passes a mask of four dimensions to all layers unchanged (5.23, masking_utils.py). So the mask has to
    # contain the sliding window, and a model with two kinds of layers needs one mask for each kind.
    config = network.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds <= {_FULL, _SLIDING}:
        raise UnfitError
    # Which keys each token may attend to, [members, time, before + time]: those between a token and its end.
    places = torch.arange(ends.shape[1], device=ends.device)
    visible = (places[None, :] <= places[:, None]) & (places[:, None] < ends[:, None, :])
    if before:
        visible = torch.cat([visible.new_ones(*visible.shape[:2], before), visible], dim=2)

    if len(kinds) > 1:
        return {
            kind: _shaped(network, _within(visible, positions, _window(config) if kind == _SLIDING else None))
            for kind in kinds
        }
    window = None if kinds == {_FULL} else _window(config)
    return _shaped(network, _within(visible, positions, window))


def _window(config: Any) -> int | None:
    """Return the number of tokens that a sliding window covers; None: the model has none."""
    # Qwen2's config states a window with `use_sliding_window: false`, which switches it off.
    if getattr(config, "use_sliding_window", True) is False and not getattr(config, "layer_types", None):
        return None
    window: int | None = getattr(config, "sliding_window", None)
    return window


def _within(visible: torch.Tensor, positions: torch.Tensor, window: int | None) -> torch.Tensor:
    if window is None:
        return visible
    # By positions within rows, not by indices in the sequence: a row's tokens need not be neighbours in it.
    before = visible.shape[2] - positions.shape[1]
    first = torch.arange(before, device=positions.device).expand(len(positions), -1)
    distance = positions[:, :, None] - torch.cat([first, positions], dim=1)[:, None, :]
    return visible & (distance < window)


def _shaped(network: Any, visible: torch.Tensor) -> torch.Tensor:
    """Return the mask as [members, 1, time, before + time], boolean or, for `eager` attention, additive."""
    if not private_names.is_eager(network.config.get_text_config()):
        return visible[:, None]
    hidden = torch.finfo(network.dtype).min  # not -inf: a row of only -inf has a softmax of NaN
    return torch.zeros_like(visible, dtype=network.dtype).masked_fill(~visible, hidden)[:, None]
