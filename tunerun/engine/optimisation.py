"""The optimiser of an adapter: AdamW, the learning-rate schedule, and gradient clipping.

Every training run of a pack has an optimiser of its own, so no state is shared between runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from tunerun.job import TuningHyperparameters

WEIGHT_DECAY = 0.0
"""AdamW's weight decay. Our choice: the Gemini guide names none, and there is no hyperparameter for it."""

_TAKEN = "steps"  # the name of the number of steps among the tensors of a state


class Optimiser:
    """The optimiser of one adapter. Parameters and state are float32 whatever the base model's number format is.

    Args:
        parameters: of the adapter.
        hyperparameters: learning rate, schedule, warm-up and clipping.
        steps: the length of the whole training, which schedule and warm-up refer to; ignored with a constant rate.
    """

    def __init__(self, parameters: Sequence[torch.Tensor], hyperparameters: TuningHyperparameters, steps: int) -> None:
        self._parameters = list(parameters)
        self._hyperparameters = hyperparameters
        self._steps = steps
        self._taken = 0
        self._adamw = torch.optim.AdamW(
            self._parameters, lr=hyperparameters.effective_learning_rate, weight_decay=WEIGHT_DECAY, fused=True
        )

    def step(self) -> None:
        """Update the parameters with their gradients, then drop the gradients."""
        if self._hyperparameters.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters, self._hyperparameters.max_grad_norm)
        if not self._hyperparameters.has_constant_rate:  # a constant rate was set at construction
            self._adamw.param_groups[0]["lr"] = learning_rate(self._hyperparameters, self._taken, self._steps)
        self._adamw.step()
        self._taken += 1
        self.forget_gradients()

    def forget_gradients(self) -> None:
        """Drop accumulated gradients."""
        self._adamw.zero_grad(set_to_none=True)

    def state(self) -> dict[str, torch.Tensor]:
        """Return a copy of the state as tensors by name; after `load_state`, training continues with the same bits."""
        # By the parameter's number, not as AdamW's `state_dict`, which nests dicts: safetensors stores only tensors.
        state = {_TAKEN: torch.tensor(self._taken)}
        for number, parameter in enumerate(self._parameters):
            for name, value in self._adamw.state[parameter].items():
                state[f"{number}.{name}"] = value.detach().clone()
        return state

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Continue from the state of another optimiser with equal parameters, hyperparameters and steps.

        Args:
            state: from its `state`; on any device.
        """
        self._taken = int(state[_TAKEN])
        for number, parameter in enumerate(self._parameters):
            prefix = f"{number}."
            self._adamw.state[parameter] = {
                name.removeprefix(prefix): value.detach().to(parameter.device, copy=True)
                for name, value in state.items()
                if name.startswith(prefix)
            }


def learning_rate(hyperparameters: TuningHyperparameters, taken: int, steps: int) -> float:
    """Return the learning rate of a step.

    The curves are those of transformers' `get_scheduler`: `constant_with_warmup`, `linear` and `cosine` (transformers
    5.23, optimization.py), so that the first step of a warm-up has the rate 0.

    Args:
        hyperparameters: learning rate, schedule and warm-up.
        taken: the number of steps before this one.
        steps: the number of steps of the whole training.
    """
    highest, warmup = hyperparameters.effective_learning_rate, math.ceil(steps * hyperparameters.warmup_fraction)
    if taken < warmup:
        return highest * (taken / warmup)
    left = (steps - taken) / max(1, steps - warmup)  # the fraction of the steps after warm-up, from 1 down to 0
    factors = {"constant": 1.0, "linear": max(0.0, left), "cosine": (1 + math.cos(math.pi * (1 - left))) / 2}
    return highest * factors[hyperparameters.schedule]
