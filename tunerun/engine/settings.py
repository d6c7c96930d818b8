"""What an engine is started with, in one piece; the section `backend` of the config explains each."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Self


@dataclass(frozen=True)
class EngineSettings:
    """How an engine computes.

    Attributes:
        device: `auto` (cuda, else mps, else cpu), `cpu`, `cuda` or `mps`.
        threads: CPU threads; None: as many as torch takes by itself.
        precision: of the frozen weights: `auto`, `fp32` or `bf16`; see `precision`.
        quantization: `none` or `4bit`.
        packing: trials that share each pass: `auto`, `off`, or at most so many.
        micro_batch: most rows of a batch that are computed at once; None: all.
        gradient_checkpointing: whether layers' inner values are computed again for the gradient.
        engines: processes on this machine that share its memory, this one included.
    """

    device: str = "auto"
    threads: int | None = None
    precision: str = "auto"
    quantization: str = "none"
    packing: str | int = "auto"
    micro_batch: int | None = None
    gradient_checkpointing: bool = False
    engines: int = 1

    @property
    def is_quantised(self) -> bool:
        """Whether the base model's linear layers are stored in fewer bits than a number format has."""
        return self.quantization != "none"

    def to_json(self) -> str:
        """Return it as one argument of a command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))


DEFAULT = EngineSettings()
