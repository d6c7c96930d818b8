"""The adapter merged into the base model's weights, for transformers and programs that read its folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tunerun.examples import Input
from tunerun.export.formats.base import ExportSource


class MergedFormat:
    """A folder for `AutoModelForCausalLM.from_pretrained`."""

    name = "merged"
    quantizations: tuple[str, ...] = ()

    def check(self, source: ExportSource) -> None:
        """Accept every tuned model: each can be merged."""

    def write(self, source: ExportSource, folder: Path) -> str:
        """Write weights, config, tokenizer and generation config."""
        from tunerun.engine import merging

        merging.save_merged(merging.load(source.folder, source.cache), source.options, folder)
        # tunerun.json leads from the files back to the trial; other programs ignore it.
        merging.save_record(source.folder, folder, source.base_name)
        return ""

    def answers(self, source: ExportSource, folder: Path, inputs: Sequence[Input]) -> list[str]:
        """Answer with transformers alone."""
        from tunerun.engine import export_answers

        return export_answers.of_merged(folder, inputs, source.record.chat_format)
