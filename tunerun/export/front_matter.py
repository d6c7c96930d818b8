"""The YAML header of a model card, as the Hugging Face hub reads it (huggingface.co/docs/hub/model-cards)."""

from __future__ import annotations

import re
from typing import Any

import yaml

from tunerun.comparison.results import Verdict
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
"""Licenses of models and data with an identifier on the hub; any other license is `other` with a name."""

_NOT_IN_NAMES = re.compile(r"[^a-z0-9.]+")


def front_matter(subject: ExportSubject, usage: Usage) -> str:
    """Return the header of a model card, including its two lines of dashes.

    Args:
        subject: the tuned model.
        usage: of its form.
    """
    values: dict[str, Any] = {}
    if subject.base.license is not None:
        # The hub's identifiers are in lower case; GGUF files and configs have the spelling of their authors.
        license_ = subject.base.license.strip().lower()
        values["license"] = license_ if license_ in _LICENSES else "other"
        if license_ not in _LICENSES:
            values["license_name"] = _NOT_IN_NAMES.sub("-", license_).strip("-")
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


def _results(subject: ExportSubject, verdict: Verdict) -> list[dict[str, Any]]:
    """One entry of the hub's model index for each measure of the trial on a held-out set."""
    trial, file = subject.result_in(verdict), subject.data_file(verdict.held_out)
    name = subject.trial.settings.name
    dataset = {
        "name": f"{name}: {verdict.held_out} set, {verdict.decision.rows} rows",
        "type": name if file is None else file.name,
        "split": verdict.held_out,
        # On the hub a Git commit; the digest of the examples identifies their content in the same way.
        "revision": subject.trial.held_out.get(verdict.held_out, ""),
    }
    return [
        {
            "task": {"type": "text-generation", "name": name},
            # A copy for each, or YAML writes references to the first one. The hub requires a type of a data set, which
            # is its name there; ours is not there, so the type is the name of its file.
            "dataset": dict(dataset),
            "metrics": [
                {
                    "type": measure.name.rpartition("/")[2],
                    "name": measure.name,
                    "value": trial.metrics[measure.name],
                    "verified": False,  # the hub's own evaluation service did not measure it
                }
            ],
        }
        for measure in verdict.measures
        if measure.name in trial.metrics
    ]
