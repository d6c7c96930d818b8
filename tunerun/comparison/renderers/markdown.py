"""The comparison as Markdown, as GitHub renders it, with the answers to each held-out example."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tunerun.comparison.results import Verdict
from tunerun.comparison.table import ComparisonTable, RowKind
from tunerun.examples import as_text
from tunerun.ledger import Ledger
from tunerun.markdown import escaped
from tunerun.markdown import table as markdown_table

FILE = "results.md"

HEAD = "<!-- Written by: tunerun compare. Losses are nats per output token. -->"

MOST_CHARACTERS = 80
"""Maximum length of an input or an answer in a table."""


def render(table: ComparisonTable) -> str:
    """Write the table, its legend, the notes and the sentence."""
    rows = []
    for row in table.rows:
        cells = [escaped(text) for text in table.texts(row)]
        if row.kind is RowKind.POINT:
            cells[0] = f"**{cells[0]}**" if row.is_advised else f"{cells[0]} {row.mark}".rstrip()
        rows.append(cells)
    written = markdown_table([escaped(column.title) for column in table.columns], rows, is_markdown=True)
    # Markdown has bold for the advised point, where the other renderers write a star.
    legend = " ".join(escaped(each) if each[0] != "*" else f"**bold**{each[1:]}" for each in table.legend)
    parts = [written, legend, *map(escaped, (*table.verdict.notes, table.sentence))]
    return "\n\n".join(part for part in parts if part) + "\n"


def files(table: ComparisonTable, ledger: Ledger) -> Mapping[str, bytes]:
    """Return `results.md`: the comparison, and the answers of the advised point beside those of baselines."""
    return {FILE: "\n".join([HEAD, "", render(table), *_answers(table.verdict, ledger)]).encode()}


def _answers(verdict: Verdict, ledger: Ledger) -> list[str]:
    """What the advised point's first trial answers to each held-out row, beside the hardest baseline and the first."""
    from tunerun.comparison.report import read_sources

    if verdict.best is None:
        return []
    trial = verdict.trials[verdict.best]
    hardest = [each for each in verdict.baselines if each.name == verdict.decision.against]
    named = {each.subject: each for each in (*hardest, *verdict.baselines[:1]) if verdict.best in each.trials}
    baselines = list(named.values())
    # Narrowed to what is shown: the sources of a whole sweep score every answer that it has.
    narrowed = replace(
        verdict, trials=(trial,), points=(), baselines=tuple(replace(each, trials=(0,)) for each in baselines)
    )
    sources = read_sources(ledger, narrowed)
    tuned = sources.answers.get(trial.record.key)
    if tuned is None:
        return []
    beside = [(each.name, sources.answers[each.subject].texts) for each in baselines if each.subject in sources.answers]
    head = ["held-out input", "expected", "tuned model", "right", *(name for name, _ in beside)]
    body = [
        [as_text(row.input), row.output, tuned.texts[place], "yes" if tuned.right[place] else "no"]
        + [texts[place] for _, texts in beside]
        for place, row in enumerate(sources.rows)
    ]
    cut = [[" ".join(cell.split())[:MOST_CHARACTERS] for cell in line] for line in body]
    return [markdown_table(head, cut), "", escaped(sources.right_rule), ""]
