"""The devices of this machine, determined without torch, compared with torch."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from tunerun.engine import devices, network


def test_the_devices_are_those_that_torch_sees() -> None:
    """Number, memory and compute capability of CUDA devices are torch's; `auto` chooses the same device."""
    seen = range(torch.cuda.device_count()) if torch.cuda.is_available() and torch.version.cuda else ()
    expected = [
        (torch.cuda.get_device_properties(number).total_memory, torch.cuda.get_device_capability(number))
        for number in seen
    ]
    found = devices.cuda_devices()
    assert [one.capability for one in found] == [capability for _, capability in expected]
    for one, (memory, _) in zip(found, expected, strict=True):
        assert abs(one.memory_bytes - memory) < 0.02 * memory
    assert devices.chosen("auto") == network.choose_device("auto").type
    assert devices.chosen("cpu") == "cpu"


def test_main_memory_is_at_most_that_of_the_machine() -> None:
    """A container's limit counts if it is less; a GPU has memory of its own."""
    machines = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < (devices.main_memory_bytes() or 0) <= machines
    assert devices.memory_bytes("cpu") == devices.main_memory_bytes()
    assert 0 < (devices.free_main_memory_bytes() or 1) <= machines
    assert devices.engines_on_one("cpu", 3) == 3
    if not devices.cuda_devices():
        assert devices.memory_bytes("cuda") is None


def test_free_memory_of_a_container(tmp_path: Path) -> None:
    """It is the limit minus the used memory, without cached files; without a limit it is unknown."""
    files = ("memory.max", "memory.current", "inactive_file")
    assert devices._container_free_bytes(tmp_path, *files) is None
    for name, content in {
        "memory.max": "1000",
        "memory.current": "700",
        "memory.stat": "anon 1\ninactive_file 50",
    }.items():
        (tmp_path / name).write_text(f"{content}\n")
    assert devices._container_free_bytes(tmp_path, *files) == 350
    (tmp_path / "memory.max").write_text("max\n")
    assert devices._container_free_bytes(tmp_path, *files) is None
