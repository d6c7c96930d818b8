"""A scripted backend that counts what its models are asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tunerun.examples import Example, Input
from tunerun.generation import GenerateOptions
from tunerun.job import BaseModelRef, TunedModel
from tunerun.testing.scripted import ScriptedBackend, ScriptedService


@dataclass
class Asked:
    """What a service was asked, across runs: how often each model answered each input.

    Attributes:
        interrupt_at: the call in which the run is killed, from 1; 0: none. It is killed after the service answered.
    """

    calls: int = 0
    interrupt_at: int = 0
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)


class Counting(ScriptedBackend):
    """Counts what it is asked, and is killed in one of the calls."""

    def __init__(self, service: ScriptedService, asked: Asked) -> None:
        super().__init__(service)
        self._asked = asked

    def generate(
        self,
        model: BaseModelRef | TunedModel,
        inputs: Sequence[Input],
        options: GenerateOptions,
        examples: Sequence[Example] = (),
    ) -> list[str]:
        self._asked.calls += 1
        if self._asked.calls == self._asked.interrupt_at:
            raise KeyboardInterrupt
        self._asked.counts.update((f"{model.name} {len(examples)}", str(asked)) for asked in inputs)
        return super().generate(model, inputs, options, examples)
