"""`tunerun cancel`: ends jobs of a sweep."""

from __future__ import annotations

from typing import Annotated

import typer

from tunerun.cli.options import ConfigDir, Json, Overrides, SweepId
from tunerun.cli.printing import print_json
from tunerun.cli.sweep_choice import chosen_sweep
from tunerun.errors import InputError


def cancel(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    sweep: SweepId = None,
    trial: Annotated[
        list[int] | None,
        typer.Option(
            "--trial", metavar="N", help="Number of a trial; may be repeated. All that have not succeeded if not given."
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """End the jobs of a sweep, also of one that another process runs.

    Running jobs are cancelled at their backend, waiting ones are not submitted. The sweep is the one that the overrides
    compose, or the newest one.
    """
    from tunerun.cli import tables
    from tunerun.compose import places
    from tunerun.engine.base_model import cache_folder
    from tunerun.job import JobState
    from tunerun.runner import cancel as cancel_trials

    with chosen_sweep(overrides or [], config_dir, sweep, to_write=True) as (ledger, result):
        verdict = result.verdict
        # Failed trials too: a lost job may be about to be submitted again.
        numbers = trial or [t.record.number for t in verdict.trials if t.state is not JobState.SUCCEEDED]
        unknown = [n for n in numbers if not 0 <= n < len(verdict.trials)]
        if unknown:
            raise InputError(
                [f"--trial {n}: {verdict.sweep.id} has the trials 0 to {len(verdict.trials) - 1}" for n in unknown]
            )
        done = f"every trial of {verdict.sweep.id} has succeeded; nothing was cancelled"
        if numbers:
            cache = cache_folder(places(overrides or [], config_dir)[0].cache)
            done = cancel_trials(ledger, verdict.sweep.id, numbers, cache=cache)
        if json_:
            print_json({"sweep": verdict.sweep.id, "trials": numbers, "done": done})
        else:
            tables.out.print(tables.plain(done))
