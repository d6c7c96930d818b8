"""Test tools for authors of backends and metrics: the contract suites, a scripted backend and waits with a deadline."""
