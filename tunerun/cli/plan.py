"""`tunerun plan`: what a run would do, and what it would cost."""

from __future__ import annotations

from tunerun.cli.options import ConfigDir, Fresh, Json, Multirun, Overrides
from tunerun.cli.printing import print_json
from tunerun.errors import InputError, LimitError, TunerunError


def plan(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    json_: Json = False,
    _multirun: Multirun = False,
    fresh: Fresh = False,
) -> None:
    """Show what a run would do and cost; sends and writes nothing.

    Exit code 2 if something is wrong and 3 if a limit refuses, as of `tunerun run`.
    """
    from tunerun.cli.named_experiments import first_error, named_experiments
    from tunerun.cli.plan_tables import plan_table, plans_table

    experiments = named_experiments(overrides or (), config_dir)
    errors: list[TunerunError] = []
    plans = []
    for each in experiments:
        try:
            made = each.plan(config_dir, fresh=fresh)
            plans.append(made)
            if not json_:
                plan_table(made)
            # Checked only after it is printed: a plan that a limit refuses shows what it would cost.
            with each.named():
                made.check()
        except (InputError, LimitError) as error:
            errors.append(error)

    if json_ and plans:
        documents = [made.to_json() for made in plans]
        print_json({"experiments": documents} if len(experiments) > 1 else documents[0])
    elif len(experiments) > 1:
        plans_table(plans)
    if (refused := first_error(errors)) is not None:
        raise refused
