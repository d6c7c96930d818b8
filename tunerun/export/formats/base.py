"""The Protocol of an export format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tunerun.engine.tuned_model import TunedModelRecord
from tunerun.job import GenerateOptions, Input


@dataclass(frozen=True)
class ExportSource:
    """The tuned model to export.

    Attributes:
        folder: of its adapter, checked to be the one that was made.
        record: what that folder says of it.
        cache: where its base model is prepared.
        options: how it was measured.
        base_name: the name by which others find its base model.
        quantization: None: as the format does by itself.
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
    """A form in which other programs load a tuned model; stateless, and one object for all exports.

    `check` is cheap and refuses with InputError before anything is loaded. `write` fills an empty folder, which appears
    in its place only when all is done; it raises OSError where the disk refuses. `answers` loads what was written as
    the model card's code does and answers inputs in order.
    """

    @property
    def name(self) -> str:
        """What `--to` takes, and `usage.USAGES` knows."""

    @property
    def quantizations(self) -> tuple[str, ...]:
        """What `--quantization` takes, the default first; empty: the format has none."""

    def check(self, source: ExportSource) -> None:
        """Refuse a tuned model that cannot be written."""

    def write(self, source: ExportSource, folder: Path) -> str:
        """Write the files; the name of the one file that it is about, or an empty text where it is the folder."""

    def answers(self, source: ExportSource, folder: Path, inputs: Sequence[Input]) -> list[str]:
        """Answer inputs from what was written."""
