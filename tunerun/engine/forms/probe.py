"""The choice of a base model's form, by trying the forms on the model itself.

A table of architectures would always be incomplete. A form is right if its losses and gradients are those of each row
computed alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch

from tunerun.engine import lora, shared_prefix
from tunerun.engine.adapters import MixingError
from tunerun.engine.encoding import EncodedExample
from tunerun.engine.forms.base import Form, UnfitError
from tunerun.engine.forms.packed import Packed
from tunerun.engine.forms.padded import Padded, PrefixCache
from tunerun.engine.lora import LearningAdapter
from tunerun.engine.network import LoadedModel
from tunerun.job import TuningHyperparameters

TOLERANCE = 1e-4
"""The largest accepted relative difference of losses and gradients from those of rows computed alone.

In 30 architectures (2026-11-26), a wrong form differs by 0.08 or more on the rows below, a right one by under 4e-6."""

COARSE_TOLERANCE = 0.02
"""The same for weights that cannot be used in float32, such as those of 4 bits. A right form differs by up to 0.007 in
bf16 (a random Llama of two layers, 2026-11-26)."""

_AT_RUN_TIME = ("sliding_window", "attention_chunk_size", "max_window_layers")
"""Settings whose names contain `window` and that are not built into layers: windows that transformers reads for each
pass (5.23, masking_utils.py), and one that counts layers."""

_WINDOW = 4  # tokens: the size of sliding windows during the probe, so that short rows are longer than a window
_LONGEST_REACH = 1024  # tokens: the largest window that cannot be made smaller for which probing is still cheap
_PREFIX, _PROMPT = 12, 2  # tokens; the prefix is long enough for a cache (`shared_prefix.LEAST_TOKENS`)
_FAILURES = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MixingError, RuntimeError, TypeError, UnfitError,
    ValueError,
)  # fmt: skip


def choose(base: LoadedModel) -> Form:
    """Return the cheapest form whose losses and gradients are those of rows computed alone.

    The choice is made once for a base model and kept in `base.form`.

    Args:
        base: the base model; no adapter may be attached to it at the first call.
    """
    if base.form is None:
        # Both prefix sharing and packs can fail by themselves: some architectures are right with one trial only.
        packed = [Packed(shares_prefix=shares, takes_packs=many) for shares in (True, False) for many in (True, False)]
        base.form = first_right(base, [*packed, PrefixCache()])
    return base.form


def first_right(base: LoadedModel, candidates: Sequence[Form]) -> Form:
    """Try forms on a base model; return the first that is right, and `Padded` if none is.

    Args:
        base: the base model, without an adapter.
        candidates: the cheapest first; `can_follow` of the one that is returned is set.
    """
    config = base.network.config.get_text_config()
    # The largest window that is built into layers, as in GPT-Neo.
    windows = {name: value for name, value in vars(config).items() if "window" in name and type(value) is int}
    reach = max((value for name, value in windows.items() if name not in _AT_RUN_TIME), default=0)
    if reach > _LONGEST_REACH:
        return Padded()
    # Windows that are read for each pass are made small, so that short rows are longer than a window.
    readable = [name for name in ("sliding_window", "attention_chunk_size") if type(getattr(config, name, None)) is int]
    with _changed(config, dict.fromkeys(readable, _WINDOW)):
        # Some architectures do not run with a part of their layers; these are tried again with all of them.
        for reduced in (_first_layers(base.network), nullcontext()):
            with suppress(*_FAILURES), reduced:
                probe = _Probe(base, reach)
                form = next((form for form in candidates if probe.can_tell and probe.is_right(form)), Padded())
                form.can_follow = probe.can_tell and probe.is_right_after_prefix(form)
                return form
    return Padded()


@dataclass(frozen=True)
class _Results:
    """Losses, [rows], and the gradients of all parameters of an adapter as one flat tensor."""

    losses: torch.Tensor
    gradients: torch.Tensor

    def difference(self, other: _Results) -> float:
        """Return the largest relative difference; NaN where a number is NaN."""
        losses = ((self.losses - other.losses).abs() / other.losses.abs()).max()
        gradients = (self.gradients - other.gradients).norm() / other.gradients.norm()
        return float(torch.maximum(losses, gradients))


class _Probe:
    """The rows of two trials, and the reference results of each row computed alone.

    Attributes:
        can_tell: whether a wrong form would be noticed: losses have to change when the prefix is omitted. They do not
            in a model that ignores earlier tokens, or whose weights are unusable.
    """

    def __init__(self, base: LoadedModel, reach: int) -> None:
        self._base = base
        self._members = list(_members(base, reach))
        self._adapters = [_drawn_adapter(base, seed) for seed in (1, 2)]
        self._alone = [self._one_by_one(*one) for one in zip(self._members, self._adapters, strict=True)]
        is_fine = all(weight.dtype == torch.float32 for weight in base.network.parameters())
        self._limit = TOLERANCE if is_fine else COARSE_TOLERANCE
        shorter = [row.without(_PREFIX) for row in self._members[0]]
        without = self._one_by_one(shorter, self._adapters[0])
        self.can_tell = without.difference(self._alone[0]) > 10 * self._limit

    def is_right(self, form: Form) -> bool:
        """Whether a form gives the losses and gradients of rows computed alone."""
        count = 2 if form.takes_packs else 1
        try:
            together = self._results(form, self._members[:count], self._adapters[:count])
        except _FAILURES:
            return False  # the architecture rejects the form's masks, positions or batches
        return all(one.difference(alone) <= self._limit for one, alone in zip(together, self._alone, strict=False))

    @torch.no_grad()
    def is_right_after_prefix(self, form: Form) -> bool:
        """Whether a form gives the right losses when the rows follow a cached prefix."""
        rows = self._members[0]
        try:
            with lora.on(self._base.network, self._adapters[:1]):
                prefix = shared_prefix.compute(self._base, rows[0].prompt[:_PREFIX])
                if prefix is None:
                    return False
                losses = form.row_losses(self._base, [[row.without(_PREFIX) for row in rows]], prefix)
        except _FAILURES:
            return False
        alone = self._alone[0].losses
        return float(((losses - alone).abs() / alone.abs()).max()) <= self._limit

    def _one_by_one(self, rows: Sequence[EncodedExample], adapter: LearningAdapter) -> _Results:
        each = [self._results(Padded(), [[row]], [adapter])[0] for row in rows]
        return _Results(torch.cat([one.losses for one in each]), torch.stack([one.gradients for one in each]).sum(0))

    def _results(
        self, form: Form, members: Sequence[Sequence[EncodedExample]], adapters: Sequence[LearningAdapter]
    ) -> list[_Results]:
        parameters = [one for adapter in adapters for one in adapter.parameters()]
        with torch.enable_grad(), lora.on(self._base.network, adapters):
            losses = form.row_losses(self._base, members)
            gradients = iter(torch.autograd.grad(losses.sum(), parameters, allow_unused=True, materialize_grads=True))
        of = torch.split(losses.detach(), [len(rows) for rows in members])
        return [
            _Results(own, torch.cat([next(gradients).flatten() for _one in adapter.parameters()]))
            for own, adapter in zip(of, adapters, strict=True)
        ]


def _members(base: LoadedModel, reach: int) -> Iterator[list[EncodedExample]]:
    """Yield the rows of two trials: each with a prefix of its own and different tokens after it."""
    vocabulary = base.network.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)

    def random_ids(length: int) -> list[int]:
        return torch.randint(vocabulary, (length,), generator=generator).tolist()

    # Lengths differ, so that padding and the order of rows matter. One row is longer than the largest fixed window.
    for lengths in ((9 + reach, 5 + reach), (4, 10)):
        prefix = random_ids(_PREFIX)
        # Learned tokens start close to the prefix: a window in the last layer hides an error from tokens further away.
        yield [EncodedExample(prefix + random_ids(_PROMPT), random_ids(length)) for length in lengths]


def _drawn_adapter(base: LoadedModel, seed: int) -> LearningAdapter:
    """Return an adapter with a non-zero B, so that it changes logits and every matrix has a gradient."""
    adapter = lora.fresh(base, TuningHyperparameters(adapter_rank=2), seed)
    numbers = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _down, up in adapter.matrices.values():
            up.copy_(torch.randn(up.shape, generator=numbers) * 0.02)
    return adapter


@contextmanager
def _first_layers(network: Any) -> Iterator[None]:
    """Reduce the network to its first layers, at least one of each kind and two in all, in float32."""
    # Whether a form is right depends on the kinds of layers, so a few layers tell as much as all of them in less time.
    # Float32, because rounding of 16 bits is too close to the differences that a wrong form causes.
    config = network.config.get_text_config()
    kinds = list(getattr(config, "layer_types", None) or ())
    lists = [
        (module, name, layers)
        for module in network.modules()
        for name, layers in module.named_children()
        if isinstance(layers, torch.nn.ModuleList) and len(layers) == config.num_hidden_layers
    ]
    with ExitStack() as stack:
        if len(lists) == 1:
            ((module, name, layers),) = lists
            shapes = [tuple((part, type(one)) for part, one in layer.named_modules()) for layer in layers]
            count = max(_covering(shapes), _covering(kinds), 2)
            settings = {"num_hidden_layers": count} | ({"layer_types": kinds[:count]} if kinds else {})
            stack.enter_context(_changed(module, {name: layers[:count]}))
            stack.enter_context(_changed(config, settings))
        for tensor in [*network.parameters(), *network.buffers()]:
            if tensor.is_floating_point() and tensor.dtype != torch.float32:
                stack.enter_context(_changed(tensor, {"data": tensor.data.float()}))
        yield


def _covering(kinds: Sequence[Any]) -> int:
    """Return the length of the shortest beginning that contains every kind."""
    return max((kinds.index(kind) + 1 for kind in set(kinds)), default=0)


@contextmanager
def _changed(thing: Any, values: dict[str, Any]) -> Iterator[None]:
    """Set attributes of an object while the context lasts."""
    before = {name: getattr(thing, name) for name in values}
    try:
        for name, value in values.items():
            setattr(thing, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(thing, name, value)
