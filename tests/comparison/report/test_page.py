"""The page of a report, without a browser."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from tests.comparison import verdicts
from tests.comparison.report.sources import HOSTILE, sources, unlike
from tunerun.comparison.report import build, render
from tunerun.comparison.report.page import LIBRARY, _asset, visible
from tunerun.comparison.results import Verdict
from tunerun.comparison.table import ComparisonTable


def page_of(verdict: Verdict, wrong: tuple[str, ...] = ("one", "two", "three")) -> str:
    return render(build(verdict, sources(verdict, wrong)), ComparisonTable.of(verdict))


class Tags(HTMLParser):
    """The tags and attributes of a page, as a browser would see them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_same_verdict_gives_the_same_bytes() -> None:
    """No time, no random id and no order of a set is in the page."""
    assert page_of(verdicts.demo_verdict()) == page_of(verdicts.demo_verdict())


@pytest.mark.thorough
def test_a_page_of_200_trials_and_500_rows_is_below_5_mb() -> None:
    """This holds where the wrong answers of all models differ and are long; the page says what it omits."""
    verdict = verdicts.large_verdict()
    document = build(verdict, unlike(sources(verdict)))
    page = render(document, ComparisonTable.of(verdict))
    assert len(page.encode()) < 5_000_000
    assert document.answers.omitted in page
    assert document.answers.omitted


def test_nothing_of_a_page_comes_from_elsewhere() -> None:
    """It has no address to load anything from, no inline handler and no inline style."""
    tags = Tags(page_of(verdicts.demo_verdict(), HOSTILE)).found
    for tag, attributes in tags:
        assert tag not in ("iframe", "object", "embed", "base", "form", "img")
        assert not any(name.startswith("on") or name in ("src", "srcset", "style", "action") for name in attributes)
        if "href" in attributes:
            assert re.fullmatch(r"#[a-z]+|data:,", attributes["href"] or "")


def test_the_policy_of_a_page() -> None:
    """Only the scripts and styles of the page itself, by their hashes; nothing unsafe, nothing fetched."""
    tags = Tags(page_of(verdicts.demo_verdict())).found
    policy = next(a["content"] or "" for t, a in tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "http" not in policy


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_text(text: str) -> None:
    """Whatever a sentence, a label, a finding or a config says, no tag is made of it."""
    verdict = verdicts.demo_verdict()
    points = tuple(replace(point, overrides={"template": text}) for point in verdict.points)
    plain = Tags(page_of(replace(verdict, sentence="x"))).found
    content = replace(sources(verdict), findings=(text,), configs=(("sweep", text),), facts=(("File", text),))
    hostile = replace(verdict, sentence=text, notes=(text,), points=points)
    page = render(build(hostile, content), ComparisonTable.of(hostile))
    page.encode()
    scripts = [tag for tag, _ in Tags(page).found if tag in ("script", "img", "b")]
    assert scripts == [tag for tag, _ in plain if tag in ("script", "img", "b")]
    assert "\u202e" not in page.replace(_asset("report.js"), "")


def test_characters_that_cannot_be_seen_are_shown() -> None:
    """Control characters, marks of direction and halves of characters are codes; letters of any script stay."""
    assert visible("a\x00b\u202ec\ud800d") == "a[U+0000]b[U+202E]c[U+D800]d"
    assert visible("two\nlines\tשלום \U0001f468\u200d\U0001f469") == "two\nlines\tשלום \U0001f468\u200d\U0001f469"


def test_the_library_is_carried_with_its_licence() -> None:
    """A page that carries a copy of the library names its authors and their terms."""
    page = page_of(verdicts.demo_verdict())
    assert "The MIT License" in page
    assert "Chart.js Contributors" in page
    assert "sourceMappingURL" not in page
    assert "</script" not in _asset(LIBRARY).lower()
