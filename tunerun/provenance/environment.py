"""The machine and the installed software, from the system's files and the packages' metadata; imports no package."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from tunerun.provenance.facts import Environment

_CPU = Path("/proc/cpuinfo")
_MEMORY = Path("/proc/meminfo")
_INSTRUCTIONS = re.compile(r"(?:avx|amx|sse4|fma|f16c|bmi|asimd|sve|neon|bf16|i8mm)\w*")
"""Instruction sets on which the order of additions depends, by the names of Linux for x86 and ARM."""


def environment() -> Environment:
    """Return the machine and the software of this process."""
    return Environment(
        python=platform.python_version(),
        system=system(),
        processor=processor(),
        instructions=instructions(),
        cores=cores(),
        memory_bytes=memory_bytes(),
        packages=packages(),
    )


def system() -> str:
    """Return the operating system with its release and the machine's architecture, but not the machine's name."""
    # Not the whole of `os.uname()`: its `nodename` is the machine's name, and records are published.
    kernel = f"{platform.system()} {platform.release()} {platform.machine()}"
    try:
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {kernel}"
    except (OSError, KeyError):  # not Linux, or a Linux without an os-release file
        return kernel


# Cached: it takes 0.3 s with 200 packages, and a process keeps the versions that it imported.
@cache
def packages() -> Mapping[str, str]:
    """Return the version of every installed package by name; of two with one name, that of the imported one."""
    installed: dict[str, str] = {}
    # In the order of sys.path, in which an import searches, too: the first of two is the one that is imported.
    for each in importlib.metadata.distributions():
        name = each.metadata["Name"]
        if name:  # a broken installation has none
            installed.setdefault(name, each.version)
    return dict(sorted(installed.items(), key=lambda entry: entry[0].lower()))


def versions(names: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of some packages by name, without those that are not installed."""
    installed = {}
    for name in names:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def processor() -> str:
    """Return the CPU's model, or its numbers if it has no name, as an ARM core in a virtual machine."""
    cpu = _cpu()
    if name := cpu.get("model name") or _sysctl("machdep.cpu.brand_string"):
        return name
    numbers = [f"{key} {cpu[key]}" for key in ("CPU implementer", "CPU part") if key in cpu]
    return ", ".join(numbers) or platform.processor() or platform.machine()


def instructions() -> tuple[str, ...]:
    """Return the CPU's instruction sets for arithmetic."""
    cpu = _cpu()
    # Linux lists them under `flags` for x86 and under `Features` for ARM.
    words = f"{cpu.get('flags', '')} {cpu.get('Features', '')}" if cpu else _sysctl("machdep.cpu.features").lower()
    return tuple(sorted({word for word in words.split() if _INSTRUCTIONS.fullmatch(word)}))


def cores() -> int:
    """Return the number of cores that this process may use."""
    # `os.cpu_count` counts the machine's, of which a batch job or a container with a CPU set may have few.
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 0


def memory_bytes() -> int:
    """Return the machine's memory; 0: not known."""
    try:
        total = re.search(r"MemTotal:\s+(\d+) kB", _MEMORY.read_text(encoding="ascii", errors="replace"))
        return int(total[1]) * 1024 if total else 0
    except OSError:
        size = _sysctl("hw.memsize")
        return int(size) if size.isdecimal() else 0


@cache
def _cpu() -> Mapping[str, str]:
    """Linux's description of the first core by its keys; empty on other systems."""
    # On Linux `platform.processor()` is empty or the architecture, and the standard library has no instruction sets.
    try:
        text = _CPU.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def _sysctl(name: str) -> str:
    """A value of macOS's sysctl; empty on other systems, or if it fails."""
    if platform.system() != "Darwin":
        return ""
    try:
        # By its path: a program of that name on PATH is not run.
        done = subprocess.run(["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
