"""Adapters of tuned models for inference: read, cached, and applied to batches whose rows have different adapters.

PEFT's own `adapter_names` computes two small products for each adapter in each layer: with eight adapters of one row
each their launches cost more than the base model. Here a layer needs two batched products whatever the number of
adapters: rows are grouped by adapter, and each group is multiplied by its own A, then B.
"""

from __future__ import annotations

import json
import operator
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.nn.functional import linear

from tunerun.engine import tuned_model
from tunerun.errors import BaseModelError, NotFoundError

KEPT = 32
"""Adapters kept in memory for later calls. Our choice: one of SmolLM2-135M at rank 8 is 10 MB."""

PREFIX = "base_model.model."  # what PEFT writes before a layer's own name
_OTHER_FORMS = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save", "target_parameters")


class MixingError(Exception):
    """A layer of the base model does not get its input row by row, so rows cannot have different adapters."""


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter's weights.

    Attributes:
        layers: by the layer's name in the base model: A [rank, inputs], and B [outputs, rank] times the scale.
    """

    layers: Mapping[str, tuple[torch.Tensor, torch.Tensor]]

    @property
    def rank(self) -> int:
        """The largest rank of a layer."""
        return max((down.shape[0] for down, _up in self.layers.values()), default=0)


def load(folder: Path, network: Any, device: torch.device) -> Adapter:
    """Read a tuned model's adapter, as `LearningAdapter.save` wrote it.

    Args:
        folder: the tuned model's folder.
        network: the base model's transformers model.
        device: where to put the weights.

    Raises:
        NotFoundError: the folder's files are missing or damaged, or their digests are not those of the record.
        BaseModelError: the adapter does not fit the base model.
    """
    if (problem := tuned_model.fault(folder)) is not None:
        raise NotFoundError(f"the tuned model cannot be loaded: {problem}; tune it again")
    try:
        config = json.loads((folder / tuned_model.ADAPTER_FILE).read_text(encoding="utf-8"))
        weights = load_file(folder / tuned_model.WEIGHTS_FILE, device=str(device))
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
    """A cache of the `KEPT` adapters that were used last; a folder whose weights were written again is read again."""

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
            version = (str(folder), (folder / tuned_model.WEIGHTS_FILE).stat().st_mtime_ns)
        except OSError as error:
            raise NotFoundError(f"{folder} holds no adapter: {error}; tune it again") from error
        if version not in self._adapters:
            self._adapters[version] = load(folder, self._network, self._device)
            while len(self._adapters) > KEPT:
                self._adapters.popitem(last=False)
        self._adapters.move_to_end(version)
        return self._adapters[version]


@contextmanager
def adapters_on(network: Any, rows: Sequence[Adapter | None]) -> Iterator[RowAdapters]:
    """Attach adapters to a network while the context lasts.

    Args:
        network: the base model's transformers model.
        rows: the adapter of each row of the batch; None: the base model answers.

    Yields:
        The object whose `put_on` changes the rows of the next batch.
    """
    attached = RowAdapters(network)
    try:
        attached.put_on(rows)
        yield attached
    finally:
        attached.take_off()


class RowAdapters:
    """Adapters on a network, each on its own rows of a batch.

    A forward pass raises MixingError where rows have different adapters and a layer does not see the batch as
    [rows, time, inputs]: experts, whose tokens come from all rows, and models that flatten the batch.
    """

    def __init__(self, network: Any) -> None:
        self._modules = dict(network.named_modules())
        self._hooks: dict[str, Any] = {}
        self._rows = _Rows(())

    def put_on(self, rows: Sequence[Adapter | None]) -> None:
        """Set the adapter of each row for the passes that follow; a single entry applies to all rows."""
        if len(rows) == len(self._rows.adapters) and all(map(operator.is_, rows, self._rows.adapters)):
            return
        self._rows = _Rows(tuple(rows), self._rows)
        for adapter in self._rows.distinct:
            for name in adapter.layers.keys() - self._hooks.keys():
                self._hooks[name] = self._modules[name].register_forward_hook(partial(self._hook, name))

    def take_off(self) -> None:
        """Detach all adapters from the network."""
        for hook in self._hooks.values():
            hook.remove()
        self._hooks.clear()

    def _hook(self, name: str, _module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        return self._rows.added(name, inputs[0], output)  # `self._rows` of the time of the pass, not of the hook


class _Rows:
    """The assignment of adapters to rows, and the adapters' matrices as layers multiply them.

    Several adapters are multiplied at once, as [adapters, the most rows of one adapter, ...]. Measured 2026-11-26: 12
    adapters of rank 8 on 10 rows each, SmolLM2-135M's layers, one token per row, CPU: without adapters 353 ms, this
    way 443 to 480, one adapter after another 513, all matrices concatenated with a mask 517. One adapter on 100 rows
    took 318 to 330 ms, without it 318: a copy of the layers with the adapter merged could save no more.
    """

    def __init__(self, adapters: tuple[Adapter | None, ...], before: _Rows | None = None) -> None:
        self.adapters = adapters
        self._stacks: dict[str, tuple[torch.Tensor, torch.Tensor] | None] = {}
        by_id = {id(adapter): adapter for adapter in adapters if adapter is not None}
        self.distinct = tuple(by_id.values())
        if before is not None and len(before.distinct) < 2 * len(by_id) and by_id.keys() <= {*map(id, before.distinct)}:
            # Most of the previous adapters still have rows: stacking these again takes longer than multiplying the few
            # whose rows have left.
            self.distinct, self._stacks = before.distinct, before._stacks
        self._is_mixed = any(adapter is not adapters[0] for adapter in adapters)
        if not self._is_mixed:
            return

        of_adapter = [[row for row, one in enumerate(self.adapters) if one is each] for each in self.distinct]
        most = max(map(len, of_adapter))
        # Groups have equal sizes: an adapter with fewer rows is filled up with row 0, and those results are not used.
        row_of_place = [row for rows in of_adapter for row in [*rows, *[0] * (most - len(rows))]]
        places = [most * number + n for number, rows in enumerate(of_adapter) for n in range(len(rows))]
        having = [row for rows in of_adapter for row in rows]
        self._is_in_order = row_of_place == [*range(len(self.adapters))]
        device = next(down.device for adapter in self.distinct for down, _up in adapter.layers.values())
        self._row_of_place = torch.tensor(row_of_place, device=device)
        self._places, self._having = torch.tensor(places, device=device), torch.tensor(having, device=device)

    def added(self, name: str, inputs: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Return a layer's output with what the rows' adapters add.

        Args:
            name: of the layer.
            inputs: the layer's input, [rows, time, inputs].
            output: its output, [rows, time, outputs]; may be changed in place, because inference needs no gradient.

        Raises:
            MixingError: rows have different adapters, and the input has another shape.
        """
        if not self.distinct:
            return output
        if not self._is_mixed:
            own = self.adapters[0].layers.get(name) if self.adapters[0] is not None else None
            return output if own is None else _plus(output, inputs, *own)
        if name not in self._stacks:
            self._stacks[name] = _stacked([adapter.layers.get(name) for adapter in self.distinct])
        if (stack := self._stacks[name]) is None:
            return output
        if inputs.dim() != 3 or inputs.shape[0] != len(self.adapters):
            raise MixingError
        down, up = stack
        if not self._is_in_order:
            inputs = inputs.index_select(0, self._row_of_place)
        grouped = inputs.to(down.dtype).reshape(len(self.distinct), -1, inputs.shape[2])
        added = torch.bmm(torch.bmm(grouped, down), up).to(output.dtype).view(*inputs.shape[:2], -1)
        if self._is_in_order:
            return output.add_(added)
        return output.index_add_(0, self._having, added.index_select(0, self._places))


def _plus(output: torch.Tensor, inputs: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    low = linear(inputs.to(down.dtype), down)
    if up.dtype != output.dtype:
        return output + linear(low, up).to(output.dtype)
    # In one operation and in place: a pass of 512 tokens through SmolLM2-135M's layers took 1.06 times as long as
    # without an adapter, and 1.13 times with a new tensor for the sum (CPU, 2026-11-26).
    return output.flatten(0, -2).addmm_(low.flatten(0, -2), up.t()).view_as(output)


def _stacked(
    layers: Sequence[tuple[torch.Tensor, torch.Tensor] | None],
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return a layer's A [adapters, inputs, rank] and B [adapters, rank, outputs], padded with zeros to equal ranks.

    An adapter without the layer is all zeros. None: no adapter changes the layer.
    """
    present = [layer for layer in layers if layer is not None]
    if not present:
        return None
    rank = max(down.shape[0] for down, _up in present)
    downs = present[0][0].new_zeros((len(layers), rank, present[0][0].shape[1]))
    ups = present[0][1].new_zeros((len(layers), rank, present[0][1].shape[0]))
    for number, layer in enumerate(layers):
        if layer is not None:
            downs[number, : layer[0].shape[0]] = layer[0]
            ups[number, : layer[0].shape[0]] = layer[1].t()
    return downs.transpose(1, 2), ups
