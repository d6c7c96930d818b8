"""Number formats of the frozen weights in memory.

The adapter, its gradients and its optimiser are always float32. With bfloat16 weights a layer multiplies in bfloat16;
the adapter's product is computed in float32 from the layer's input and added to the layer's output, and the loss is
computed in float32 from the logits. TF32, which keeps 10 bits of each factor, is off.

The number format is part of a trial's key, so `plan` has to know it. `plan` does not import torch and asks the CUDA
driver; the engine asks torch, and refuses requests that were planned for another format.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tunerun.engine import devices
from tunerun.engine.settings import EngineSettings

FLOAT32, BFLOAT16 = "float32", "bfloat16"
BYTES = {FLOAT32: 4, BFLOAT16: 2}
"""The size of a number."""

_FORMATS = {"fp32": FLOAT32, "bf16": BFLOAT16}
WORDS = {number_format: word for word, number_format in _FORMATS.items()}
"""The config's word for each number format."""

_MIN_CAPABILITY = (8, 0)
"""CUDA compute capability from which tensor cores multiply bfloat16 (CUDA C++ Programming Guide, 2025, arithmetic
instructions); before it, the format is emulated."""

Capability = tuple[int, int]


def planned(settings: EngineSettings) -> str:
    """Return the number format that an engine on this machine will use; does not import torch.

    Args:
        settings: of the engine.

    Returns:
        `FLOAT32` or `BFLOAT16`.
    """
    return _format(settings, cuda_capabilities() if settings.device in ("auto", "cuda") else ())


def stated(settings: EngineSettings) -> EngineSettings:
    """Return settings with the number format planned on this machine, so that other machines do not choose another."""
    return replace(settings, precision=WORDS[planned(settings)])


def of_engine(settings: EngineSettings, device: Any) -> str:
    """Return the number format of an engine on a torch device.

    Args:
        settings: of the engine.
        device: the torch device.

    Returns:
        `FLOAT32` or `BFLOAT16`.
    """
    import torch

    is_cuda = device.type == "cuda" and torch.version.cuda is not None
    numbers = range(torch.cuda.device_count()) if is_cuda else ()
    return _format(settings, tuple(torch.cuda.get_device_capability(number) for number in numbers))


def _format(settings: EngineSettings, capabilities: tuple[Capability, ...]) -> str:
    if settings.precision != "auto":
        return _FORMATS[settings.precision]
    if settings.is_quantised:
        return BFLOAT16
    # bfloat16 on CUDA only. On a CPU without `avx512_bf16` or AMX it is emulated, and therefore slow; with them, and on
    # MPS, it was not measured. The least capable device decides: several workers use one each, and all have to compute
    # what was planned.
    return BFLOAT16 if capabilities and min(capabilities) >= _MIN_CAPABILITY else FLOAT32


def cuda_capabilities() -> tuple[Capability, ...]:
    """Return the compute capability of every CUDA device that torch would see on this machine."""
    return tuple(device.capability for device in devices.cuda_devices())
