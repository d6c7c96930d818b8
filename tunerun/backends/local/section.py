"""The config section of the backend `local`, and the capabilities of the embedded engine."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tunerun.backends.base import Capabilities
from tunerun.backends.registry import BackendSection
from tunerun.engine import precision
from tunerun.engine.settings import EngineSettings
from tunerun.job import LATER_HYPERPARAMETERS
from tunerun.section import one_error
from tunerun.workers import registry as worker_kinds

KIND = "local"
IS_HOSTED = False


class LocalSection(BackendSection):
    """The embedded engine, on this machine."""

    kind: Literal["local"] = Field(description="local")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="Device of the engines; auto: cuda, else mps, else cpu."
    )
    threads: int | None = Field(
        None,
        ge=1,
        description="CPU threads of each engine; null: torch's own default.",
        json_schema_extra={"unit": "CPU threads"},
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="Number format of the frozen base model; the adapter and its optimiser are always fp32. auto: bf16 "
        "on a CUDA device that computes with it (compute capability 8.0 and later), else fp32.",
    )
    packing: Annotated[
        Literal["auto", "off"] | Annotated[int, Field(ge=1)],
        one_error("must be auto, off, or a whole number of 1 or more"),
    ] = Field(
        "auto",
        description="Maximum number of trials that share forward and backward passes; auto: as many as fit into "
        "memory; off: every trial trains alone.",
        json_schema_extra={"unit": "trials"},
    )
    micro_batch: int | None = Field(
        None,
        ge=1,
        description="Maximum rows of a batch that are computed at once, to save memory; a step's gradient is still "
        "that of the whole batch; null: all rows.",
        json_schema_extra={"unit": "rows"},
    )
    gradient_checkpointing: bool = Field(
        False,
        description="true: recompute activations for the gradient instead of storing them, which needs less memory and "
        "more time.",
    )
    quantization: Literal["none", "4bit"] = Field(
        "none",
        description="4bit: store the base model's linear layers in 4 bits (NF4), on CUDA only; none: store them as "
        "precision says.",
    )
    workers: worker_kinds.Workers = Field(
        worker_kinds.DEFAULT, discriminator="kind", description="Where the engines run, and how many side by side."
    )

    @model_validator(mode="after")
    def _can_be_quantised(self) -> Self:
        if self.quantization == "none":
            return self
        if self.device in ("cpu", "mps"):
            raise ValueError(
                f"quantization: {self.quantization} needs a CUDA device, and device is {self.device}; set device to "
                "auto or cuda, or quantization to none"
            )
        if self.precision == "fp32":
            raise ValueError(
                f"quantization: {self.quantization} multiplies in bf16; set precision to auto or bf16, or quantization "
                "to none"
            )
        return self

    @property
    def settings(self) -> EngineSettings:
        """The settings that every engine is started with."""
        names = (field.name for field in fields(EngineSettings) if field.name in type(self).model_fields)
        return EngineSettings(**{name: getattr(self, name) for name in names})


SECTION = LocalSection


_NEEDS_CUDA = "needs a CUDA device, and this machine has none; set it to none, or plan on a machine with an NVIDIA GPU"


def capabilities(section: LocalSection) -> Capabilities:
    """Return the capabilities of the embedded engine; its number format depends on the config section."""
    return capabilities_with(section.settings, section.workers)


def capabilities_with(settings: EngineSettings, workers: worker_kinds.Workers) -> Capabilities:
    """Return the capabilities of engines with some settings.

    Args:
        settings: of the engines.
        workers: where they run; what other machines can do is unknown, so nothing is reported about them.
    """
    # The memory and the devices of other machines are not known before a worker starts there, so nothing is planned
    # with them: no problems, no engines to estimate memory for.
    are_here = worker_kinds.are_here(workers)
    problems, warnings = [], []
    if settings.is_quantised and are_here and not precision.cuda_capabilities():
        problems.append(f"backend.quantization: {settings.quantization} {_NEEDS_CUDA}")
    if settings.precision == "auto" and not settings.is_quantised and not are_here:
        chosen = precision.WORDS[precision.planned(settings)]
        warnings.append(
            f"backend.precision: auto is {chosen} as on this machine, on every node; set bf16 where their GPUs have it"
        )
    return Capabilities(
        kind=KIND,
        address="",
        max_input_characters=None,
        max_output_characters=None,
        source="none: the base model's context length limits an example",
        max_in_flight=64,  # our choice: jobs queued at the engine start without a pause; more would only use memory
        survives_runner=False,
        outlives_kill=not are_here,
        is_hosted=IS_HOSTED,
        has_prices=False,
        trains_exact_prefixes=True,  # at a constant learning rate, on the same device and threads
        precision=precision.planned(settings),
        quantization=settings.quantization if settings.is_quantised else "",
        measures_epochs=True,
        keeps_best=True,
        measures_losses=True,
        trains_conversations=True,
        hyperparameters=LATER_HYPERPARAMETERS,
        engine=settings if are_here else None,
        engines=workers.count if are_here else 1,
        problems=tuple(problems),
        warnings=tuple(warnings),
    )
