"""The document that the ledger freezes beside a sweep's trials, and the sweep's id."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunerun.code_version import code_version
from tunerun.dataset import LoadedDataset
from tunerun.digest import digest, digest_of_list
from tunerun.planning.sources import Sources
from tunerun.planning.trial import Trial
from tunerun.planning.trial_key import KEY_FORMAT
from tunerun.redaction import redact
from tunerun.schema import Experiment


def sweep_document(experiment: Experiment, trials: Sequence[Trial], sources: Sources, round_: int) -> dict[str, Any]:
    """Return what the ledger freezes of a sweep besides its trials, as JSON values.

    `data` and `models` map a content digest to a readable name. Trials whose held-out sets have the same value in
    `held_out_rows` are measured on the same rows in the same order, whatever their templates; only these can be
    compared. `clusters` has the cluster of each held-out row, by the digest of its set. `metrics` lists the code
    files of the user's own metrics.

    Args:
        experiment: that is planned.
        trials: all of its trials.
        sources: from which they were made.
        round_: number of times that `--fresh` restarted every trial.
    """
    from tunerun import __version__

    metric_files = [file for each in sources.measurements for file in each.files]
    held_out = [s for each in sources.loaded for s in (each.validation, each.test) if s is not None]
    datasets = {id(trial.config.dataset): trial.config.dataset for trial in trials}.values()
    paths = [path for d in datasets for path in (d.path, d.validation.path, d.test.path) if path is not None]
    document = {
        "version": __version__,
        "code": code_version(
            [Path(d) for d in experiment.directories],
            [Path(path) for path in dict.fromkeys(paths)],
            code=[Path(file.python.rpartition(":")[0]) for file in metric_files],
        ),
        "varied": list(trials[0].overrides),
        "pins": dict(experiment.pins),
        "warnings": [redact(warning) for warning in dict.fromkeys(sources.warnings)],
        "tokens_exact": sources.tokens_exact,
        "round": round_,
        "data": dict(map(_data, sources.loaded)),
        "models": {t.ingredients["model"]: t.config.model.name for t in trials},
        "key_formats": {str(KEY_FORMAT): ""},
        "held_out_rows": {each.digest: each.rows for each in held_out},
        "clusters": {each.digest: list(each.clusters) for each in held_out if each.clusters},
        "metrics": {file.metric: {"python": file.python, "sha256": file.sha256} for file in metric_files},
    }
    # Trials may read different variables of the environment: each set of them is replaced in the whole document.
    for trial in {tuple(t.environment.items()): t for t in trials}.values():
        document = trial.as_stored(document)
    return document


def _data(loaded: LoadedDataset) -> tuple[str, str]:
    """A digest of all examples of a dataset, independent of how they are split, and a readable name for it."""
    sets = [s for s in (loaded.training, loaded.validation, loaded.test) if s is not None]
    # The content of an example as texts that can be sorted; of a conversation the whole document belongs to it.
    examples = {
        (
            *(example.text_input, example.output),
            *([json.dumps(example.document, sort_keys=True, ensure_ascii=False)] if example.is_conversation else []),
        )
        for each in sets
        for example in each.examples
    }
    content = digest_of_list(sorted(examples))
    files = " and ".join(dict.fromkeys(Path(each.source).name for each in sets))
    return content, f"{len(examples):,} different examples of {files}"


def sweep_id(name: str, trials: Sequence[Trial], document: Mapping[str, Any]) -> str:
    """Return the experiment's name and a digest of everything that determines the sweep's result.

    Another metric makes another sweep over the same jobs and answers: the frozen sweep records how it is scored.

    Args:
        name: of the experiment.
        trials: all of its trials, with their baselines.
        document: of the sweep.
    """
    sections = {id(t.config.evaluation): t.config.evaluation for t in trials}.values()
    evaluations = [section.model_dump(mode="json", exclude_defaults=True) for section in sections]
    measured = []
    for t in trials:
        held_out = {held_out: examples.digest for held_out, examples in t.held_out.items()}
        measured.append([t.key, t.baselines, held_out, t.answer_method])
    scoring = [evaluations, document.get("metrics"), document.get("clusters")]
    own = [more for name in ("rerun", "judges") if (more := document.get(name))]
    return f"{name}-{digest([name, measured, scoring, *own])[:8]}"
