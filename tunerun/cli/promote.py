"""`tunerun promote`: a tuned model becomes a version in MLflow's Model Registry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunerun.cli.options import ConfigDir, Json, Overrides
from tunerun.cli.printing import print_json
from tunerun.errors import InputError


def promote(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="REF",
            help="tunedModels/NAME, MLflow run id; or the sweep id, experiment name or bundle file of a sweep, for its "
            "advised point.",
        ),
    ],
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    name: Annotated[str, typer.Option("--as", metavar="NAME", help="Name of the registered model. Required.")] = "",
    alias: Annotated[
        str, typer.Option(metavar="NAME", help="Alias of the new version; earlier versions are kept.")
    ] = "champion",
    require: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help="Refuse unless it holds, such as 'better than every baseline', 'eval/exact_match >= 60 %', 'not tied' "
            "or 'test set opened'; may be repeated.",
        ),
    ] = None,
    with_base: Annotated[
        bool, typer.Option("--with-base", help="Store a copy of the base model, not only its name and hash.")
    ] = False,
    json_: Json = False,
) -> None:
    """Register a tuned model in MLflow's Model Registry.

    The registered model answers rows. Exit code 3 if a condition of --require does not hold.
    """
    from tunerun.cli.tables import note, say
    from tunerun.comparison.conditions import parse
    from tunerun.compose import places
    from tunerun.engine.base_model import cache_folder
    from tunerun.record import open_record
    from tunerun.record.promotion import PromotionRequest, candidate_of, check
    from tunerun.record.promotion import promote as register
    from tunerun.tracking import open_tracker
    from tunerun.tracking.registry import check_names

    if not name:
        raise InputError("--as is missing; give the name of the registered model, such as --as intents")
    check_names(name, alias)
    request = PromotionRequest(name, alias, parse(require or []), with_base=with_base)

    paths, tracking = places(overrides or [], config_dir)
    runs = Path(paths.runs)
    tracker = open_tracker(tracking, runs)
    if tracker is None:
        raise InputError("tracking: none; the registry is MLflow's, choose tracking=mlflow")
    with open_record(reference, runs=runs, tracking=tracking) as record:
        candidate = candidate_of(record)
        check(candidate, request.conditions)
        # The registered version links to the trial's run, so that has to be up to date. A record from a bundle or from
        # MLflow has a temporary ledger, which the tracker does not read.
        if record.runs.absolute() == runs.absolute():
            tracker.sync([record.sweep.id])
            if text := tracker.problem or tracker.notice:
                note(text)
        done = register(record, candidate, request, tracker.store, runs=runs, cache=cache_folder(paths.cache))

    if json_:
        document = {
            "model": done.name, "version": done.version, "alias": done.alias, "before": done.before, "new": done.is_new,
            "run": done.run_id, "uri": done.uri, "tracking": tracker.name, "sentence": done.sentence,
        }  # fmt: skip
        print_json(document)
    else:
        say(done.sentence)
        say(f'To load it: mlflow.pyfunc.load_model("{done.uri}") with MLFLOW_TRACKING_URI={tracker.name}')
