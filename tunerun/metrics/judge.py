"""A chat model's score of each answer."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, field_validator

from tunerun.metrics.base import Unit
from tunerun.metrics.judged_metric import JudgedMetric

_MOST_SCORES = 101
"""Scores of the longest scale, 0 to 100: the schema of a reply lists each of them."""


class Judge(JudgedMetric):
    """The mean score that a chat model gives the answers by a rubric, each by itself.

    A judge is not calibrated until its scores are compared with those of people
    (Zheng et al. 2023, arXiv:2306.05685): name a labelled sample in `examples`.
    """

    name = "judge"
    unit: ClassVar[Unit] = Unit.NUMBER

    scale: list[int] = Field(
        default_factory=lambda: [1, 5],
        min_length=2,
        max_length=2,
        description="The lowest and the highest score, whole numbers; the highest is best.",
    )
    examples: str | None = Field(
        None,
        min_length=1,
        description="File of rows text_input, expected, answer and label (a person's score on the scale), by which the "
        "judge's agreement is shown; relative as dataset.path; null: none.",
    )

    @field_validator("scale")
    @classmethod
    def _is_a_scale(cls, value: list[int]) -> list[int]:
        if not 0 < value[1] - value[0] < _MOST_SCORES:
            raise ValueError("must be two whole numbers, the lower one first and at most 100 apart, such as [1, 5]")
        return value

    @property
    def bounds(self) -> tuple[int, int]:
        """The lowest and the highest score."""
        return self.scale[0], self.scale[1]

    @property
    def labelled(self) -> str | None:
        """The file of answers that people have scored."""
        return self.examples

    @property
    def description(self) -> str:
        """The judge's model, prompt and scale, which readers of its scores need."""
        return f"{super().description}, scale {self.scale[0]} to {self.scale[1]}"
