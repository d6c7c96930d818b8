"""What a packaged model makes of rows and of a missing base model; no engine is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas
import pytest

from tests.tracking.adapters import write_adapter
from tunerun.errors import BaseModelError, NotFoundError
from tunerun.generation import GenerateOptions
from tunerun.job import TemplateText
from tunerun.tracking.packaged.record import MODEL, TUNED_MODEL, PackagedModel

pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")


@pytest.fixture
def artifacts(tmp_path: Path) -> dict[str, Path]:
    """The artifacts of a model whose base model is not on this machine."""
    file = tmp_path / "model.json"
    packaged = PackagedModel(TemplateText(), GenerateOptions(stop_sequences=("\n",)), {"kind": "local"})
    file.write_text(packaged.text())
    assert PackagedModel.read(file.read_text()) == packaged
    return {TUNED_MODEL: write_adapter(tmp_path / "tuned", "a" * 64, source="./tiny"), MODEL: file}


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("model_input", "rows"),
    [
        (pandas.DataFrame({"a": ["x", None], "n": [1, 2]}), [{"a": "x", "n": 1}, {"a": None, "n": 2}]),
        (pandas.DataFrame({"a": [float("nan"), pandas.NA]}, dtype=object), [{"a": None}, {"a": None}]),
        (pandas.DataFrame({"turns": [["b", "c"]]}), [{"turns": ["b", "c"]}]),
        ({"a": ["x", "y"]}, [{"a": "x"}, {"a": "y"}]),
        ({"a": "x"}, [{"a": "x"}]),
        ([{"a": "x"}], [{"a": "x"}]),
    ],
)
def test_rows_come_in_every_form_that_mlflow_hands_on(model_input: Any, rows: list[dict[str, Any]]) -> None:
    """Whatever pandas calls missing is null."""
    from tunerun.tracking.packaged.answering import rows_of

    assert rows_of(model_input) == rows


def test_a_base_model_that_is_missing_is_reported_when_the_model_is_loaded(
    artifacts: dict[str, Path], tmp_path: Path
) -> None:
    """With what to do about it."""
    from tunerun.tracking.packaged.answering import open_packaged

    with pytest.raises(BaseModelError, match=r"no file or folder './tiny'") as refused:
        open_packaged(artifacts, tmp_path)
    assert refused.value.problems[-1].startswith("set TUNERUN_BASE_MODEL to its folder, GGUF file or hub name")


def test_an_adapter_that_was_changed_is_not_loaded(artifacts: dict[str, Path], tmp_path: Path) -> None:
    """Its own record has the digest of its weights."""
    from tunerun.tracking.packaged.answering import open_packaged

    (artifacts[TUNED_MODEL] / "adapter_model.safetensors").write_bytes(b"other")
    with pytest.raises(NotFoundError, match=r"the tuned model is not as it was stored: .* has changed since"):
        open_packaged(artifacts, tmp_path)
