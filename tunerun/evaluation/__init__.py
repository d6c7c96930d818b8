"""Metrics, the reading of loss curves, and the verdict over all trials of a sweep."""
