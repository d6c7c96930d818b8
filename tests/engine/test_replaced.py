"""A base model that is replaced, and a cache that is deleted, while a backend is in use."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.engine import tiny_model
from tests.engine.tiny_model import request_of
from tunerun.backends.local import LocalBackend, engine_calls
from tunerun.engine import base_model, messages
from tunerun.engine.settings import EngineSettings
from tunerun.errors import BackendError, BaseModelError
from tunerun.generation import GenerateOptions
from tunerun.job import Failure, FailureKind, JobState
from tunerun.testing.waiting import wait_for_end


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[LocalBackend]:
    with LocalBackend(tmp_path / "runs", tmp_path / "cache", EngineSettings("cpu", 1)) as opened:
        yield opened


def change(folder: Path) -> None:
    """Change one byte of the weights."""
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


def test_base_model_that_is_replaced(backend: LocalBackend, tiny_folder: Path, tmp_path: Path) -> None:
    """Neither training nor answers use other weights: the error has the old and the new digest."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    model = tiny_model.model_of(folder)
    backend.prepare([model])
    identity = base_model.find(model, tmp_path / "cache").identity
    request = replace(request_of(model, epoch_count=1), base_identity=identity)
    assert wait_for_end(backend, backend.submit(request)).state is JobState.SUCCEEDED
    change(folder)
    status = wait_for_end(backend, backend.submit(replace(request, key="b" * 64, tuned_model_id="tiny-b")))
    assert status.failure is not None
    assert status.failure.kind is FailureKind.INVALID
    assert (
        f"was replaced since this trial was planned: it was {identity}, it is folder:sha256:" in status.failure.message
    )
    with pytest.raises(BaseModelError, match="was replaced since it was prepared: it was folder:sha256:"):
        backend.generate(model, ["1"], GenerateOptions(max_output_tokens=2))


def test_cache_that_is_deleted(backend: LocalBackend, tiny_folder: Path, tmp_path: Path) -> None:
    """The cache is filled again when it is needed; the answers are the same."""
    model = tiny_model.model_of(tiny_folder)
    backend.prepare([model])
    options = GenerateOptions(max_output_tokens=4)
    before = backend.generate(model, ["1", "two"], options)
    shutil.rmtree(tmp_path / "cache")
    assert wait_for_end(backend, backend.submit(request_of(model, epoch_count=1))).state is JobState.SUCCEEDED
    assert backend.generate(model, ["1", "two"], options) == before


def test_the_kernel_kills_the_engine_while_it_prepares_a_model(tiny_folder: Path) -> None:
    """The error names the base model that does not fit into memory, and does not advise a smaller batch size."""
    killed = Failure(FailureKind.OUT_OF_MEMORY, "the engine's process was killed (signal 9); lower batch_size")
    error = engine_calls.call_error(messages.Prepare(tiny_model.model_of(tiny_folder)), killed)
    assert isinstance(error, BaseModelError)
    assert "the base model 'tiny' does not fit this machine's memory: the engine's process was killed" in str(error)
    lost = replace(killed, kind=FailureKind.LOST)
    assert isinstance(engine_calls.call_error(messages.Prepare(tiny_model.model_of(tiny_folder)), lost), BackendError)
