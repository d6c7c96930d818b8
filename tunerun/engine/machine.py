"""The hardware and software that trains a job, as torch sees it. Equal bits depend on it as well as on the request."""

from __future__ import annotations

import contextlib
import re
import resource
import sys
from pathlib import Path

import torch

from tunerun.engine import devices
from tunerun.job import TrainedOn
from tunerun.provenance.environment import processor, versions

COMPUTING = ("torch", "transformers", "peft", "bitsandbytes", "safetensors", "gguf", "tokenizers", "numpy")
"""Packages whose version can change a result."""

_DRIVER = Path("/proc/driver/nvidia/version")  # of NVIDIA's kernel module
_STATUS = Path("/proc/self/status")
_LIBRARIES = {
    "MKL": re.compile(r"Math Kernel Library Version ([\d.]+)"),
    "oneDNN": re.compile(r"(?:MKL-DNN|oneDNN) v([\d.]+)"),
    "BLAS": re.compile(r"\bBLAS_INFO=(\w+)"),
}
"""How `torch.__config__.show()` writes the versions of math libraries."""


def trained_on(device: torch.device, number_format: str) -> TrainedOn:
    """Return the hardware and software of this process's training.

    Args:
        device: of the base model in memory; call this after the number of threads has been set.
        number_format: of the base model in memory.
    """
    is_cpu, is_cuda = device.type == "cpu", device.type == "cuda"
    # The engine turns TF32 off; recorded as torch reports it.
    uses_tf32 = is_cuda and torch.get_float32_matmul_precision() != "highest"

    driver = ""
    if is_cuda:
        with contextlib.suppress(OSError):
            text = _DRIVER.read_text(encoding="utf-8", errors="replace")
            driver = match[1] if (match := re.search(r"Module.*?\s(\d+\.[\d.]+)\s", text)) else ""

    text = torch.__config__.show()
    libraries = {name: match[1] for name, pattern in _LIBRARIES.items() if (match := pattern.search(text))}
    built_for = {"CUDA": torch.version.cuda, "ROCm": torch.version.hip}
    named = [f"{name} {version}" for name, version in (built_for | libraries).items() if version]

    return TrainedOn(
        device=device.type,
        processor=torch.cuda.get_device_name(device) if is_cuda else processor(),
        instructions=torch.backends.cpu.get_cpu_capability() if is_cpu else "",
        threads=torch.get_num_threads() if is_cpu else 0,
        driver=driver,
        build=", ".join([torch.__version__, *named]),
        packages=versions(COMPUTING),
        precision=f"{number_format} with TF32" if uses_tf32 else number_format,
    )


def peak_bytes(device: torch.device) -> int:
    """Return the peak memory of this process so far, in bytes; it includes the base model and all trials of the pack.

    On CUDA the peak of torch's allocations on the GPU, otherwise the resident memory of the process.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Preferred where it exists: getrusage(2) starts with the peak of the parent process.
    if (peak := _status_bytes("VmHWM")) is not None:
        return peak
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def obtainable_bytes(device: torch.device, engines: int) -> int | None:
    """Return the memory that this process can have on a device, including what it already has; None: unknown.

    Args:
        device: of the base model.
        engines: the number of processes that share this machine's memory. Each gets an equal share at most, because the
            others may not have allocated theirs yet.
    """
    total = devices.memory_bytes(device.type)
    if total is None:
        return None
    share = total // devices.engines_on_one(device.type, engines)
    if device.type == "cuda":
        return min(share, torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device))
    free = devices.free_main_memory_bytes()
    return share if free is None else min(share, free + (_status_bytes("VmRSS") or 0))


def _status_bytes(name: str) -> int | None:
    """Return a memory size of this process from Linux's `/proc/self/status`; None: another system."""
    with contextlib.suppress(OSError):
        if match := re.search(rf"{name}:\s+(\d+) kB", _STATUS.read_text(encoding="ascii")):
            return 1024 * int(match[1])
    return None
