"""Places that run tuning jobs: one file for each, all behind the Protocol in `base.py`."""
