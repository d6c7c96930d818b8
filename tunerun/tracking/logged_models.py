"""Tuned models as MLflow's logged models: one that MLflow can load, with its files, or the name of one elsewhere.

Functions of this module take MLflow's client and entities; they are called within `StoreConnection.client`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunerun.redaction import redact
from tunerun.tracking import mlflow_internals
from tunerun.tracking.packaged.record import CONTENT_TAG
from tunerun.tracking.run_projection import LoggedModel

if TYPE_CHECKING:
    from tunerun.tracking.packaged.writing import Package

_EXTERNAL_TAG = "mlflow.model.isExternal"
_OTHER_FILES = 2


def log_model(client: Any, experiment_id: str, run_id: str, model: LoggedModel) -> str:
    """Log a tuned model as the output of a run.

    One that was logged without its files gets them; one with other files, such as a copy of the base model that
    `tunerun promote --with-base` has added, stays as it is.

    Args:
        client: MLflow's.
        experiment_id: of the run.
        run_id: the run that made the model.
        model: what to log.

    Returns:
        The id of the logged model.
    """
    from mlflow.entities import LoggedModelOutput

    with tempfile.TemporaryDirectory(prefix="tunerun-") as folder:
        outputs = client.get_run(run_id).outputs
        linked = [output.model_id for output in (outputs.model_outputs if outputs else [])]
        package = model.package(Path(folder) / "model") if model.package is not None else None
        if linked and package is None:
            return str(linked[0])

        # MLflow takes no id from us and would create the model again, so it is looked for first: as the run's output,
        # and by its run, for a process that was killed before it linked the two.
        models = [client.get_logged_model(each) for each in linked]
        models = models or list(client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'"))
        tags = dict(model.tags) | (package.tags if package is not None else {_EXTERNAL_TAG: "true"})
        nearest = min(models, key=lambda each: _distance(each, package), default=None)
        own = nearest or new_model(client, experiment_id, model.name, run_id, tags, model.params)

        if package is None and own.status != "READY":
            with tempfile.TemporaryDirectory(prefix="tunerun-") as files:
                mlflow_internals.write_external_model(own, Path(files))
                client.log_model_artifacts(own.model_id, files)
            client.finalize_logged_model(own.model_id, "READY")
        elif package is not None and _distance(own, package) < _OTHER_FILES:
            upload(client, own, package, tags)
        if own.model_id not in linked:
            client.log_outputs(run_id, [LoggedModelOutput(own.model_id, step=0)])
        return str(own.model_id)


def _distance(model: Any, package: Package | None) -> int:
    """Return how far a logged model is from a package's files: 0 if it has them, 1 if it has none yet, else 2."""
    content = model.tags.get(CONTENT_TAG)
    if package is not None and content == package.content:
        return 0
    return 1 if content is None or model.status != "READY" else _OTHER_FILES


def new_model(
    client: Any, experiment_id: str, name: str, run_id: str | None, tags: Mapping[str, str], params: Mapping[str, str]
) -> Any:
    """Create a logged model, which is PENDING until it has its files.

    Args:
        client: MLflow's.
        experiment_id: where its page is.
        name: of its page.
        run_id: the run that made it; None: MLflow does not have it.
        tags: of the model; secrets in their values are masked.
        params: shown on the model's page.

    Returns:
        MLflow's entity.
    """
    return client.create_logged_model(
        experiment_id,
        name=name,
        source_run_id=run_id,
        tags={key: redact(value) for key, value in tags.items()},
        params=dict(params),
    )


def upload(client: Any, model: Any, package: Package, tags: Mapping[str, str]) -> None:
    """Give a logged model its files, unless it has them, and make it READY.

    Args:
        client: MLflow's.
        model: MLflow's entity, external or not: with its files it is no longer external.
        package: the files.
        tags: of the model; secrets in their values are masked.
    """
    is_whole = model.status == "READY" and model.tags.get(CONTENT_TAG) == package.content
    if is_whole and _EXTERNAL_TAG not in model.tags:
        return
    client.log_model_artifacts(model.model_id, str(package.folder))
    # The tags after the files and READY last: one that was killed in between is uploaded again.
    if _EXTERNAL_TAG in model.tags:
        client.delete_logged_model_tag(model.model_id, _EXTERNAL_TAG)
    client.set_logged_model_tags(model.model_id, {key: redact(value) for key, value in tags.items()})
    client.finalize_logged_model(model.model_id, "READY")
