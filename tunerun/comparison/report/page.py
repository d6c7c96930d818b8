"""The page: one HTML file with its styles, its scripts, its data and the plotting library in it.

Everything that is not ours (labels, answers, configs, findings) reaches the page in one of two ways: as text that
Jinja2 escapes, or packed in base64, which the script unpacks and shows as text. No HTML is ever made of it. A policy in
the page allows the page's own scripts and styles by their hashes, and no connection to anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from tunerun.comparison.renderers.html import fragment
from tunerun.comparison.report.answers import pack
from tunerun.comparison.report.document import Document
from tunerun.comparison.table import ComparisonTable

LIBRARY = "vendor/chart.js-4.6.1/chart.umd.min.js"
"""Chart.js: MIT, 210 kB, alive (4.6.1 of October 2026), no eval, one file.

Compared on 2026-11-26 by what npm serves: uPlot 1.6.32 (51 kB; lines only, no release for 18 months), Observable Plot
0.6.17 with D3 (490 kB, no release for 18 months), ECharts 6.1 (715 kB with scatter plots), Vega-Lite 6 with Vega
(772 kB, builds functions from text, which the page's policy forbids), Plotly's basic bundle 4.1 (1.2 MB).
"""

_SOURCE_MAP = re.compile(r"^//# sourceMappingURL=.*$", re.MULTILINE)
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
"""Control characters, marks that turn the direction of others, and halves of characters; `report.js` has them too."""


def render(document: Document, table: ComparisonTable) -> str:
    """Return the page of a report.

    Args:
        table: the comparison's own table, of the same verdict.
    """
    # A source map would be a request to a file that does not exist.
    scripts = [_SOURCE_MAP.sub("", _asset(LIBRARY)).strip(), _asset("report.js")]
    style = _asset("report.css")
    # The library's copies have to carry its licence; two hyphens would end the comment that it is in.
    licence = _asset(f"{LIBRARY.rpartition('/')[0]}/LICENSE.md").replace("--", "- -").strip()
    # Hashes instead of 'unsafe-inline': a script that an answer smuggled in would have another hash and not run.
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join(_hash(script) for script in scripts)}",
            f"style-src {_hash(style)}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )

    # `Markup` is our own HTML; only plain strings come from outside.
    def finalize(value: Any) -> Any:
        return visible(value) if type(value) is str else value

    # StrictUndefined makes a field that the template misspells an error instead of an empty place.
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=finalize, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_asset("template.html")).render(
        report=document,
        policy=policy,
        style=Markup(style),  # noqa: S704 - a file of this package
        scripts=[Markup(script) for script in scripts],  # noqa: S704 - as above
        licence=Markup(licence),  # noqa: S704 - as above
        table=Markup(visible(fragment(table))),  # noqa: S704 - its renderer escapes what is not ours
        legend=" ".join(table.legend),
        packed=Markup(pack(document.drawn())),  # noqa: S704 - base64
    )


def visible(text: str) -> str:
    """Return a text with invisible characters, and those that turn the direction of others, as codes."""
    # A right-to-left override in an answer would show a label backwards; a lone surrogate cannot be written as UTF-8.
    return _UNSEEN.sub(lambda match: f"[U+{ord(match[0]):04X}]", text)


@cache
def _asset(name: str) -> str:
    return files(__package__).joinpath(*name.split("/")).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
