"""Places that run tuning jobs: one file for each, all behind the Protocol in `base.py`, listed in `registry.py`."""

from tunerun.backends.registry import capabilities_of, open_backend, stored_section

__all__ = ["capabilities_of", "open_backend", "stored_section"]
