"""`tunerun promote`: a tuned model becomes a version in MLflow's Model Registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunerun.cli.options import ConfigDir, Json, Overrides
from tunerun.cli.printing import print_json
from tunerun.errors import InputError

if TYPE_CHECKING:
    from tunerun.tracking.registry import Registered


def promote(
    reference: Annotated[
        str,
        typer.Argument(metavar="REF", help="Sweep (its advised point), tunedModels/NAME or an MLflow run id."),
    ],
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    name: Annotated[str, typer.Option("--as", metavar="NAME", help="The registered model.")] = "",
    alias: Annotated[str, typer.Option(help="Alias of the new version; earlier versions are kept.")] = "champion",
    require: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help="Refuse unless it holds: 'better than every baseline', 'eval/exact_match >= 60 %', 'not tied', 'test "
            "set opened'. Several: all.",
        ),
    ] = None,
    with_base: Annotated[
        bool, typer.Option("--with-base", help="Put a copy of the base model in, instead of its name and hash.")
    ] = False,
    json_: Json = False,
) -> None:
    """Register a tuned model in MLflow as one that answers rows, if its conditions hold; exit code 3 if not."""
    from tunerun.cli.tables import note
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
        if record.runs.absolute() == runs.absolute():
            tracker.sync([record.sweep.id])  # the version names the trial's run
            if text := tracker.problem or tracker.notice:
                note(text)
        done = register(record, candidate, request, tracker.store, runs=runs, cache=cache_folder(paths.cache))
    _print(done, tracker.name, json_=json_)


def _print(done: Registered, tracker: str, *, json_: bool) -> None:
    from tunerun.cli.tables import say

    if json_:
        document = {
            "model": done.name, "version": done.version, "alias": done.alias, "before": done.before, "new": done.is_new,
            "run": done.run_id, "uri": done.uri, "tracking": tracker, "sentence": done.sentence,
        }  # fmt: skip
        print_json(document)
        return
    say(done.sentence)
    say(f'To load it: mlflow.pyfunc.load_model("{done.uri}") with MLFLOW_TRACKING_URI={tracker}')
