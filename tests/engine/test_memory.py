"""The memory estimate, compared with models in memory, published sizes and measurements."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.benchmarks import memory as memory_benchmark
from tests.engine import memory_table
from tests.engine.published import CONFIGS, PARAMETERS
from tunerun.engine import lora, memory, model_facts, model_shape
from tunerun.engine.memory import GIB, Workload
from tunerun.engine.model_shape import ModelShape
from tunerun.engine.network import LoadedModel
from tunerun.engine.precision import BFLOAT16
from tunerun.job import BaseModelRef, TuningHyperparameters


def shape_of(name: str) -> ModelShape:
    found = model_shape.of_config(CONFIGS[name])
    assert found is not None
    return found


def test_the_shape_of_a_folder_equals_the_loaded_model(tiny_folder: Path, base: LoadedModel) -> None:
    """Parameters of the model and of an adapter, counted from the headers of its files and from its config alone."""
    shape = model_facts.of_folder(tiny_folder).shape
    assert shape is not None
    assert shape.parameters == sum(weight.numel() for weight in base.network.parameters())
    adapter = lora.fresh(base, TuningHyperparameters(adapter_rank=3), 0)
    assert 3 * shape.adapter_width == sum(matrix.numel() for matrix in adapter.parameters())
    of_config = model_shape.of_config(json.loads((tiny_folder / "config.json").read_text()))
    assert of_config is not None
    norms = shape.parameters - of_config.parameters
    assert norms == (2 * shape.layers + 1) * shape.width
    assert replace(of_config, parameters=shape.parameters) == shape


@pytest.mark.parametrize("name", CONFIGS)
def test_a_published_models_size_is_known_from_its_config(name: str) -> None:
    """Without its weights, within 5 % of the size on its page."""
    assert shape_of(name).parameters == pytest.approx(PARAMETERS[name], rel=0.05)


def test_a_config_that_is_not_a_transformers_gives_no_shape() -> None:
    """A state-space model has no heads, so nothing is estimated."""
    assert (
        model_shape.of_config({"model_type": "mamba", "hidden_size": 8, "num_hidden_layers": 2, "vocab_size": 9})
        is None
    )


@given(st.sampled_from(sorted(CONFIGS)), st.floats(0.1, 200), st.integers(0, 64), st.booleans(), st.integers(1, 64))
def test_as_many_trials_share_a_pass_as_fit(name: str, gib: float, most: int, checkpoints: bool, rows: int) -> None:
    """That number fits, one more would not, and it is never more than the number of trials."""
    shape, work, available = shape_of(name), Workload(rows=rows, gradient_checkpointing=checkpoints), int(gib * GIB)
    found = memory.members_that_fit(shape, work, available, most)
    assert 0 <= found <= most
    assert found == 0 or memory.estimate(shape, work, found).total <= available
    assert found == most or memory.estimate(shape, work, found + 1).total > available


def test_each_advised_setting_needs_less_memory() -> None:
    """Fewer rows, gradient checkpointing, bfloat16 and 4 bits, each added to the ones before, for 4 B parameters."""
    works = [Workload(device="cuda")]
    for change in ({"rows": 1}, {"gradient_checkpointing": True}, {"number_format": BFLOAT16}, {"is_quantised": True}):
        works.append(replace(works[-1], **change))
    totals = [memory.estimate(shape_of("qwen3-4b"), work).total for work in works]
    assert totals == sorted(totals, reverse=True)
    assert len(set(totals)) == len(totals)
    assert totals[-1] / GIB < 6 < totals[0] / GIB


def test_the_estimate_is_above_what_was_measured(tiny: BaseModelRef, smollm2: BaseModelRef) -> None:
    """By at most half, in every row of docs/memory.md; `python -m tests.benchmarks.memory` measures them again."""
    shapes = {model.name: memory_benchmark.shape_of(model) for model in (tiny, smollm2)}
    found = memory_benchmark.recorded()
    assert {(row.model, row.members) for row, _ in found} >= {(name, count) for name in shapes for count in (1, 4, 12)}
    for row, estimated in found:
        estimate = row.estimate(shapes[row.model])
        assert round(estimate / memory_benchmark.MIB) == estimated, "the table is of another formula"
        assert row.peak <= estimate <= 1.5 * row.peak


def test_the_table_of_the_documentation_is_current() -> None:
    """`python -m tests.engine.memory_table` writes it again after the formula has changed."""
    assert memory_table.section(memory_table.BEGIN) == memory_table.table()
