"""What `artifacts/model.json` holds, and how a base model is named without a path of this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tunerun.engine import hub
from tunerun.generation import GenerateOptions
from tunerun.interpolation import resolved_record
from tunerun.job import BaseModelRef, TemplateText
from tunerun.stored import read_stored, section

MODEL_FILE = "model.json"
TUNED_MODEL, BASE_MODEL, MODEL = "tuned_model", "base_model", "model"
"""The names of the artifacts."""

CONTENT_TAG, FILES_TAG = "tunerun.content", "tunerun.files"
"""Tags of a model in MLflow: by the first it is found again, the second has the SHA-256 of each of its files."""


@dataclass(frozen=True)
class PackagedModel:
    """What answering needs besides the adapter's folder.

    Attributes:
        template: with which rows become inputs.
        generation: how answers are generated unless a call says otherwise.
        backend: the section of the backend that answers, as it is stored with a trial.
    """

    template: TemplateText
    generation: GenerateOptions
    backend: Mapping[str, Any] = field(default_factory=dict)
    format_version: int = 1

    def text(self) -> str:
        """The content of `artifacts/model.json`."""
        document = asdict(self) | {"template": self.template.document}
        return json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True) + "\n"

    @classmethod
    def read(cls, text: str) -> PackagedModel:
        """Read the file's content, whichever version wrote it."""
        values = json.loads(text)
        stops = tuple(section(values, "generation").get("stop_sequences", ()))
        return read_stored(
            cls,
            values,
            template=read_stored(TemplateText, section(values, "template")),
            generation=read_stored(GenerateOptions, section(values, "generation"), stop_sequences=stops),
        )


def portable(model: BaseModelRef, identity: str) -> BaseModelRef:
    """A base model without the folders of this machine; what the environment gave stays an interpolation.

    Args:
        identity: what it was; of a hub's model it says the commit, which the reference may leave open.
    """
    if resolved_record(model) != model:
        return model
    if hub.is_name(model.source) and not Path(model.source).expanduser().exists():
        of_hub = f"hub:{model.source}@"
        return replace(model, revision=identity.removeprefix(of_hub)) if identity.startswith(of_hub) else model
    return replace(model, source=f"./{Path(model.source).name}", name=Path(model.name).name)
