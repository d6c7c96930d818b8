"""The experiments that one command names; each is planned and run as a sweep of its own, one after another."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunerun.errors import ConfigError, InputError, LimitError, TunerunError

if TYPE_CHECKING:
    from tunerun.planning import Plan


@dataclass(frozen=True)
class NamedExperiment:
    """One of the experiments of a command.

    Attributes:
        overrides: that compose it alone.
        arguments: of the command that would run it alone.
        label: the override that names it; None: the command names no more than one.
    """

    overrides: list[str]
    arguments: list[str]
    label: str | None

    def plan(self, config_dir: list[str] | None, *, fresh: bool) -> Plan:
        """Plan the experiment.

        Raises:
            TunerunError: as `compose.load` and `planning.plan`, each line with the experiment where there are several.
        """
        from tunerun.cli.stages import Stages
        from tunerun.compose import load
        from tunerun.planning import plan

        with self.named():
            experiment = load(self.overrides, config_dir)
            with Stages() as progress:
                return plan(experiment, fresh=fresh, progress=progress)

    @contextmanager
    def named(self) -> Iterator[None]:
        """Add the experiment's name to errors, if the command names several."""
        try:
            yield
        except InputError as error:
            if self.label is None:
                raise
            raise ConfigError([f"{self.label}: {problem}" for problem in error.problems]) from error
        except LimitError as error:
            if self.label is None:
                raise
            raise LimitError(f"{self.label}: {error}") from error


def named_experiments(overrides: Sequence[str], config_dir: list[str] | None) -> list[NamedExperiment]:
    """Return the experiments that a command names; one if it names none.

    Raises:
        ConfigError: an override that cannot be parsed, or no experiment that matches.
    """
    from tunerun.compose import each_experiment

    # The command that is recorded with a sweep has to resume that experiment alone, with the other options as typed.
    options = list(sys.argv[1:])
    of_each = each_experiment(overrides, config_dir)
    if len(of_each) == 1:
        return [NamedExperiment(of_each[0], options, None)]
    for override in overrides:
        if override in options:
            options.remove(override)
    return [NamedExperiment(own, [*options, *own], own[0]) for own in of_each]


def first_error(errors: Sequence[TunerunError]) -> TunerunError | None:
    """Return one error with the problems of all; None: no errors."""
    if len(errors) < 2:
        return next(iter(errors), None)
    # The type decides the exit code: 1 if any has run and failed, else 2 for wrong input, 3 if limits alone refused.
    if not all(isinstance(error, InputError | LimitError) for error in errors):
        return TunerunError("\n".join(map(str, errors)))
    if all(isinstance(error, LimitError) for error in errors):
        return LimitError("\n".join(map(str, errors)))
    return ConfigError([line for error in errors for line in getattr(error, "problems", (str(error),))])
