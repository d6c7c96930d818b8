"""The comparison of all points of a sweep with each other and with the baselines on held-out examples."""
