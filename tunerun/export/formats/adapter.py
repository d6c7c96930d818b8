"""The adapter without the base model, for PEFT."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tunerun.examples import Input
from tunerun.export.formats.base import ExportSource


class AdapterFormat:
    """A folder for `PeftModel.from_pretrained`."""

    name = "adapter"
    quantizations: tuple[str, ...] = ()

    def check(self, source: ExportSource) -> None:
        """Accept every tuned model: each has an adapter."""

    def write(self, source: ExportSource, folder: Path) -> str:
        """Write the adapter, the tokenizer and the generation config."""
        from tunerun.engine import merging

        tuned = merging.load(source.folder, source.cache)
        merging.save_adapter(tuned, source.options, folder, source.base_name)
        merging.save_record(source.folder, folder, source.base_name)
        return ""

    def answers(self, source: ExportSource, folder: Path, inputs: Sequence[Input]) -> list[str]:
        """Answer with transformers and PEFT, on the base model of this machine."""
        from tunerun.engine import export_answers

        record = source.record
        return export_answers.of_adapter(folder, record.base_model, source.cache, inputs, record.chat_format)
