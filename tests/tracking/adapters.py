"""Folders of tuned models that were never trained: everything but the numbers is real."""

from __future__ import annotations

import json
from pathlib import Path

from tunerun.engine import tuned_model
from tunerun.engine.chat_format import ChatFormat
from tunerun.engine.tuned_model import FinishedJob, TunedModelRecord
from tunerun.job import BaseModelRef

HOME = "/home/ada/models"
"""Where the base model was on the machine that tuned: in no stored file."""


def write_adapter(folder: Path, key: str, *, size: int = 1000, source: str = f"{HOME}/tiny") -> Path:
    """Write a tuned model's folder, and return it."""

    def save(partial: Path) -> None:
        with (partial / "adapter_model.safetensors").open("wb") as weights:
            weights.write(key.encode())
            weights.truncate(size)
        config = {"base_model_name_or_path": f"../..{HOME}/tiny", "r": 8, "lora_alpha": 16, "revision": None}
        (partial / "adapter_config.json").write_text(json.dumps(config))

    base = BaseModelRef(name=source, source=source)
    record = TunedModelRecord(
        key, f"tunedModels/{folder.name}", base, f"folder:sha256:{'0' * 64}", ChatFormat("", "", "")
    )
    tuned_model.write(folder, record, FinishedJob("job"), save)
    return folder
