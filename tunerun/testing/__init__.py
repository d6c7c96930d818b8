"""Test tools for authors of backends and metrics: contract suites, scripted services, fault injection."""
