"""The Protocol of an export format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tunerun.engine.tuned_model import TunedModelRecord
from tunerun.examples import Input
from tunerun.generation import GenerateOptions


@dataclass(frozen=True)
class ExportSource:
    """The tuned model to export.

    Attributes:
        folder: of its adapter, which was checked to be the recorded one.
        record: as stored in that folder.
        cache: the folder of prepared base models.
        options: how it was measured.
        base_name: the name by which others find its base model.
        quantization: of the written file; None: the format's default.
    """

    folder: Path
    record: TunedModelRecord
    cache: Path
    options: GenerateOptions
    base_name: str
    quantization: str | None = None

    @property
    def id(self) -> str:
        """The tuned model's name without `tunedModels/`."""
        return self.record.tuned_model.rpartition("/")[2]


class ExportFormat(Protocol):
    """A form in which other programs load a tuned model. Stateless: one object serves all exports.

    `check` is cheap and refuses with InputError before anything is loaded. `write` fills an empty folder, which is
    renamed to the target only when everything succeeded; it raises OSError if the disk is full. `answers` loads the
    written files as the code of the model card does, and answers inputs in order.
    """

    @property
    def name(self) -> str:
        """The value of `--to`, and the key in `usage.USAGES`."""

    @property
    def quantizations(self) -> tuple[str, ...]:
        """The values of `--quantization`, the default first; empty: the format has none."""

    def check(self, source: ExportSource) -> None:
        """Refuse a tuned model that cannot be written.

        Raises:
            InputError: the format does not support it.
        """

    def write(self, source: ExportSource, folder: Path) -> str:
        """Write the files.

        Returns:
            The name of the main file, if the format is one file; else an empty text.
        """

    def answers(self, source: ExportSource, folder: Path, inputs: Sequence[Input]) -> list[str]:
        """Answer inputs with the written files.

        Args:
            source: what was written.
            folder: where `write` put the files.
            inputs: rendered inputs.

        Returns:
            One answer for each input, in order.
        """
