"""The tiny base model and a cache that all tests of the local backend share."""

from __future__ import annotations

import pytest

from tests.engine import tiny_model
from tunerun.job import BaseModelRef


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> BaseModelRef:
    return tiny_model.model_of(tiny_model.build(tmp_path_factory.mktemp("models") / "tiny"))
