"""`tunerun status`: the state of a sweep; writes nothing."""

from __future__ import annotations

from tunerun.cli.options import ConfigDir, Json, Overrides, SweepId
from tunerun.cli.printing import print_json
from tunerun.cli.sweep_choice import chosen_sweep


def status(
    overrides: Overrides = None, config_dir: ConfigDir = None, sweep: SweepId = None, json_: Json = False
) -> None:
    """Show the state of a sweep; writes nothing.

    The sweep is the one that the overrides compose, or the newest one.
    """
    from tunerun.cli import tables
    from tunerun.compose import places
    from tunerun.engine.base_model import cache_folder
    from tunerun.locks import holder_of
    from tunerun.runner import states_of, unwatched_jobs

    with chosen_sweep(overrides or [], config_dir, sweep) as (ledger, result):
        sweep_record = result.verdict.sweep
        cache = cache_folder(places(overrides or [], config_dir)[0].cache)
        # Jobs at a service continue without a runner; the ledger learns of it only when the sweep is run again.
        unwatched, problem = unwatched_jobs(ledger, sweep_record.id, cache=cache)
        if problem:
            tables.note(f"{problem}; the ledger's own states follow")
        if json_:
            jobs = [{"trial": job.number, "state": job.state, "step": job.last_step} for job in unwatched]
            print_json({**result.to_json(), "unwatched": jobs})
            return
        sweeps = ledger.sweeps(sweep_record.experiment)
        tables.sweeps_table([(each, states_of(ledger, each.id)) for each in sweeps])
        tables.result_table(result)
        if not result.verdict.is_complete:
            holder = holder_of(ledger.path.parent, sweep_record.id)
            line = f"Being run by {holder}." if holder else f"Not running; to continue: {result.command}"
            tables.say(line)
        for job in unwatched:
            tables.out.print(f"trial {job.number}: {job.state} at its service, step {job.last_step}; not recorded yet")
        tables.result_sentence(result)
