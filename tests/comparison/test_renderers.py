"""What each renderer makes of a comparison, whole; run this file as a program to write the golden files again."""

from __future__ import annotations

import csv
import functools
import io
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from tests.comparison import verdicts
from tunerun.comparison.renderers import (
    FILE_RENDERERS,
    RENDERERS,
    FileRenderer,
    Renderer,
    document,
    html,
    latex,
    markdown,
    note,
    plots,
    renderer,
    report,
    table_csv,
    terminal,
)
from tunerun.comparison.results import Verdict
from tunerun.comparison.table import ComparisonTable
from tunerun.errors import InputError
from tunerun.job import Scalar

GOLDEN = Path(__file__).parent / "golden"

CASES = {
    "demo": verdicts.demo_verdict,
    "replicates": verdicts.replicates_verdict,
    "incomplete": verdicts.incomplete_verdict,
    "failed": verdicts.failed_verdict,
    "nothing_held_out": verdicts.nothing_held_out_verdict,
    "cannot_tell": verdicts.cannot_tell_verdict,
    "two_sweeps": verdicts.two_sweeps_verdict,
}
TEXTS: tuple[Renderer, ...] = (table_csv, html, document, latex, markdown, note, terminal)
WRITERS: tuple[FileRenderer, ...] = (document, markdown, table_csv, latex, plots, report)
WIDTHS = (40, 80, 120, 200)
NASTY = '=HYPERLINK("http://x")|<script>alert(1)</script>\n[bold]&amp; `a` *b* _c_ 50% $x$ #1 ~ ^ \\'


def table(case: str) -> ComparisonTable:
    return ComparisonTable.of(CASES[case]())


def at_width(case: ComparisonTable, width: int) -> str:
    target = io.StringIO()
    console = Console(file=target, width=width, highlight=False, color_system=None)
    terminal.print_table(case, console)
    terminal.print_words(case, console)
    return "\n".join(line.rstrip() for line in target.getvalue().splitlines()) + "\n"


GOLDEN_NAMES = [
    *(f"{case}.{name}" for case in ("demo", "replicates") for name in RENDERERS),
    *(f"{case}.widths" for case in CASES),
]


@functools.cache
def golden() -> dict[str, str]:
    texts = {f"{case}.{name}": f"{table(case).render(name)}\n" for case in ("demo", "replicates") for name in RENDERERS}
    for case in CASES:
        texts[f"{case}.widths"] = "\n".join(f"{'-' * width}\n{at_width(table(case), width)}" for width in WIDTHS)
    return texts


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_a_table_is_rendered_as_before(name: str) -> None:
    """The whole text equals the golden file, so that each change of it is reviewed."""
    assert (GOLDEN / name).read_text(encoding="utf-8") == golden()[name]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_terminal_table_is_no_wider_than_the_terminal(case: str, width: int) -> None:
    """No line is cut or broken by the terminal, and the sentence comes last."""
    text = at_width(table(case), width)
    assert max(map(len, text.splitlines())) <= width
    assert " ".join(text.split()).endswith(" ".join(CASES[case]().sentence.split()))


def test_a_number_and_its_interval_stay_on_one_line() -> None:
    """Columns that do not fit are left out and named, and no cell is cut."""
    text = at_width(table("demo"), 80)
    assert "+50 (21 to 72)  0.0020" in text
    assert "Not shown at this width: validation loss, training loss, seconds, tokens, loss curve." in " ".join(
        text.split()
    )


def test_a_long_sweep_shows_its_best_points() -> None:
    """Of 200 points the best 60 are shown, the advised one first; JSON and CSV have all."""
    whole = ComparisonTable.of(verdicts.large_verdict())
    text = at_width(whole, 120)
    assert "The best 60 of 200 points; --json has all of them." in text
    assert next(line for line in text.splitlines() if line.startswith(" *")).split()[1] == "197"
    assert len(whole.best(60).points) == 60
    assert len(json.loads(whole.render("json"))["points"]) == 200
    assert len(whole.render("csv").splitlines()) == 202
    assert len(whole.render("note")) < 8000
    assert "The best 60 of 200 points" in whole.render("html")


def with_text(value: Scalar) -> Verdict:
    """The demo, with a text from outside as a swept value, in the sentence and in the title."""
    demo = verdicts.demo_verdict()
    overrides = {"template.text_input": value}
    points = tuple(replace(point, overrides=overrides) for point in demo.points)
    trials = tuple(replace(each, record=replace(each.record, overrides=overrides)) for each in demo.trials)
    sweep = replace(demo.sweep, experiment=str(value), id=f"{value}-1")
    return replace(demo, points=points, trials=trials, sweeps=(sweep,), sentence=f"Use {value}.")


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.words += data


def test_html_shows_text_from_outside_as_text() -> None:
    """A tag in a value is words, and the fragment has neither script nor style sheet."""
    page = Tags()
    page.feed(ComparisonTable.of(with_text(NASTY)).render("html"))
    assert page.names <= {"div", "table", "caption", "thead", "tbody", "tr", "th", "td", "p", "small", "strong"}
    assert f"Use {NASTY}." in page.words


def test_markdown_shows_text_from_outside_as_text() -> None:
    """A bar does not end a cell, and a line break does not end the row."""
    rows = [line for line in ComparisonTable.of(with_text("a|b\nc")).render("markdown").splitlines() if line[:1] == "|"]
    assert {line.replace(r"\|", "").count("|") for line in rows} == {rows[0].count("|")}


def test_latex_shows_text_from_outside_as_text() -> None:
    """Every active character is escaped; nothing of a value is a command."""
    text = ComparisonTable.of(with_text(r"50% $x$ #1 a_b ~^ \input{/etc/passwd} & |")).render("latex")
    assert r"50\% \$x\$ \#1 a\_b \textasciitilde{}\textasciicircum{} \textbackslash{}input\{/etc/pa" in text
    assert r"\input" not in text
    assert "Ü" in ComparisonTable.of(with_text("Ü")).render("latex")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "=cmd|' /C calc'!A0"])
def test_no_cell_of_the_csv_is_a_formula(text: str) -> None:
    """A spreadsheet shows the text with an apostrophe that it hides; numbers, negative ones too, stay numbers."""
    read = list(csv.DictReader(io.StringIO(ComparisonTable.of(with_text(text)).render("csv"), newline="")))
    assert read[0]["template.text_input"] == "'" + text.replace("\r", "\n")
    assert table_csv.cell(-0.5) == "-0.5"
    assert [table_csv.cell(value) for value in (None, True, 3, "a,b")] == ["", "true", "3", "a,b"]


def test_terminal_shows_brackets_and_controls_as_text() -> None:
    """Rich markup and escape sequences in a value colour nothing and hide nothing."""
    text = ComparisonTable.of(with_text("[red]x[/] \x1b[31my")).render("terminal")
    assert "[red]x[/]" in text
    assert "\x1b" not in text
    assert r"\x1b[31my" in text


def test_json_has_the_decision_and_which_trials_belong_together() -> None:
    """Existing fields stay; `decision`, a trial's `point` and a baseline's `trials` are beside them."""
    content = document.document(table("demo"), {0: "run0"})
    assert content["best"] == 0
    assert content["decision"] == {
        "outcome": "better",
        "advised": 0,
        "tied": [0, 1, 2, 3],
        "against": "base+4",
        "metric": "eval/exact_match",
        "difference": 0.5,
        "interval": [pytest.approx(0.2116, abs=1e-4), pytest.approx(0.7192, abs=1e-4)],
        "p": 0.001953125,
        "alpha": 0.05,
        "worth": 0.0,
        "family": 12,
        "smallest_visible": 0.36,
        "rows": 24,
        "clusters": None,
        "rows_needed": None,
        "seeds": 1,
        "point": None,
        "corrected": 0.66,
        "corrected_interval": [0.45, 0.82],
    }
    trial = content["trials"][1]
    assert (trial["number"], trial["point"], trial["mlflow_run_id"]) == (1, 1, None)
    assert content["trials"][0]["mlflow_run_id"] == "run0"
    assert trial["adapter"].startswith("/home/me")
    assert trial["metrics"]["eval/exact_match"] == 17 / 24
    assert [(each["name"], each["trials"]) for each in content["baselines"]] == [
        ("base", [0, 1, 2, 3]),
        ("base+4", [0, 1, 2, 3]),
        ("majority", [0, 1, 2, 3]),
    ]
    assert content["baselines"][0]["metrics"]["eval/exact_match"] == 0
    json.dumps(content, allow_nan=False)


def test_json_of_several_sweeps_numbers_trials_once() -> None:
    """Numbers are unique in the document; each trial says its sweep and its number there."""
    content = document.document(table("two_sweeps"))
    assert content["sweeps"] == ["next_number-0096e4a4", "next_number-feedbeef"]
    last = content["trials"][-1]
    assert (last["number"], last["number_in_sweep"], last["sweep"], last["point"]) == (4, 0, content["sweeps"][1], 4)


def test_a_number_that_is_not_finite_is_null_in_json() -> None:
    """JSON has no infinity: an open interval and a diverged loss are null."""
    demo = verdicts.demo_verdict()
    decision = replace(demo.decision, low=float("-inf"), high=float("inf"), p=float("nan"))
    content = document.document(ComparisonTable.of(replace(demo, decision=decision)))
    assert (content["decision"]["interval"], content["decision"]["p"]) == ([None, None], None)


def test_what_is_published_names_no_machine() -> None:
    """No renderer but the document of this machine has an adapter's folder."""
    for name in RENDERERS:
        assert "/home/me" not in table("demo").render(name)


def test_frames_have_a_row_for_each_point_and_baseline() -> None:
    """Estimates are columns of numbers, and what no row has is left out."""
    frame = table("replicates").to_pandas()
    assert list(frame.index) == [0, 1, "base", "base+4"]
    assert frame.loc[0, "eval/exact_match spread"] == 0.02
    assert frame.loc[1, "difference against"] == "base+4"
    assert "validation/loss low" not in frame.columns


def test_a_table_in_a_notebook_is_html_and_its_repr_is_short() -> None:
    """`repr` is one short line, `str` the table, and a notebook shows the fragment."""
    demo = table("demo")
    assert repr(demo) == "<ComparisonTable next_number: sweep next_number-0096e4a4: 4 points, 3 baselines>"
    assert demo._repr_html_().startswith('<div class="tunerun-comparison"><table>')
    assert str(demo).splitlines()[-1] == demo.sentence


def test_a_renderer_that_does_not_exist_is_named_with_those_that_do() -> None:
    """The error lists the names."""
    with pytest.raises(InputError, match="no renderer 'excel'; choose one of csv, html, json, latex, markdown"):
        table("demo").render("excel")


def test_every_renderer_keeps_its_protocol() -> None:
    """The type checker has checked each module that a name leads to."""
    assert [renderer(name) for name in RENDERERS] == list(TEXTS)
    assert [str(getattr(module, "__name__", "")).rpartition(".")[2] for module in WRITERS] == list(FILE_RENDERERS)


@pytest.mark.parametrize("name", RENDERERS)
def test_every_renderer_takes_every_table(name: str) -> None:
    """Incomplete, failed and empty comparisons are rendered, the same each time."""
    for case in CASES:
        text = renderer(name).render(table(case))
        assert text == renderer(name).render(table(case))


if __name__ == "__main__":
    for each, content in golden().items():
        (GOLDEN / each).write_text(content, encoding="utf-8")
