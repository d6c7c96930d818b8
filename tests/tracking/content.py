"""What a real MLflow store holds, without what it makes up itself (ids and places)."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

Content = dict[tuple[str, str, str], dict[str, Any]]


def client(uri: str) -> Any:
    """A client of the store."""
    from mlflow import MlflowClient

    return MlflowClient(uri)


def runs(uri: str) -> list[Any]:
    """All runs of the store."""
    store = client(uri)
    experiments = [e.experiment_id for e in store.search_experiments()]
    return list(store.search_runs(experiments, max_results=1000))


def content(uri: str, *, files: bool = True) -> Content:
    """All that people can see of all runs, by sweep, kind and trial or key; fails where two runs share those.

    In tags every run is called `RUN`.

    Args:
        files: also their artifacts, which have to be on this machine.
    """
    store, all_runs = client(uri), runs(uri)
    ids = re.compile("|".join(run.info.run_id for run in all_runs) or "none")
    every: Content = {}
    for run in all_runs:
        tags = run.data.tags
        identity = (
            tags["tunerun.sweep"],
            tags["tunerun.kind"],
            tags.get("tunerun.trial", tags.get("tunerun.key", "")),
        )
        assert identity not in every, f"two runs for {identity}"
        every[identity] = _run(store, run, files=files)
        every[identity]["tags"] = {key: ids.sub("RUN", value) for key, value in tags.items()}
    return every


def _run(store: Any, run: Any, *, files: bool) -> dict[str, Any]:
    return {
        "experiment": store.get_experiment(run.info.experiment_id).name,
        "name": run.info.run_name,
        "state": run.info.status,
        "start": run.info.start_time,
        "end": run.info.end_time,
        "params": run.data.params,
        "tags": run.data.tags,
        "points": points(store, run),
        "inputs": sorted((i.dataset.name, i.dataset.digest, i.dataset.profile) for i in run.inputs.dataset_inputs),
        "artifacts": {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (artifacts(run) if files else ())},
        "models": [_model(store.get_logged_model(o.model_id)) for o in run.outputs.model_outputs],
    }


def points(store: Any, run: Any) -> dict[str, list[tuple[int, int, float]]]:
    """Step, time and value of every point, by metric."""
    return {
        key: sorted((m.step, m.timestamp, m.value) for m in store.get_metric_history(run.info.run_id, key))
        for key in run.data.metrics
    }


def artifacts(run: Any) -> list[Path]:
    """The files of a run, where its store keeps them in a folder."""
    from mlflow.utils.file_utils import local_file_uri_to_path

    folder = Path(local_file_uri_to_path(run.info.artifact_uri))
    return sorted(p for p in folder.rglob("*") if p.is_file())


def _model(model: Any) -> dict[str, Any]:
    return {"name": model.name, "tags": model.tags, "params": model.params, "status": str(model.status)}


def experiment_tags(uri: str) -> dict[str, str]:
    """The tags of the store's experiments: views and notes, in which every run is called `RUN`."""
    ids = "|".join(run.info.run_id for run in runs(uri)) or "none"
    experiments = client(uri).search_experiments()
    tags = {f"{e.name} {key}": value for e in experiments for key, value in e.tags.items() if key != "tunerun.note"}
    return {key: re.sub(ids, "RUN", value) for key, value in tags.items()}


def run_of(uri: str, kind: str, trial: int | None = None) -> Any:
    """The run of a kind and trial."""
    wanted = {"tunerun.kind": kind, **({} if trial is None else {"tunerun.trial": str(trial)})}
    return next(run for run in runs(uri) if wanted.items() <= run.data.tags.items())


def artifact_json(run: Any, name: str) -> Any:
    """One artifact of a run, read as JSON."""
    return json.loads(next(p for p in artifacts(run) if p.name == name).read_text())
