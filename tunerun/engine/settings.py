"""The settings that an engine is started with; the config's section `backend` documents each of them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Self


@dataclass(frozen=True)
class EngineSettings:
    """The settings of an engine.

    Attributes:
        device: `auto` (cuda, else mps, else cpu), `cpu`, `cuda` or `mps`.
        threads: CPU threads; None: torch's default.
        precision: of the frozen weights: `auto`, `fp32` or `bf16`; see the module `precision`.
        quantization: `none` or `4bit`.
        packing: how many trials share a pass: `auto`, `off`, or the largest number.
        micro_batch: the most rows of a batch in one pass; None: all that the limits of a pass allow.
        gradient_checkpointing: whether activations inside layers are recomputed in the backward pass.
        engines: the number of processes on this machine that share its memory, this one included.
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
        """Whether the base model's linear layers are quantised."""
        return self.quantization != "none"

    def to_json(self) -> str:
        """Return the settings as one command-line argument."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        # Strictly: both ends are one version. An engine's process runs the code that starts it, and a node of a cluster
        # with another version refuses to work (`workers.node`).
        return cls(**json.loads(text))


DEFAULT = EngineSettings()
