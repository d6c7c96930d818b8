"""Adapters of tuned models in memory, and a batch whose rows are answered by different ones.

PEFT's own `adapter_names` runs two small products for each adapter in each layer: with eight adapters of one row each
its launches cost more than the base model. Here the adapters of a batch are laid side by side, and each layer takes
two products whatever their number: all rows through all adapters' A, a mask that leaves each row its own adapter's
part, all parts through all adapters' B.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.nn.functional import linear

from tunerun.engine import tuned_model
from tunerun.errors import BaseModelError, NotFoundError

KEPT = 32
"""Adapters that stay in memory: two full batches of different ones. One of SmolLM2-135M at rank 8 is 10 MB."""

PREFIX = "base_model.model."  # what PEFT writes before a layer's own name
_OTHER_FORMS = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save", "target_parameters")


class MixingError(Exception):
    """A layer of the base model does not see a batch row by row, so its rows cannot have different adapters."""


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter's weights.

    Attributes:
        layers: by a layer's name in the base model: A [rank, inputs], and B [outputs, rank] with the adapter's scale.
    """

    layers: Mapping[str, tuple[torch.Tensor, torch.Tensor]]

    @property
    def rank(self) -> int:
        """The largest rank of a layer."""
        return max((down.shape[0] for down, _up in self.layers.values()), default=0)


def load(folder: Path, network: Any, device: torch.device) -> Adapter:
    """Read a tuned model's adapter, as `network.save_adapter` wrote it.

    Raises:
        NotFoundError: the folder's files are missing, damaged, or not those that were made.
        BaseModelError: the adapter does not fit the base model.
    """
    if (problem := tuned_model.fault(folder)) is not None:
        raise NotFoundError(f"the tuned model cannot be loaded: {problem}; tune it again")
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "adapter_model.safetensors", device=str(device))
        scale = config["lora_alpha"] / config["r"]
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise NotFoundError(
            f"the tuned model in {folder} cannot be read: {type(error).__name__}: {error}; tune it again"
        ) from error
    other_forms = [name for name in _OTHER_FORMS if config.get(name)]
    if other_forms:
        raise NotFoundError(
            f"the tuned model in {folder} cannot be used: its adapter_config.json sets {', '.join(other_forms)}, which "
            "this version of tunerun does not read; tune it again"
        )
    names = {key.removeprefix(PREFIX).rpartition(".lora_")[0] for key in weights}
    layers = {}
    modules = dict(network.named_modules())
    for name in sorted(names):
        down, up = (weights.get(f"{PREFIX}{name}.lora_{part}.weight") for part in "AB")
        if down is None or up is None or name not in modules:
            raise BaseModelError(
                f"the tuned model in {folder} changes a layer {name!r} that the base model does not have; "
                "it belongs to another base model, or its files were changed; tune it again"
            )
        if not (bool(torch.isfinite(down).all()) and bool(torch.isfinite(up).all())):
            raise NotFoundError(f"the tuned model in {folder} holds NaN or infinity in {name!r}; tune it again")
        layers[name] = (down, up * scale)
    return Adapter(layers)


class LoadedAdapters:
    """The adapters that were used last, each read once; a folder that was written again is another adapter."""

    def __init__(self, network: Any, device: torch.device) -> None:
        self._network = network
        self._device = device
        self._adapters: OrderedDict[tuple[str, int], Adapter] = OrderedDict()

    def __len__(self) -> int:
        return len(self._adapters)

    def get(self, folder: Path) -> Adapter:
        """Return a folder's adapter.

        Raises:
            NotFoundError, BaseModelError: as `load`.
        """
        try:
            known = (str(folder), (folder / "adapter_model.safetensors").stat().st_mtime_ns)
        except OSError as error:
            raise NotFoundError(f"{folder} holds no adapter: {error}; tune it again") from error
        if known not in self._adapters:
            self._adapters[known] = load(folder, self._network, self._device)
            while len(self._adapters) > KEPT:
                self._adapters.popitem(last=False)
        self._adapters.move_to_end(known)
        return self._adapters[known]


@contextmanager
def adapters_on(network: Any, rows: Sequence[Adapter | None]) -> Iterator[None]:
    """Put on each row of a batch its own adapter, or none, while the context lasts.

    A forward pass raises MixingError where rows have different adapters and a layer does not see the batch as
    [rows, time, inputs]: experts, whose tokens come from all rows, and models that flatten the batch.
    """
    distinct = list({id(adapter): adapter for adapter in rows if adapter is not None}.values())
    is_mixed = any(adapter is not rows[0] for adapter in rows)
    modules = dict(network.named_modules())
    hooks = []
    try:
        for name in dict.fromkeys(name for adapter in distinct for name in adapter.layers):
            having = [adapter for adapter in distinct if name in adapter.layers]
            down = torch.cat([adapter.layers[name][0] for adapter in having])
            up = torch.cat([adapter.layers[name][1] for adapter in having], dim=1)
            own = _own_parts(rows, having, name, down.device) if is_mixed else None
            hooks.append(modules[name].register_forward_hook(_adding(down, up, own)))
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _own_parts(
    rows: Sequence[Adapter | None], having: Sequence[Adapter], name: str, device: torch.device
) -> torch.Tensor:
    """Return which of the ranks that are laid side by side belong to each row's adapter, [rows, 1, ranks]."""
    owners = [adapter for adapter in having for _rank in range(adapter.layers[name][0].shape[0])]
    return torch.tensor([[[owner is row for owner in owners]] for row in rows], device=device)


def _adding(down: torch.Tensor, up: torch.Tensor, own: torch.Tensor | None) -> Callable[..., torch.Tensor]:
    def hook(_module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        low = linear(inputs[0].to(down.dtype), down)
        if own is not None:
            if low.dim() != 3 or low.shape[0] != own.shape[0]:
                raise MixingError
            low = torch.where(own, low, 0.0)  # not a product with 0: another adapter's infinity stays its own
        return output + linear(low, up).to(output.dtype)

    return hook
