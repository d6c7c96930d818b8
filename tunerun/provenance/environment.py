"""What can be said of the machine and of the installed software, without importing what is heavy."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path

from tunerun.provenance.facts import Environment

_CPU = Path("/proc/cpuinfo")
_MEMORY = Path("/proc/meminfo")
_INSTRUCTIONS = re.compile(r"(?:avx|amx|sse4|fma|f16c|bmi|asimd|sve|neon|bf16|i8mm)\w*")
"""Sets that arithmetic and its order depend on; x86 and ARM as Linux names them."""


def environment() -> Environment:
    """The machine and the software of this process, as they are now."""
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
    """The operating system with its release, and the machine's architecture; never its name."""
    kernel = f"{platform.system()} {platform.release()} {platform.machine()}"
    try:
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {kernel}"
    except (OSError, KeyError):  # not Linux, or a Linux that does not say what it is
        return kernel


def packages() -> dict[str, str]:
    """Every installed package with its version, by name; of two of one name the one that is imported."""
    return dict(_packages())


@cache
def _packages() -> Mapping[str, str]:
    """Read once in a process, 0.3 s with 200 packages: what is imported stays what it was then."""
    found: dict[str, str] = {}
    for each in importlib.metadata.distributions():
        name = each.metadata["Name"]
        if name:  # a broken installation has none
            found.setdefault(name, each.version)
    return dict(sorted(found.items(), key=lambda entry: entry[0].lower()))


def versions(names: tuple[str, ...]) -> dict[str, str]:
    """The versions of those packages that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """The CPU's model; of one without a name, such as an ARM core in a virtual machine, its numbers."""
    said = _cpu()
    if name := said.get("model name") or _sysctl("machdep.cpu.brand_string"):
        return name
    numbers = [f"{key} {said[key]}" for key in ("CPU implementer", "CPU part") if key in said]
    return ", ".join(numbers) or platform.processor() or platform.machine()


def instructions() -> tuple[str, ...]:
    """Of the CPU's instruction sets, those that arithmetic uses."""
    said = _cpu()
    words = f"{said.get('flags', '')} {said.get('Features', '')}" if said else _sysctl("machdep.cpu.features").lower()
    return tuple(sorted({word for word in words.split() if _INSTRUCTIONS.fullmatch(word)}))


def cores() -> int:
    """How many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 0


def memory_bytes() -> int:
    """The machine's memory; 0: not known."""
    try:
        total = re.search(r"MemTotal:\s+(\d+) kB", _MEMORY.read_text(encoding="ascii", errors="replace"))
        return int(total[1]) * 1024 if total else 0
    except OSError:
        said = _sysctl("hw.memsize")
        return int(said) if said.isdecimal() else 0


@lru_cache(maxsize=1)
def _cpu() -> Mapping[str, str]:
    """What Linux says of the first core, by its words; nothing elsewhere."""
    try:
        text = _CPU.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def _sysctl(name: str) -> str:
    """What macOS says; empty elsewhere."""
    if platform.system() != "Darwin":
        return ""
    try:
        said = subprocess.run(["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return said.stdout.strip()
