"""Patches of texts: prompt templates, YAML files, code."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any

from tunerun.comparison.numbers import counted
from tunerun.job import TemplateText
from tunerun.record.difference.pairs import TrialPair
from tunerun.record.difference.sections import DifferenceSection, SideBySide, listed, not_recorded, printable
from tunerun.record.sources import OpenRecord
from tunerun.stored import section

_MOST_LINES = 40
"""Of a patch in text output; `--json` has the whole patch."""

_MOST_COMPARED_LINES = 5_000
"""Of a text that difflib compares: it takes quadratic time, and a recorded patch may have 100,000 characters."""


def patch(a: str, b: str, name: str) -> list[str]:
    """Return a unified diff of two texts, line by line; empty: they are equal.

    Args:
        a, b: the two texts.
        name: of the text, in the header of the patch.
    """
    old, new = a.splitlines(), b.splitlines()
    if old == new:
        return []
    if max(len(old), len(new)) > _MOST_COMPARED_LINES:
        return [f"{name}: {len(old):,} lines in A, {len(new):,} in B: too long to be compared line by line"]
    return list(difflib.unified_diff(old, new, f"A/{name}", f"B/{name}", lineterm="", n=2))


def template_section(pairs: Sequence[TrialPair]) -> DifferenceSection:
    """Return patches of the templates' expressions; templates that several trials share are compared once."""
    places: dict[tuple[TemplateText, TemplateText], list[str]] = {}
    for pair in pairs:
        places.setdefault((pair.a.settings.template, pair.b.settings.template), []).append(pair.name)
    lines: list[str] = []
    documents: list[dict[str, Any]] = []
    for (a, b), trials in places.items():
        old, new = a.document, b.document
        patches = [line for part in {**old, **new} for line in patch(old.get(part, ""), new.get(part, ""), part)]
        if patches:
            lines += [] if len(trials) == len(pairs) else [f"{listed(trials)}:"]
            lines += _bounded(patches)
            documents.append({"trials": trials, "patch": patches})
    return DifferenceSection("template", lines=tuple(lines), document={"templates": documents})


def files_section(a: OpenRecord, b: OpenRecord) -> DifferenceSection:
    """Compare the YAML files that were composed."""
    files_a = {f"{each.origin}/{each.path}": each.text for each in a.facts.config_files}
    files_b = {f"{each.origin}/{each.path}": each.text for each in b.facts.config_files}
    if not files_a or not files_b:
        return DifferenceSection("YAML files", unknown=not_recorded(files_a, files_b), is_compared=False)
    # A file that only one record has is named and not printed: it would be a patch of all of its lines.
    lines: list[str] = []
    patches: dict[str, list[str]] = {}
    for name in dict.fromkeys([*files_a, *files_b]):
        if name not in files_b:
            lines.append(f"only in A: {printable(name)}")
        elif name not in files_a:
            lines.append(f"only in B: {printable(name)}")
        elif changed := patch(files_a[name], files_b[name], name):
            patches[name] = changed
            lines += _bounded(changed)
    names = {"only_a": sorted(files_a.keys() - files_b), "only_b": sorted(files_b.keys() - files_a)}
    return DifferenceSection("YAML files", lines=tuple(lines), document={**names, "patches": patches})


def code_section(a: OpenRecord, b: OpenRecord) -> DifferenceSection:
    """Compare the versions of tunerun, the commits of the user's project, and its uncommitted changes."""
    code_a, code_b = section(a.sweep.document, "code"), section(b.sweep.document, "code")
    values = [SideBySide("tunerun", a.sweep.document.get("version"), b.sweep.document.get("version"))]
    values += [SideBySide(name, code_a.get(name), code_b.get(name)) for name in ("commit", "branch", "dirty")]
    # Each record has a patch against its own commit, so what is compared is the text of the two patches.
    uncommitted = patch(str(code_a.get("diff", "")), str(code_b.get("diff", "")), "uncommitted")
    return DifferenceSection(
        "code",
        tuple(value for value in values if value.a != value.b),
        tuple(_bounded(uncommitted)),
        {"patch": uncommitted},
        f"commit: {not_recorded(code_a, code_b)}" if not code_a or not code_b else "",
    )


def _bounded(lines: Sequence[str]) -> Iterator[str]:
    yield from map(printable, lines[:_MOST_LINES])
    if len(lines) > _MOST_LINES:
        yield f"... {counted(len(lines) - _MOST_LINES, 'line')} more; --json has the whole patch"
