"""A chat model's preference for each answer over the untuned base model's."""

from __future__ import annotations

from typing import ClassVar

from tunerun.metrics.judged_metric import JudgedMetric


class JudgePreference(JudgedMetric):
    """How often a chat model prefers an answer to that of the untuned base model, by a rubric.

    Asked twice for each row, with the answers in both orders, because judges favour a position (Wang et al. 2023,
    arXiv:2305.17926): 1 where it prefers the answer in both, 0 where it prefers the base model's in both, else 0.5. Of
    the base model itself it is 0.5.
    """

    name = "judge_preference"
    compares: ClassVar[bool] = True
