"""How many training runs share a pass."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.engine.tiny_model import request_of
from tunerun.engine import devices, memory, model_facts, pack_size
from tunerun.engine.network import LoadedModel
from tunerun.engine.settings import EngineSettings
from tunerun.job import BaseModelRef


@pytest.mark.parametrize(("packing", "expected"), [("off", 1), ("auto", 8), (3, 3), (40, 40)])
def test_the_settings_say_how_many(packing: str | int, expected: int, base: LoadedModel, tiny: BaseModelRef) -> None:
    """`auto` is what pays on the device; a number is taken as it is."""
    chosen = replace(base, settings=EngineSettings(device="cpu", packing=packing))
    assert pack_size.of(chosen, request_of(tiny)) == expected


@pytest.mark.parametrize(("share", "expected"), [(3.5, 3), (0.5, 1)])
def test_auto_is_no_more_than_fit_into_memory(
    share: float, expected: int, base: LoadedModel, tiny: BaseModelRef
) -> None:
    """Here the adapters are so large that a few of them fill this machine; one is trained whatever it needs."""
    shape, available = model_facts.shape_of(base.network.config.to_dict()), devices.memory_bytes("cpu")
    assert shape is not None
    assert available is not None
    rank = int((available - memory.RUNTIME) / share / (memory.LEARNED_TOGETHER * shape.adapter_width))
    chosen = replace(base, settings=EngineSettings(device="cpu"))
    assert pack_size.of(chosen, request_of(tiny, adapter_rank=rank)) == expected
