"""Differences between two records: values, rows, texts, files, environment and results, and which are in the key.

pairs.py         which trial is compared with which
sections.py      what a part of a difference is, as plain values
configs.py       values of the config, and why keys differ
rows.py          examples added, removed and changed
texts.py         patches of templates, YAML files and code
environments.py  base models, packages and machines
results.py       verdicts, measures, answers, losses and adapters
difference.py    all of them together
"""

from tunerun.record.difference.difference import RecordDifference, difference
from tunerun.record.difference.sections import DifferenceSection, SideBySide

__all__ = ["DifferenceSection", "RecordDifference", "SideBySide", "difference"]
