"""How many training runs share a pass."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.engine.tiny_model import request_of
from tunerun.engine import devices, machine, memory, model_shape, pack
from tunerun.engine.network import LoadedModel
from tunerun.engine.settings import EngineSettings
from tunerun.job import BaseModelRef


@pytest.mark.parametrize(("packing", "expected"), [("off", 1), ("auto", 8), (3, 3), (40, 40)])
def test_the_settings_say_how_many(packing: str | int, expected: int, base: LoadedModel, tiny: BaseModelRef) -> None:
    """`auto` is what pays on the device; a number is taken as it is."""
    chosen = replace(base, settings=EngineSettings(device="cpu", packing=packing))
    assert pack.most_members(chosen, request_of(tiny)) == expected


@pytest.mark.parametrize(("share", "expected"), [(3.5, 3), (0.5, 1)])
def test_auto_is_no_more_than_fit_into_memory(
    share: float, expected: int, base: LoadedModel, tiny: BaseModelRef
) -> None:
    """Here the adapters are so large that a few of them fill this machine; one is trained whatever it needs."""
    shape, available = model_shape.of_config(base.network.config.to_dict()), machine.obtainable_bytes(base.device, 1)
    assert shape is not None
    assert available is not None
    rank = int((available - memory.RUNTIME) / share / (memory.LEARNED_TOGETHER * shape.adapter_width))
    chosen = replace(base, settings=EngineSettings(device="cpu"))
    assert pack.most_members(chosen, request_of(tiny, adapter_rank=rank)) == expected


def test_engines_on_one_machine_share_its_memory(base: LoadedModel, tiny: BaseModelRef) -> None:
    """Each plans with its part, and with no more than other programs leave free."""
    total = devices.main_memory_bytes()
    assert total is not None
    assert machine.obtainable_bytes(base.device, 1000) == total // 1000
    assert (machine.obtainable_bytes(base.device, 1) or 0) <= total
    crowded = replace(base, settings=EngineSettings(device="cpu", engines=1000))
    assert pack.most_members(crowded, request_of(tiny)) == 1
