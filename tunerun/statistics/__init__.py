"""Tests, intervals and power for models that answered the same rows: pure functions of tables of scores.

Every method is seeded, and was chosen by simulation at the sizes that held-out sets have here (24 to 1,000 rows).
"""

from tunerun.statistics.family import FamilyTest, cluster_sums, max_t
from tunerun.statistics.intervals import critical_value, score_interval, tango, wilson
from tunerun.statistics.pairs import exact_p, holm, mid_p
from tunerun.statistics.power import rows_for_equality, rows_needed, share_lost, smallest_visible
from tunerun.statistics.seeds import SeedVariance, consistency, pooled, two_way_p
from tunerun.statistics.tied_set import tied_set_p
from tunerun.statistics.winner import bias_corrected

__all__ = [
    "FamilyTest",
    "SeedVariance",
    "bias_corrected",
    "cluster_sums",
    "consistency",
    "critical_value",
    "exact_p",
    "holm",
    "max_t",
    "mid_p",
    "pooled",
    "rows_for_equality",
    "rows_needed",
    "score_interval",
    "share_lost",
    "smallest_visible",
    "tango",
    "tied_set_p",
    "two_way_p",
    "wilson",
]
