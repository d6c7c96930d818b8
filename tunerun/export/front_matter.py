"""The YAML at the head of a model card, as the Hugging Face hub reads it (huggingface.co/docs/hub/model-cards)."""

from __future__ import annotations

import re
from typing import Any

import yaml

from tunerun.comparison.results import Measure, TrialResult, Verdict
from tunerun.export.subject import ExportSubject
from tunerun.export.usage import Usage

_LICENSES = frozenset(
    {
        "afl-3.0", "agpl-3.0", "apache-2.0", "artistic-2.0", "bigscience-bloom-rail-1.0", "bigscience-openrail-m",
        "bsd-2-clause", "bsd-3-clause", "bsl-1.0", "cc", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-4.0",
        "cc-by-nc-nd-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "epl-2.0",
        "eupl-1.1", "gemma", "gpl-2.0", "gpl-3.0", "isc", "lgpl-3.0", "llama2", "llama3", "llama3.1", "llama3.2",
        "llama3.3", "mit", "mpl-2.0", "odbl", "openrail", "unlicense", "wtfpl", "zlib",
    }
)  # fmt: skip
"""What the hub takes as `license`, of those that models and data have; anything else is `other` with a name."""

_NOT_IN_NAMES = re.compile(r"[^a-z0-9.]+")


def front_matter(subject: ExportSubject, usage: Usage) -> str:
    """The block between the two lines of dashes, which are part of it."""
    values: dict[str, Any] = _license(subject.base.license)
    if subject.base_on_hub is not None:
        values |= {"base_model": subject.base_on_hub, "base_model_relation": usage.relation}
    if usage.library is not None:
        values["library_name"] = usage.library
    values["pipeline_tag"] = "text-generation"
    values["tags"] = sorted({"tunerun", "supervised-fine-tuning", *usage.tags})
    verdicts = (subject.judged[0], subject.judged_on_test)
    results = [result for verdict in verdicts if verdict is not None for result in _results(subject, verdict)]
    if results:
        values["metrics"] = list(dict.fromkeys(result["metrics"][0]["type"] for result in results))
        values["model-index"] = [{"name": subject.name.rpartition("/")[2], "results": results}]
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)
    return f"---\n{text}---\n"


def _license(stated: str | None) -> dict[str, str]:
    if stated is None:
        return {}
    known = stated.strip().lower()
    if known in _LICENSES:
        return {"license": known}
    return {"license": "other", "license_name": _NOT_IN_NAMES.sub("-", known).strip("-")}


def _results(subject: ExportSubject, verdict: Verdict) -> list[dict[str, Any]]:
    """One entry for each measure that the trial has on a held-out set."""
    trial = subject.result_in(verdict)
    return [_result(subject, verdict, trial, measure) for measure in verdict.measures if measure.name in trial.metrics]


def _result(subject: ExportSubject, verdict: Verdict, trial: TrialResult, measure: Measure) -> dict[str, Any]:
    file = subject.data_file(verdict.held_out)
    name = subject.trial.settings.name
    return {
        "task": {"type": "text-generation", "name": name},
        "dataset": {
            "name": f"{name}: {verdict.held_out} set, {verdict.decision.rows} rows",
            "type": name if file is None else file.name,
            "split": verdict.held_out,
            "revision": subject.trial.held_out.get(verdict.held_out, ""),
        },
        "metrics": [
            {
                "type": measure.name.rpartition("/")[2],
                "name": measure.name,
                "value": trial.metrics[measure.name],
                "verified": False,
            }
        ],
    }
