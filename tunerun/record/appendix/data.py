"""The topics on data: files, sets, outcomes, splits, leaks, and the processing of rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath

from tunerun.comparison.numbers import counted
from tunerun.provenance.places import FILES_OF_ROWS
from tunerun.record.appendix.document import AppendixTable, Block, Bullets, CodeBlock, Paragraph, Topic
from tunerun.record.appendix.material import NOT_RECORDED, NOT_STATED, SETS, Material, words
from tunerun.record.difference.sections import one_line

_DIGEST_DIGITS = 16
"""Of 64: enough to distinguish sets, and short enough for a column."""

_MOST_OUTPUTS = 20
"""Different outputs that are listed one by one; otherwise only their number is given."""

_MOST_SETS = 24
"""Example sets that a table lists."""

_USES = {"training": "for training", "validation": "for selection (validation)", "test": "for the end (test)"}


def data(material: Material) -> Topic:
    """The files and the example sets, with digests of their content."""
    sizes = [f"{material.sizes(name)} {_USES[name]}" for name in SETS if material.sizes(name)]
    names = [each.name for each in material.facts.data_files]
    if not names:  # an earlier version did not record the files
        paths = [path for key in FILES_OF_ROWS for path in material.config_values(key) if path]
        names = list(dict.fromkeys(PurePath(path).name for path in paths))
    summary = f"{words(sizes)}, of {words(names) or f'files that are {NOT_RECORDED}'}."
    # Of several datasets the table of sets says more than a sentence with all of them.
    content = [str(text) for text in material.document.get("data", {}).values()]
    blocks: list[Block] = [Paragraph(f"{summary} {_capital(words(content))}." if len(content) == 1 else summary)]
    files = tuple(
        (
            each.name,
            ", ".join(each.used_for),
            f"{each.bytes:,}",
            each.sha256[:_DIGEST_DIGITS],
            each.license or NOT_STATED,
        )
        for each in material.facts.data_files
    )
    if files:
        head = ("file", "used for", "bytes", "SHA-256", "license")
        blocks.append(AppendixTable(head, files, wrapped=(0, 1), numbers=(2,)))
    else:
        blocks.append(Paragraph(f"Digests of the files: {NOT_RECORDED}; those of the examples made of them are below."))

    clusters = material.document.get("clusters") or {}
    sets = []
    for name in SETS:
        for digest in material.digests(name):
            examples = material.rows(digest)
            inputs, outputs = {text for text, _ in examples}, {output for _, output in examples}
            in_clusters = f"{len(set(clusters[digest])):,}" if clusters.get(digest) else ""
            size = (f"{len(examples):,}", f"{len(inputs):,}", f"{len(outputs):,}", in_clusters)
            sets.append((name, *size, digest[:_DIGEST_DIGITS]))
    more = f" {len(sets) - _MOST_SETS} more sets are in the record." if len(sets) > _MOST_SETS else ""
    note = (
        "Examples after the template and the limit on rows; trials with other ones have other sets. Inputs, outputs: "
        f"the number of different ones. Digests are SHA-256, their first {_DIGEST_DIGITS} of 64 digits.{more}"
    )
    heads = ("set", "rows", "inputs", "outputs", "clusters", "SHA-256")
    table = AppendixTable(heads, tuple(sets[:_MOST_SETS]), numbers=(1, 2, 3, 4), note=note)
    blocks.append(table.without_empty_columns())
    return Topic("Data", summary, tuple(blocks))


def outcome(material: Material) -> Topic:
    """The expected answers, and how often each one occurs."""
    expressions = list(dict.fromkeys(trial.settings.template.output for trial in material.trials))
    counts = {}
    for name in SETS:
        largest = max(map(material.rows, material.digests(name)), key=len, default=[])
        counts[name] = Counter(output for _, output in largest)
    # The most frequent in training first, as a reader asks for the balance of classes.
    labels = sorted(set().union(*counts.values()), key=lambda text: (-counts["training"][text], text))
    lengths = [len(text) for text in counts["training"].elements()]
    mean = sum(lengths) / len(lengths) if lengths else 0.0
    summary = (
        f"The outcome is the text that the template's output gives, {words(expressions)}: "
        f"{counted(len(labels), 'different text')}, {mean:.1f} characters long on average in the training rows."
    )
    blocks: list[Block] = [Paragraph(summary)]
    # Outputs that never repeat, as in translation, are not classes, and their table would be the rows themselves.
    if len(labels) <= _MOST_OUTPUTS and max(counts["training"].values(), default=0) > 1:
        present = [name for name in SETS if counts[name]]
        rows = tuple((one_line(label), *(f"{counts[name][label]:,}" for name in present)) for label in labels)
        note = "Of sets of different sizes the largest one." if len(material.digests("training")) > 1 else ""
        blocks.append(AppendixTable(("output", *present), rows, numbers=tuple(range(1, len(present) + 1)), note=note))
    return Topic("Outcome", summary, tuple(blocks))


def splits(material: Material) -> Topic:
    """Where the held-out rows come from, and how they were drawn."""
    held_out = []
    is_drawn = False
    for name in ("validation", "test"):
        size = material.sizes(name)
        files = [PurePath(path).name for path in material.config_values(f"dataset.{name}.path") if path]
        shares = [f"{100 * share:g} %" for share in material.config_values(f"dataset.{name}.fraction") if share]
        is_drawn |= bool(shares)
        if not size:
            held_out.append(f"No {name} set.")
        elif files:
            held_out.append(f"The {name} set is a file of its own, {words(files)} ({size}).")
        elif shares:
            held_out.append(f"The {name} set is a random share of the file, {words(shares)} ({size}).")
        else:
            held_out.append(f"The {name} set has {size}; how it was split off is {NOT_RECORDED}.")

    sentences = []
    limits = material.config_values("dataset.limit")
    if is_drawn or any(limit is not None for limit in limits):
        seeds = material.config_values("dataset.split_seed")
        sentences.append(
            f"Splits and limits are drawn with the seed {words(seeds)}, the same for every trial of a point."
        )
    if any(limit is not None for limit in limits):
        sentences.append(f"Training rows are limited to {_limits(limits)} (dataset.limit).")
    for key, what in (("stratify_by", "stratified by"), ("cluster_by", "kept together by")):
        values = [value for value in material.config_values(f"dataset.{key}") if value is not None]
        sentences.append(f"Rows are {what} the column {words(values)}." if values else f"dataset.{key}: none.")
    return Topic("Splits", " ".join(held_out), (Paragraph(" ".join([*held_out, *sentences])),))


def leaks(material: Material) -> Topic:
    """Equal rows within and between the sets, and the plan's warnings."""
    # Of several trials the largest number: a sweep may vary the rows, and one trial with a leak is enough.
    repeated = [(len(rows) - len(set(rows)), len(rows)) for rows in map(material.rows, material.digests("training"))]
    equal, size = max(repeated, default=(0, 0))
    counts = [f"{equal:,} of {counted(size, 'training row')} repeating another one"]
    for name, other in (("validation", "training"), ("test", "training"), ("test", "validation")):
        equal, size = 0, 0
        for trial in material.trials:
            digest = trial.held_out.get(name)
            against = trial.training if other == "training" else trial.held_out.get(other)
            if digest is not None and against is not None:
                equal = max(equal, material.shared_inputs(digest, against))
                size = max(size, len(material.rows(digest)))
        if size:
            counts.append(f"{equal:,} of {counted(size, f'{name} row')} with the input of a {other} row")
    summary = f"Counted in the record, after the template: {'; '.join(counts)}."
    if material.findings:
        summary += f" The plan gave {counted(len(material.findings), 'warning')}, listed there."
    blocks: list[Block] = [Paragraph(summary)]
    if material.findings:
        blocks += [Paragraph("Warnings of the plan:"), Bullets(material.findings)]
    else:
        blocks.append(Paragraph("The plan gave no warning."))
    return Topic("Duplicates, leaks and warnings", summary, tuple(blocks))


def preprocessing(material: Material) -> Topic:
    """The template, which is the only transformation of a row."""
    templates = list(dict.fromkeys(trial.settings.template for trial in material.trials))
    many = "one of " if len(templates) > 1 else ""
    summary = (
        f"A row becomes an example by {many}{counted(len(templates), 'prompt template')}, fixed expressions over "
        "its own columns; nothing is fitted to other rows."
    )
    codes = (CodeBlock("\n".join(f"{part}: {text}" for part, text in each.document.items())) for each in templates)
    return Topic("Preprocessing", summary, (Paragraph(summary), *codes))


def exclusions(material: Material) -> Topic:
    """Which rows of the files were left out."""
    rule = {
        "error": "a row that cannot be used (a cell that the template needs is missing, blank or not readable) stops "
        "the plan, so no row was left out for it",
        "skip": "rows that cannot be used were left out, and the plan's warnings say which",
        None: f"what was done with rows that cannot be used is {NOT_RECORDED}",
    }
    modes = material.config_values("dataset.on_bad_row")
    limits = material.config_values("dataset.limit")
    rules = "; ".join(rule.get(mode, str(mode)) for mode in modes)
    limited = ""
    if any(limit is not None for limit in limits):
        limited = f" Training rows beyond dataset.limit ({_limits(limits)}) are left out, after shuffling."
    summary = f"{_capital(rules)} (dataset.on_bad_row).{limited}"
    return Topic("Exclusions", summary, (Paragraph(summary),))


def _limits(limits: Sequence[int | None]) -> str:
    return words(["all" if limit is None else f"{limit:,}" for limit in limits])


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
