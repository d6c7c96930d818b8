"""Composes conf directories and overrides into an Experiment with its sweep expanded.

The only importer of hydra and omegaconf.
"""

from tunerun.compose.experiments import (
    ConfigDirectories,
    assignments,
    choices,
    completions,
    compose_name,
    compose_yaml,
    config_directories,
    each_experiment,
    explain,
    load,
    places,
)

__all__ = [
    "ConfigDirectories",
    "assignments",
    "choices",
    "completions",
    "compose_name",
    "compose_yaml",
    "config_directories",
    "each_experiment",
    "explain",
    "load",
    "places",
]
