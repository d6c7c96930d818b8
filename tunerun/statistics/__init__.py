"""Tests, intervals and power for models that answered the same rows: pure functions of tables of scores.

Every random method takes a seed. The methods were chosen by simulation at the sizes of typical held-out sets here (24
to 1,000 rows), where textbook approximations often miss their nominal level.
"""

from tunerun.statistics.agreement import Agreement, agreement
from tunerun.statistics.family import FamilyTest, cluster_sums, few_rows_decide, max_t, max_t_of_swaps
from tunerun.statistics.intervals import critical_value, score_interval, tango, wilson
from tunerun.statistics.jackknife import pseudo_values
from tunerun.statistics.pairs import holm, mid_p
from tunerun.statistics.power import (
    rows_for_equality,
    rows_needed,
    rows_needed_for_mean,
    share_lost,
    smallest_visible,
)
from tunerun.statistics.seeds import SeedVariance, SettingsTest, consistency, pooled, tied_settings_p, two_way
from tunerun.statistics.tied_set import tied_set_p
from tunerun.statistics.winner import bias_corrected

__all__ = [
    "Agreement",
    "FamilyTest",
    "SeedVariance",
    "SettingsTest",
    "agreement",
    "bias_corrected",
    "cluster_sums",
    "consistency",
    "critical_value",
    "few_rows_decide",
    "holm",
    "max_t",
    "max_t_of_swaps",
    "mid_p",
    "pooled",
    "pseudo_values",
    "rows_for_equality",
    "rows_needed",
    "rows_needed_for_mean",
    "score_interval",
    "share_lost",
    "smallest_visible",
    "tango",
    "tied_set_p",
    "tied_settings_p",
    "two_way",
    "wilson",
]
