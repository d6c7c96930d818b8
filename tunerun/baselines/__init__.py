"""What a trial has to beat: answers to the held-out examples without any tuning. One file for a kind."""

from tunerun.baselines.base import Baseline, Setting
from tunerun.baselines.registry import baselines_of, is_base_model, restored, words

__all__ = ["Baseline", "Setting", "baselines_of", "is_base_model", "restored", "words"]
