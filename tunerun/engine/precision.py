"""Number formats: what the frozen weights are in memory.

The adapter, its gradients and its optimiser are float32 in any. With bfloat16 weights a layer multiplies in bfloat16,
the adapter's product is computed in float32 from the layer's input and added to the layer's output, and the loss is
computed in float32 from the logits. float32 is float32: TF32, which keeps 10 bits of each factor, is off.

The number format is in a trial's key, so a plan has to know it, and a plan imports no torch: it asks the CUDA driver.
The engine asks torch, and refuses what was planned for another format.
"""

from __future__ import annotations

import ctypes
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tunerun.engine.settings import EngineSettings

FLOAT32, BFLOAT16 = "float32", "bfloat16"
BYTES = {FLOAT32: 4, BFLOAT16: 2}
"""Of a number."""

_FORMATS = {"fp32": FLOAT32, "bf16": BFLOAT16}
_MIN_CAPABILITY = (8, 0)
"""CUDA compute capability from which tensor cores multiply bfloat16 (CUDA C++ Programming Guide, 2025, arithmetic
instructions); before it, the format is emulated."""

_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR (cuda.h)."""

Capability = tuple[int, int]


def planned(settings: EngineSettings) -> str:
    """Return the number format that an engine on this machine will have, without importing torch."""
    return _format(settings, cuda_capabilities() if settings.device in ("auto", "cuda") else ())


def of_engine(settings: EngineSettings, device: Any) -> str:
    """Return the number format of an engine on a torch device.

    bfloat16 on a CPU is right and slow: without `avx512_bf16` or AMX it is emulated, and with them it was not measured,
    so `auto` takes it on CUDA alone. Nor on MPS, where it was not measured either.
    """
    import torch

    is_cuda = device.type == "cuda" and torch.version.cuda is not None
    devices = range(torch.cuda.device_count()) if is_cuda else ()
    return _format(settings, tuple(torch.cuda.get_device_capability(number) for number in devices))


def _format(settings: EngineSettings, capabilities: tuple[Capability, ...]) -> str:
    if settings.precision != "auto":
        return _FORMATS[settings.precision]
    if settings.is_quantised:
        return BFLOAT16
    # All devices, for several workers take one each, and each has to compute what was planned.
    return BFLOAT16 if capabilities and min(capabilities) >= _MIN_CAPABILITY else FLOAT32


@cache
def cuda_capabilities() -> tuple[Capability, ...]:
    """Return the compute capability of every CUDA device that torch would see here; empty: it would see none."""
    if not _is_built_with_cuda():
        return ()
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ()
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    return tuple((_attribute(driver, n, _MAJOR), _attribute(driver, n, _MINOR)) for n in range(count.value))


def _attribute(driver: ctypes.CDLL, number: int, attribute: int) -> int:
    device, value = ctypes.c_int(), ctypes.c_int()
    failed = driver.cuDeviceGet(ctypes.byref(device), number)
    failed = failed or driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    return 0 if failed else value.value


def _is_built_with_cuda() -> bool:
    """Whether the installed torch can use CUDA, as its own file of versions says; a missing torch might."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return True
    try:
        text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    except OSError:
        return True
    found = re.search(r"^cuda\b[^=\n]*=\s*(\S+)", text, re.MULTILINE)
    return found is None or found[1] != "None"
