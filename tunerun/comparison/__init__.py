"""The comparison of all points of a sweep with each other and with the baselines on held-out examples.

Computing with tables of scores needs numpy, so these modules are imported on first use: opening a tracker needs none.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunerun.comparison.judgement import judge
    from tunerun.comparison.knowledge import trial_result

__all__ = ["judge", "trial_result"]

_MODULES = {"judge": "judgement", "trial_result": "knowledge"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'tunerun.comparison' has no attribute {name!r}")
    return getattr(import_module(f"tunerun.comparison.{_MODULES[name]}"), name)
