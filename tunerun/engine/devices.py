"""The memory and the CUDA devices of this machine, determined without importing torch, which takes seconds."""

from __future__ import annotations

import ctypes
import functools
import os
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

_CGROUP_2, _CGROUP_1 = Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory")
_CGROUP_LIMITS = (_CGROUP_2 / "memory.max", _CGROUP_1 / "memory.limit_in_bytes")
_MEMINFO = Path("/proc/meminfo")
_LIBRARIES = {"linux": "libcuda.so.1", "win32": "nvcuda.dll"}

# CUDA driver API, cuda.h: CUdevice_attribute.
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76


@dataclass(frozen=True)
class CudaDevice:
    """A CUDA device.

    Attributes:
        name: as the driver gives it.
        memory_bytes: the total memory, in use or not.
        capability: the compute capability, such as (8, 0).
    """

    name: str
    memory_bytes: int
    capability: tuple[int, int]


def main_memory_bytes() -> int | None:
    """Return the most memory that this process can have, of the machine or of its container; None: unknown."""
    limits = []
    with suppress(ValueError, OSError, AttributeError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for file in _CGROUP_LIMITS:
        with suppress(OSError, ValueError):
            limits.append(int(file.read_text(encoding="ascii")))  # ValueError for "max": no limit
    return min(limits, default=None)


def free_main_memory_bytes() -> int | None:
    """Return the memory that this process can still get without swapping; None: unknown, as on macOS.

    The kernel's file cache counts as free, because the kernel drops it when a program needs the memory.
    """
    sizes = [_container_free_bytes(_CGROUP_2, "memory.max", "memory.current", "inactive_file")]
    sizes += [_container_free_bytes(_CGROUP_1, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")]
    with suppress(OSError):
        available = re.search(r"^MemAvailable:\s+(\d+) kB", _MEMINFO.read_text(encoding="ascii"), re.MULTILINE)
        sizes.append(1024 * int(available[1]) if available else None)
    return min((one for one in sizes if one is not None), default=None)


def _container_free_bytes(folder: Path, limit: str, used: str, cached: str) -> int | None:
    """Return what a container's limit leaves free; None: it has no limit (`max`), or the cgroup does not exist."""
    with suppress(OSError, ValueError):
        numbers = [int((folder / name).read_text(encoding="ascii")) for name in (limit, used)]
        files = re.search(rf"^{cached} (\d+)", (folder / "memory.stat").read_text(encoding="ascii"), re.MULTILINE)
        return max(0, numbers[0] - numbers[1] + (int(files[1]) if files else 0))
    return None


def engines_on_one(device: str, engines: int) -> int:
    """Return how many of the engines on this machine share the memory of one device.

    Args:
        device: from `chosen`.
        engines: the number of engines on this machine; they take the GPUs in turn.
    """
    return -(-engines // max(1, len(cuda_devices()))) if device == "cuda" else engines


@functools.cache
def cuda_devices() -> tuple[CudaDevice, ...]:
    """Return the CUDA devices that torch would use."""
    # From the driver's library, which obeys CUDA_VISIBLE_DEVICES as torch does.
    if sys.platform not in _LIBRARIES or not _torch_has_cuda():
        return ()
    try:
        driver = ctypes.CDLL(_LIBRARIES[sys.platform])
        count = ctypes.c_int()
        if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
            return ()
        return tuple(_cuda_device(driver, number) for number in range(count.value))
    except (OSError, AttributeError):  # the driver is missing or very old
        return ()


def _cuda_device(driver: ctypes.CDLL, number: int) -> CudaDevice:
    device, memory = ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(256)
    driver.cuDeviceGet(ctypes.byref(device), number)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    capability = []
    for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        capability.append(value.value)
    return CudaDevice(name.value.decode(errors="replace"), memory.value, (capability[0], capability[1]))


def _torch_has_cuda() -> bool:
    """Whether the installed torch was built for CUDA, by its version.py; True if that cannot be read."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return True
    try:
        text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    except OSError:
        return True
    version = re.search(r"^cuda\b[^=\n]*=\s*(\S+)", text, re.MULTILINE)
    return version is None or version[1] != "None"


def chosen(device: str) -> str:
    """Return the device that the engine will use for a value of `backend.device`: cuda, mps or cpu."""
    if device != "auto":
        return device
    if cuda_devices():
        return "cuda"
    is_apple = sys.platform == "darwin" and os.uname().machine == "arm64"
    return "mps" if is_apple else "cpu"


def memory_bytes(device: str) -> int | None:
    """Return the memory of a device, of several GPUs the smallest one's; None: unknown.

    Args:
        device: from `chosen`; mps shares the machine's memory.
    """
    if device == "cuda":
        return min((one.memory_bytes for one in cuda_devices()), default=None)
    return main_memory_bytes()
