"""A GGUF file, for llama.cpp and programs built on it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tunerun.engine import base_model, prepared_model
from tunerun.engine.packages import require
from tunerun.examples import Input
from tunerun.export.formats.base import ExportSource


class GgufFormat:
    """A folder with one `.gguf` file."""

    name = "gguf"
    # f16 is the default: llama.cpp answered 24 of 24 rows like the tuned model from it, and 22 of 24 from q8_0
    # (SmolLM2-135M on `next_number`, 2026-11-26).
    quantizations: tuple[str, ...] = ("f16", "q8_0")

    def check(self, source: ExportSource) -> None:
        """Refuse architectures and tokenizers that no test has written and read back."""
        require("gguf")
        from tunerun.engine import gguf_export

        # A base model that is a GGUF file has no config.json of its own; the folder that it is converted into does.
        folder = prepared_model.prepare(source.record.base_model, source.cache)
        located = base_model.find(source.record.base_model, source.cache)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tokenizer = json.loads(prepared_model.tokenizer_file(located, source.cache).read_text(encoding="utf-8"))
        gguf_export.check(config, tokenizer)

    def write(self, source: ExportSource, folder: Path) -> str:
        """Write the file, which also contains the tokenizer and the chat template."""
        from tunerun.engine import gguf_export, merging

        quantization = source.quantization or self.quantizations[0]
        file = f"{source.id}-{quantization}.gguf"
        gguf_export.write(merging.load(source.folder, source.cache), folder / file, quantization, source.id)
        merging.save_record(source.folder, folder, source.base_name)
        return file

    def answers(self, source: ExportSource, folder: Path, inputs: Sequence[Input]) -> list[str]:
        """Answer with transformers, which reads the file back."""
        from tunerun.engine import export_answers

        (file,) = folder.glob("*.gguf")
        return export_answers.of_gguf(file, inputs, source.record.chat_format, source.options)
