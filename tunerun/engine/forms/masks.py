"""What each token of a sequence of several rows sees, in the shape that an architecture takes it."""

from __future__ import annotations

from typing import Any

import torch

from tunerun.engine.forms.base import UnfitError

_FULL, _SLIDING = "full_attention", "sliding_attention"

Mask = torch.Tensor | dict[str, torch.Tensor]


def build(network: Any, ends: torch.Tensor, positions: torch.Tensor, before: int = 0) -> Mask:
    """Return the attention mask of a pass.

    transformers passes a mask of four dimensions to every layer as it is (5.23, masking_utils.py), so a sliding window
    has to be in it, and a model with two kinds of layers needs one mask for each.

    Args:
        ends: [members, time] of each token the place behind the last one that sees it; see `Layout`.
        positions: [members, time] in a token's own rows; with what is before the sequence.
        before: tokens before the sequence, which all see.

    Raises:
        UnfitError: some layers are neither full nor windowed attention.
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
    """Return what each token sees, [members, time, before + time]."""
    places = torch.arange(ends.shape[1], device=ends.device)
    seen = (places[None, :] <= places[:, None]) & (places[:, None] < ends[:, None, :])
    if not before:
        return seen
    return torch.cat([seen.new_ones(*seen.shape[:2], before), seen], dim=2)


def _window(config: Any) -> int | None:
    if getattr(config, "use_sliding_window", True) is False and not getattr(config, "layer_types", None):
        return None
    window: int | None = getattr(config, "sliding_window", None)
    return window


def _within(seen: torch.Tensor, positions: torch.Tensor, window: int | None) -> torch.Tensor:
    if window is None:
        return seen
    before = seen.shape[2] - positions.shape[1]
    first = torch.arange(before, device=positions.device).expand(len(positions), -1)
    distance = positions[:, :, None] - torch.cat([first, positions], dim=1)[:, None, :]
    return seen & (distance < window)


def _shaped(network: Any, seen: torch.Tensor) -> torch.Tensor:
    """Return [members, 1, time, before + time]: booleans, and what is added to the scores for `eager` attention."""
    if network.config.get_text_config()._attn_implementation != "eager":
        return seen[:, None]
    hidden = torch.finfo(network.dtype).min
    return torch.zeros_like(seen, dtype=network.dtype).masked_fill(~seen, hidden)[:, None]
