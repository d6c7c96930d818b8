"""The sweeps of the ledger that a command is about, and their comparison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tunerun.cli.run import print_faults

if TYPE_CHECKING:
    from tunerun.ledger import Ledger, SweepRecord
    from tunerun.runner import SweepResult
    from tunerun.schema import Experiment


@contextmanager
def chosen_sweep(
    overrides: list[str],
    config_dir: list[str] | None,
    sweeps: str | list[str] | None,
    *,
    to_write: bool = False,
    as_frozen: bool = False,
    asks_judges: bool = False,
) -> Iterator[tuple[Ledger, SweepResult]]:
    """Open the ledger and compare the sweeps with these ids, or the sweep that the overrides compose, or the newest.

    Args:
        overrides, config_dir: of the command.
        sweeps: ids or names of sweeps; None: the composed one, or the newest.
        to_write: whether the ledger is opened for writing; if not, nothing in its folder is changed.
        as_frozen: whether answers are scored as the sweep was frozen; a composed experiment that is scored differently
            is then another sweep.
        asks_judges: whether judges are called for missing judgements, which are recorded.

    Yields:
        The open ledger, and the comparison.

    Raises:
        NotFoundError: there is no such sweep.
    """
    from tunerun.compose import compose_name, load, places
    from tunerun.engine.base_model import cache_folder
    from tunerun.ledger import Ledger
    from tunerun.planning import plan
    from tunerun.runner import result_of
    from tunerun.runner.selection import chosen, existing_ledger
    from tunerun.tracking import open_tracker

    paths, tracking = places(overrides, config_dir)
    ids = [sweeps] if isinstance(sweeps, str) else sweeps or []
    # Overrides that give only a name, or say where things are, choose the newest sweep (of that name): no plan is made.
    names_no_trial = all(o.startswith(("name=", "paths", "tracking", "local")) for o in overrides)
    composed = None if ids or names_no_trial else plan(load(overrides, config_dir))
    name = None if ids else compose_name(overrides, config_dir)

    with ExitStack() as stack:
        path = existing_ledger(Path(paths.runs))
        ledger = stack.enter_context(Ledger(path, read_only=not to_write))
        selected = chosen(ledger, ids, composed, name, as_frozen=as_frozen)
        tracker = open_tracker(tracking, Path(paths.runs))
        # A named experiment decides how its sweep is scored, even if it was frozen with other metrics.
        experiment = composed.experiment if composed and not as_frozen else None
        if asks_judges and _ask_judges(ledger, selected, experiment) and not to_write:
            ledger = stack.enter_context(Ledger(path, read_only=True))  # the first one reads a copy from before
        evaluation = experiment.evaluation if experiment else None
        result = result_of(ledger, selected, tracker, cache_folder(paths.cache), evaluation)
        print_faults(result)
        yield ledger, result


def _ask_judges(ledger: Ledger, sweeps: Sequence[SweepRecord], experiment: Experiment | None) -> bool:
    """Have judges score answers that they have not judged yet; return whether the ledger may have been written.

    Args:
        ledger: may be read-only; it is opened again for writing if a judge is asked.
        experiment: decides how answers are scored, and the budget; None: as the first sweep was frozen.
    """
    from tunerun.cli import tables
    from tunerun.ledger import Ledger
    from tunerun.runner.judging import has_more_to_judge, judge_unattended, judges_of

    judges, max_usd = judges_of(ledger, sweeps, experiment)
    if not has_more_to_judge(ledger, sweeps, judges):
        return False
    with Ledger(ledger.path) as written, tables.progress_on_stderr() as progress:
        problems = judge_unattended(written, sweeps, judges, max_usd=max_usd, progress=progress)
    for problem in problems:
        tables.note(problem)
    return True
