"""What this machine computes on, as torch sees it, without torch."""

from __future__ import annotations

import os

import torch

from tunerun.engine import devices, network


def test_the_devices_are_those_that_torch_sees() -> None:
    """Their number, their memory and their compute capability, none where torch is built for the CPU alone; and what auto means."""
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


def test_main_memory_is_at_most_the_machines() -> None:
    """A container's limit counts where it is less; a device of its own has its own memory."""
    machines = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < (devices.main_memory_bytes() or 0) <= machines
    assert devices.memory_bytes("cpu") == devices.main_memory_bytes()
    if not devices.cuda_devices():
        assert devices.memory_bytes("cuda") is None
