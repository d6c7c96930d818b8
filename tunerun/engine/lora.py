"""LoRA adapters in training, several of which can share a forward and backward pass.

PEFT's own modules run one adapter at a time. Here adapters are forward hooks on the base model's layers: with one
adapter a pass computes what PEFT computes, with several each adapter has its own index in the batch dimension. An
adapter starts with the numbers that PEFT draws for its seed, and is saved in PEFT's format.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import linear, pad

from tunerun.engine import layers, tuned_model
from tunerun.engine.adapters import PREFIX, MixingError
from tunerun.engine.network import LoadedModel, check_base, peft_warnings_ignored
from tunerun.errors import NotFoundError
from tunerun.job import TuningHyperparameters, TuningRequest


class LearningAdapter:
    """A LoRA adapter in training; its parameters require gradients.

    Attributes:
        matrices: by the layer's name in the base model: A [rank, inputs] and B [outputs, rank], as PEFT stores them.
        rank: of all layers.
        alpha: LoRA's alpha; the adapter adds `scale` * B A x to a layer's output.
    """

    def __init__(self, matrices: dict[str, tuple[torch.Tensor, torch.Tensor]], rank: int, alpha: float) -> None:
        self.matrices = matrices
        self.rank = rank
        self.alpha = alpha
        for matrix in self.parameters():
            matrix.requires_grad_(True)

    @property
    def scale(self) -> float:
        """The factor of the product of both matrices, alpha / rank."""
        return self.alpha / self.rank

    def parameters(self) -> list[torch.Tensor]:
        """All matrices: A, then B of each layer, in the order of the layers."""
        return [matrix for pair in self.matrices.values() for matrix in pair]

    def named(self) -> dict[str, torch.Tensor]:
        """The parameters by their names in PEFT's files."""
        return {
            f"{PREFIX}{name}.lora_{part}.weight": matrix
            for name, pair in self.matrices.items()
            for part, matrix in zip("AB", pair, strict=True)
        }

    def is_finite(self) -> bool:
        """Whether no parameter is NaN or infinite."""
        # The maximum norm over all matrices needs a few calls; a check of each matrix took a tenth of a step.
        return bool(torch.isfinite(torch.nn.utils.get_total_norm(self.parameters(), norm_type=math.inf)))

    def forget_gradients(self) -> None:
        """Drop accumulated gradients, such as those of a pass that failed halfway."""
        for matrix in self.parameters():
            matrix.grad = None

    def copy(self) -> list[torch.Tensor]:
        """Return a copy of the parameters, in the order of `parameters`."""
        return [matrix.detach().clone() for matrix in self.parameters()]

    def like(self, values: Sequence[torch.Tensor]) -> LearningAdapter:
        """Return an adapter of the same layers, rank and alpha with other parameters, in the order of `parameters`."""
        numbers = iter(values)
        matrices = {name: (next(numbers), next(numbers)) for name in self.matrices}
        return LearningAdapter(matrices, self.rank, self.alpha)

    @torch.no_grad()
    def restore(self, values: Sequence[torch.Tensor]) -> None:
        """Set the parameters to values that `copy` returned."""
        for matrix, value in zip(self.parameters(), values, strict=True):
            matrix.copy_(value)

    def save(self, source: tuple[str, str | None], folder: Path) -> None:
        """Write the adapter in PEFT's format; equal adapters give equal bytes.

        Args:
            source: the name and the revision of the base model for `adapter_config.json`.
            folder: is made if it does not exist.

        Raises:
            OSError, SafetensorError: a file cannot be written.
        """
        import peft

        config = peft.LoraConfig(
            task_type="CAUSAL_LM",
            r=self.rank,
            lora_alpha=int(self.alpha) if self.alpha == int(self.alpha) else self.alpha,
            lora_dropout=0.0,
        )
        # Set afterwards: the constructor makes it a set, whose order in the file differs from process to process.
        config.target_modules = sorted(self.matrices)
        config.base_model_name_or_path, config.revision = source
        config.inference_mode = True
        with peft_warnings_ignored():
            config.save_pretrained(folder)
        weights = {name: matrix.detach().cpu().contiguous() for name, matrix in self.named().items()}
        save_file(weights, folder / tuned_model.WEIGHTS_FILE, metadata={"format": "pt"})


def adapter_of(request: TuningRequest, base: LoadedModel) -> LearningAdapter:
    """Return the adapter that a request begins with: a fresh one, or that of the tuned model to start from.

    Args:
        request: the trial's.
        base: its base model.

    Raises:
        InputError: a target module is not a layer of the base model.
        NotFoundError: the tuned model to start from is missing or damaged.
        BaseModelError: it belongs to another base model.
    """
    if request.start_from is None:
        return fresh(base, request.hyperparameters, request.seed)
    folder = Path(request.start_from)
    check_base(tuned_model.read(folder), base)
    if (problem := tuned_model.fault(folder)) is not None:
        raise NotFoundError(f"the tuned model to start from cannot be loaded: {problem}; tune it again")
    config = json.loads((folder / tuned_model.ADAPTER_FILE).read_text(encoding="utf-8"))
    weights = load_file(folder / tuned_model.WEIGHTS_FILE, device=str(base.device))
    # In the network's order, as in `fresh`: clipping sums the gradients' norms in the order of the parameters.
    names = dict.fromkeys(key.removeprefix(PREFIX).rpartition(".lora_")[0] for key in sorted(weights))
    order = [name for name, _module in base.network.named_modules() if name in names]
    matrices = {
        name: (weights[f"{PREFIX}{name}.lora_A.weight"], weights[f"{PREFIX}{name}.lora_B.weight"]) for name in order
    }
    return LearningAdapter(matrices, config["r"], config["lora_alpha"])


def fresh(base: LoadedModel, hyperparameters: TuningHyperparameters, seed: int) -> LearningAdapter:
    """Return a new adapter for the layers that `layers.with_adapter` names; B is 0, so it changes no output yet.

    Args:
        base: the base model.
        hyperparameters: rank, alpha and target modules.
        seed: of the random numbers.

    Raises:
        InputError: a target module is not a layer of the base model.
    """
    rank = hyperparameters.adapter_rank
    targets = set(layers.with_adapter(base.network, hyperparameters.target_modules))
    matrices = {}
    # The same numbers as PEFT's, which makes two linear layers, each of which draws numbers, and then draws A again
    # (peft 0.21, tuners/lora/layer.py). The first draws are thrown away, but they advance the generator. The order of
    # the layers is PEFT's too, and torch's global generator is left as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, module in base.network.named_modules():
            if name not in targets:
                continue
            if isinstance(module, torch.nn.Linear):
                inputs, outputs = module.in_features, module.out_features
            else:
                inputs, outputs = module.weight.shape  # GPT-2's Conv1D
            down, up = torch.nn.Linear(inputs, rank, bias=False), torch.nn.Linear(rank, outputs, bias=False)
            torch.nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))
            torch.nn.init.zeros_(up.weight)
            matrices[name] = (down.weight.detach().to(base.device), up.weight.detach().to(base.device))
    return LearningAdapter(matrices, rank, hyperparameters.adapter_alpha)


@contextmanager
def on(network: Any, adapters: Sequence[LearningAdapter]) -> Iterator[None]:
    """Attach adapters to the base model while the context lasts, each to its own index of the batch dimension.

    A single adapter applies to the whole batch. Several need a batch of exactly as many sequences: a forward pass
    raises MixingError where a layer's input has another shape than [adapters, time, inputs].

    Args:
        network: the base model's transformers model.
        adapters: one for each index of the batch, or a single one.
    """
    modules = dict(network.named_modules())
    names = dict.fromkeys(name for adapter in adapters for name in adapter.matrices)
    handles = [modules[name].register_forward_hook(_hook(name, adapters)) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(name: str, adapters: Sequence[LearningAdapter]) -> Callable[..., torch.Tensor]:
    """Return the forward hook that adds to a layer's output what the adapters compute from its input."""
    having = [place for place, adapter in enumerate(adapters) if name in adapter.matrices]
    pairs = [adapters[place].matrices[name] for place in having]
    scales = [adapters[place].scale for place in having]
    are_all = len(having) == len(adapters)

    def hook(_module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        layer_input = inputs[0]
        if len(adapters) == 1:
            down, up = pairs[0]
            # Scaled between A and B, where there are only `rank` numbers per token: scaling the outputs cost up to 13 %
            # of a step (SmolLM2-135M, CPU).
            middle = linear(layer_input.to(down.dtype), down) * scales[0]
            return output + linear(middle, up).to(output.dtype)
        if layer_input.dim() != 3 or layer_input.shape[0] != len(adapters):
            raise MixingError
        if are_all:
            return _added(layer_input, output, pairs, scales)
        # Adapters may differ in `target_modules`; the other members' outputs stay as they are, to the bit.
        rows = torch.tensor(having, device=output.device)
        return output.index_copy(0, rows, _added(layer_input[rows], output[rows], pairs, scales))

    return hook


def _added(
    layer_input: torch.Tensor,
    output: torch.Tensor,
    pairs: Sequence[tuple[torch.Tensor, torch.Tensor]],
    scales: Sequence[float],
) -> torch.Tensor:
    """Return a layer's output plus what the adapters add, [adapters, time, outputs].

    Args:
        layer_input: the layer's input, [adapters, time, inputs], in the base model's precision.
        output: the layer's output without adapters, [adapters, time, outputs], in the base model's precision.
        pairs: A and B of each adapter; ranks may differ.
        scales: of each adapter.
    """
    # B is transposed before it is stacked: products with it are up to four times as fast then (MKL on a CPU, rank 8).
    down, up = _stacked([down for down, _up in pairs]), _stacked([up.t() for _down, up in pairs])
    scale = torch.tensor(scales, dtype=down.dtype, device=down.device)[:, None, None]
    middle = torch.bmm(layer_input.to(down.dtype), down.transpose(1, 2)) * scale
    if output.dtype == up.dtype:
        return torch.baddbmm(output, middle, up)
    return output + torch.bmm(middle, up).to(output.dtype)


def _stacked(matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return [rank, size] matrices in one tensor; smaller ranks are padded with zeros, which add nothing."""
    rank = max(matrix.shape[0] for matrix in matrices)
    return torch.stack([m if m.shape[0] == rank else pad(m, (0, 0, 0, rank - m.shape[0])) for m in matrices])
