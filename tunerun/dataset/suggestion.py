"""Suggests a template for the columns of a file whose experiment has none that fits."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path

from tunerun.dataset.conversations import with_conversations
from tunerun.dataset.reading import collect_rows
from tunerun.dataset.rows import Rows
from tunerun.dataset.table_rows import DELIMITERS
from tunerun.schema import DatasetSection, Template
from tunerun.template import PromptTemplate

_INPUTS = (
    *("text_input", "input", "question", "prompt", "text", "message", "messages", "sentence", "query", "utterance"),
    *("instruction", "review", "document", "content", "article", "title", "description", "body", "comment", "tweet"),
)
_OUTPUTS = (
    *("output", "label", "answer", "completion", "response", "target", "intent", "category", "class", "sentiment"),
    *("reply", "summary", "translation", "result", "labels", "tag", "topic", "rating", "score"),
)
"""Common names of input and output columns, the most reliable first; our list, from published data sets."""

_KEYS = frozenset(["id", "index", "idx", "no", "nr", "#", "uuid", "key"])
"""Names of columns that number the rows."""

_NOT_NAMES = frozenset(["row", "true", "false", "none", "not", "and", "or", "in", "is", "if", "else"])
"""Words that Jinja2's expressions reserve, and our `row`."""


def suggested_template(columns: Collection[str]) -> Template | None:
    """Return a template for two of the columns, chosen by name, else the first and the last; None: fewer than two."""
    names = [name for name in columns if name.strip()]
    output = _named(names, _OUTPUTS)
    text_input = _named([name for name in names if name != output], _INPUTS)
    output = output or next((name for name in reversed(names) if name != text_input), None)
    text_input = text_input or next(
        (name for name in names if name != output and name.strip().lower() not in _KEYS), None
    )
    if text_input is None or output is None:
        return None
    return Template(text_input=_expression(text_input), output=_expression(output))


def template_that_fits(dataset: DatasetSection, template: PromptTemplate) -> Template | None:
    """Return a template for the columns of the training file if the config's one prints columns that no row has.

    Returns:
        None if the template fits, the file cannot be read, or it has fewer than two columns.
    """
    rows, _ = collect_rows(Path(dataset.path), dataset.format, dataset.columns)
    rows, _ = with_conversations(rows, template.columns)
    printed = {column for part in ("text_input", "output") for column in template.printed(part)}
    return suggested_template(rows.columns) if printed - rows.columns.keys() else None


def advice_on_template(rows: Rows) -> str:
    """Return advice for a template that names columns which the file does not have."""
    template = suggested_template(rows.columns)
    if template is None:
        # The name of the only column may be the header of a table with another separator.
        only = next(iter(rows.columns)) if len(rows.columns) == 1 else ""
        for name, delimiter in DELIMITERS.items():
            if delimiter in only:
                return f"its only column holds separators; set dataset.format={name}"
        advice = "an example needs two columns, an input and an output; add the one that is missing"
    else:
        advice = f"for its columns write {yaml_line(template)}"
    if rows.has_header:
        count = len(rows.columns)
        advice += f"; if its first line is a row and not the header, name its columns in dataset.columns ({count})"
    return advice


def yaml_line(template: Template) -> str:
    """Return a template as one line of YAML for a config."""
    parts = (("text_input", template.text_input), ("output", template.output))
    return f"template: {{{', '.join(f'{part}: {json.dumps(text, ensure_ascii=False)}' for part, text in parts)}}}"


def _named(names: Sequence[str], common: Sequence[str]) -> str | None:
    by_lower = {name.strip().lower(): name for name in reversed(names)}  # of two, the first column
    # A whole name before a word of one: `label` rather than `label_source`.
    exact = next((by_lower[each] for each in common if each in by_lower), None)
    words = {name: name.lower().replace("-", " ").replace("_", " ").split() for name in names}
    return exact or next((name for each in common for name in names if each in words[name]), None)


def _expression(name: str) -> str:
    is_plain = name.isidentifier() and name.lower() not in _NOT_NAMES
    return f"{{{{ {name if is_plain else f'row[{name!r}]'} }}}}"
