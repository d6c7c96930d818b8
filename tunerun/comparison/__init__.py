"""The comparison of all points of a sweep with each other and with the baselines on held-out examples."""

from tunerun.comparison.judge import judge
from tunerun.comparison.known import trial_result

__all__ = ["judge", "trial_result"]
