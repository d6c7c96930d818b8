"""One run in MLflow with its mark in the ledger, which says what of the run was sent.

The mark's document holds the version of each part and the last step of each metric. It is written after each part was
sent: losing it costs time and changes nothing, since every write can be repeated. Parts have versions of their own
because a run changes with each step of its curve: sent whole, its files and its model would go to MLflow every few
seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tunerun.digest import digest
from tunerun.errors import TrackingError
from tunerun.ledger import Ledger, Mark
from tunerun.tracking.connection import BusyError, DamagedError, RefusedError
from tunerun.tracking.run_projection import RERUN_TAG, MetricPoint, RunProjection, RunState
from tunerun.tracking.store import PAGE, Store


class MarkedRun:
    """One run in MLflow, and the mark of what was sent to it.

    Args:
        ledger: where the mark is.
        store: where the run is.
        tracker: the store's name in the ledger's marks.
        experiment_id: of the run.
        run_id: of the run.
        subject: the run's name in the ledger's marks.
        document: of the mark as it is now; empty: no part is recorded as sent.
    """

    def __init__(
        self,
        ledger: Ledger,
        store: Store,
        tracker: str,
        experiment_id: str,
        run_id: str,
        subject: str,
        document: Mapping[str, Any],
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._tracker = tracker
        self._experiment_id = experiment_id
        self._run_id = run_id
        self._subject = subject
        self._document: dict[str, Any] = {**document, "experiment": experiment_id}

    def update(self, projection: RunProjection) -> int:
        """Send what the run lacks, and return the number of points that were sent.

        Raises:
            RefusedError: MLflow did not take a part; what was sent before it is marked, and a later replay continues.
        """
        store, run_id = self._store, self._run_id
        # A trial that another sweep has taken up has the name that it has there.
        self._send("name", projection.name, lambda: store.rename(run_id, projection.name), unmarked=projection.name)
        self._send("tags", tags_version(projection), lambda: store.log_tags(run_id, projection.tags))
        # Apart from metrics: one param that conflicts makes MLflow refuse its whole request (3.18.0).
        self._send("params", projection.params.version, lambda: store.log_params(run_id, projection.params.render()))
        if (inputs := projection.inputs) is not None:
            self._send("inputs", inputs.version, lambda: store.log_inputs(run_id, inputs.render()))
        sent = self._send_points(projection.points)

        files: dict[str, str] = dict(self._document.get("artifacts", {}))
        new = {name: part for name, part in projection.artifacts.items() if files.get(name) != part.version}
        if new:
            store.log_files(run_id, {name: part.render() for name, part in new.items()})
            files |= {name: part.version for name, part in new.items()}
            self._advance(artifacts=files)

        if (model := projection.model) is not None and (
            self._document.get("model") != model.version or "model_id" not in self._document
        ):
            model_id = store.log_model(self._experiment_id, run_id, model.render())
            self._advance(model=model.version, model_id=model_id)

        if measures := projection.measures:  # all again when one is new or the model is, to which each is linked
            of_model = self._document.get("model_id")
            version = digest([[asdict(measure) | {"value": str(measure.value)} for measure in measures], of_model])
            if self._send("measures", version, lambda: store.log_measures(run_id, measures, of_model)):
                sent += len(measures)

        self._send(
            "state",
            [projection.state, projection.end_ms],
            lambda: store.set_state(run_id, projection.state, projection.end_ms),
            unmarked=[RunState.RUNNING, None],  # as MLflow creates a run
        )
        if projection.experiment_tags is not None:
            rerun = projection.identity["tunerun.sweep"] if RERUN_TAG in projection.identity else ""
            store.tag_experiment(self._experiment_id, projection.experiment_tags(self._experiment_id, run_id), rerun)
        # After the experiment's tags: a link to a view that the experiment does not have opens an error.
        self._advance(**projection.mark_values)
        self._send_large_files(projection)
        # Last: a mark with this digest says that the run has everything.
        self._advance(seen=projection.ledger_digest)
        return sent

    def _send(self, part: str, version: object, write: Callable[[], None], unmarked: object = None) -> bool:
        """Write one part of the run if its version is not the marked one, then mark it; return whether it was sent.

        Args:
            unmarked: the version of a run whose mark does not have the part.
        """
        if self._document.get(part, unmarked) == version:
            self._document[part] = version  # written with the mark that follows
            return False
        write()
        self._advance(**{part: version})
        return True

    def _advance(self, **parts: object) -> None:
        self._document |= parts
        self._ledger.set_mark(self._tracker, self._subject, Mark(self._run_id, self._document))

    def _send_points(self, points: Sequence[MetricPoint]) -> int:
        # A step may come again with a later time: a trial that a later sweep measures in another way. Marks of an
        # earlier tunerun hold the step alone.
        marked = self._document.get("points", {}).items()
        last = {key: tuple(at) if isinstance(at, list) else (at, math.inf) for key, at in marked}
        new = [p for p in points if (p.step, p.time_ms) > last.get(p.key, (-1, 0))]
        for start in range(0, len(new), PAGE):
            page = new[start : start + PAGE]
            self._store.log_points(self._run_id, page)
            last |= {p.key: (p.step, p.time_ms) for p in page}
            self._advance(points={key: list(at) for key, at in last.items() if math.inf not in at})
        return len(new)

    def _send_large_files(self, projection: RunProjection) -> None:
        """Send large files, after everything else: where MLflow does not take them, the rest is shown all the same.

        Raises:
            RefusedError: it did not take one, or was too slow.
        """
        sent = dict(self._document.get("artifacts", {}))
        for name, files in projection.large_files.items():
            if sent.get(name) != files.version:
                try:
                    self._store.log_folder(self._run_id, files.write)
                except (RefusedError, BusyError, DamagedError):
                    raise
                except TrackingError as error:  # not a reason to stop the runs of the other trials
                    raise RefusedError(str(error)) from error
                sent |= {name: files.version}
                self._advance(artifacts=sent)


def tags_version(projection: RunProjection) -> str:
    """Return the version of a run's tags: their digest."""
    return digest(dict(projection.tags))
