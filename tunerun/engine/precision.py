"""Number formats: what the frozen weights are in memory.

The adapter, its gradients and its optimiser are float32 in any. With bfloat16 weights a layer multiplies in bfloat16,
the adapter's product is computed in float32 from the layer's input and added to the layer's output, and the loss is
computed in float32 from the logits. float32 is float32: TF32, which keeps 10 bits of each factor, is off.

The number format is in a trial's key, so a plan has to know it, and a plan imports no torch: it asks the CUDA driver.
The engine asks torch, and refuses what was planned for another format.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tunerun.engine import devices
from tunerun.engine.settings import EngineSettings

FLOAT32, BFLOAT16 = "float32", "bfloat16"
BYTES = {FLOAT32: 4, BFLOAT16: 2}
"""Of a number."""

_FORMATS = {"fp32": FLOAT32, "bf16": BFLOAT16}
WORDS = {number_format: word for word, number_format in _FORMATS.items()}
"""What the config calls a number format."""

_MIN_CAPABILITY = (8, 0)
"""CUDA compute capability from which tensor cores multiply bfloat16 (CUDA C++ Programming Guide, 2025, arithmetic
instructions); before it, the format is emulated."""

Capability = tuple[int, int]


def planned(settings: EngineSettings) -> str:
    """Return the number format that an engine on this machine will have, without importing torch."""
    return _format(settings, cuda_capabilities() if settings.device in ("auto", "cuda") else ())


def stated(settings: EngineSettings) -> EngineSettings:
    """Return settings for engines on other machines, which do not choose: what is planned here is computed there."""
    return replace(settings, precision=WORDS[planned(settings)])


def of_engine(settings: EngineSettings, device: Any) -> str:
    """Return the number format of an engine on a torch device.

    bfloat16 on a CPU is right and slow: without `avx512_bf16` or AMX it is emulated, and with them it was not measured,
    so `auto` takes it on CUDA alone. Nor on MPS, where it was not measured either.
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
    # All devices, for several workers take one each, and each has to compute what was planned.
    return BFLOAT16 if capabilities and min(capabilities) >= _MIN_CAPABILITY else FLOAT32


def cuda_capabilities() -> tuple[Capability, ...]:
    """Return the compute capability of every CUDA device that torch would see here; empty: it would see none."""
    return tuple(device.capability for device in devices.cuda_devices())
