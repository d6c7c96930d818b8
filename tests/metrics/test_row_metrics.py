"""Metrics that score each answer by itself."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunerun.metrics import Metric, MetricModel, resolve
from tunerun.metrics.numeric import Numeric

SQUAD = ["case", "punctuation", "articles", "white_space"]


def metric(name: str, **options: Any) -> Metric:
    return resolve({"metrics": [{"name": name, **options}]})[0]


def score(name: str, expected: str, answer: str, **options: Any) -> float:
    return float(metric(name, **options).rows([expected], [answer])[0, 0])


@pytest.mark.parametrize(
    ("expected", "answer", "options", "right"),
    [
        ("five", " five\n", {}, 1),
        ("five", "Five", {}, 0),
        ("five", "Five", {"ignore": ["case"]}, 1),
        ("Straße", "STRASSE", {"ignore": ["case"]}, 1),
        ("five", "five.", {}, 0),
        ("five", "five.", {"ignore": ["punctuation"]}, 1),
        ("five", "\u201cfive\u201d", {"ignore": ["punctuation"]}, 1),
        ("to be", "to  be", {}, 0),
        ("to be", "to\n be", {"ignore": ["white_space"]}, 1),
        ("Eiffel Tower", "the Eiffel Tower", {"ignore": ["articles"]}, 1),
        ("Eiffel Tower", "The  Eiffel Tower!", {"ignore": SQUAD}, 1),
        ("theme", "me", {"ignore": ["articles"]}, 0),
        ("5", "6", {"ignore": SQUAD}, 0),
    ],
)
def test_exact_match_ignores_what_its_option_lists(
    expected: str, answer: str, options: dict[str, Any], right: int
) -> None:
    """Without options only white space at the ends is ignored; each kind is ignored by itself."""
    assert right == score("exact_match", expected, answer, **options)


@given(st.text(max_size=20), st.text(max_size=20), st.lists(st.sampled_from(SQUAD), unique=True))
def test_more_ignored_is_never_less_right(expected: str, answer: str, ignored: list[str]) -> None:
    """An exact match is an exact match whatever else is ignored, and contains the expected text."""
    if score("exact_match", expected, answer):
        assert score("exact_match", expected, answer, ignore=ignored) == 1
        assert score("contains", expected, answer) == 1
        assert score("accuracy", expected, answer) == 1


@pytest.mark.parametrize(
    ("expected", "answer", "right"),
    [
        ("positive", "Positive.", 1),
        ("positive", '"positive"', 1),
        ("card arrival", " Card  arrival", 1),
        ("+", "-", 0),
        ("c++", "c", 0),
        ("c#", "C#.", 1),
        ("...", "!", 0),
        ("positive", "positive because", 0),
    ],
)
def test_accuracy_compares_labels(expected: str, answer: str, right: int) -> None:
    """Case, quotes, white space and a stop do not make another label; other characters do."""
    assert right == score("accuracy", expected, answer)


@pytest.mark.parametrize(
    ("expected", "answer", "options", "right"),
    [
        ("Paris", "It is Paris, of course.", {}, 1),
        ("Paris", "It is paris.", {}, 0),
        ("Paris", "It is paris.", {"ignore": ["case"]}, 1),
        ("no", "I know", {}, 1),
        ("no", "I know", {"whole_words": True}, 0),
        ("no", "well, no.", {"whole_words": True}, 1),
        ("a+", "grade a+", {"whole_words": True}, 1),
        ("", "anything", {}, 0),
        ("", " ", {}, 1),
    ],
)
def test_contains(expected: str, answer: str, options: dict[str, Any], right: int) -> None:
    """The expected text occurs in the answer, with `whole_words` as whole words."""
    assert right == score("contains", expected, answer, **options)


@pytest.mark.parametrize(
    ("expected", "answer", "options", "right"),
    [
        ("72", "72", {}, 1),
        ("72", "First 48, then 24: 72.", {}, 1),
        ("She has 10. #### 72", "72", {}, 1),
        ("72", "72 of 100", {}, 0),
        ("1234.5", "$1,234.50", {}, 1),
        ("1,234,567", "1234567", {}, 1),
        ("3", "1,2,3", {}, 1),
        ("12", "10-12", {}, 1),
        ("-12", "it is -12 degrees", {}, 1),
        ("-12", "\u221212", {}, 1),
        ("0.002", "2e-3", {}, 1),
        (".5", "0.5", {}, 1),
        ("50", "50%", {}, 1),
        ("1", "1.01", {"tolerance": 0.01}, 1),
        ("1", "1.011", {"tolerance": 0.01}, 0),
        ("1", "3", {"tolerance": 2}, 1),
        ("72", "none", {}, 0),
        ("none", "none", {}, 0),
        ("12345678901234567890123456789012345", "12345678901234567890123456789012346", {}, 0),
        ("1", "1e999", {}, 0),
        ("1", "x1e99999999999", {}, 0),
    ],
)
def test_numeric(expected: str, answer: str, options: dict[str, Any], right: int) -> None:
    """The last number counts, however it is written, exactly or within the tolerance."""
    assert right == score("numeric", expected, answer, **options)


@given(st.text(max_size=40))
def test_numeric_reads_any_text(text: str) -> None:
    """No text makes the parser fail, and a text with a number is right as an answer to itself."""
    numeric = Numeric()
    assert numeric.rows([text], [text])[0, 0] == (numeric.unsuited(text) is None)


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12, places=3))
def test_numeric_reads_written_numbers(number: Any) -> None:
    """A number is the same with commas between thousands and without."""
    assert score("numeric", f"{number}", f"about {number:,} in all") == 1


@pytest.mark.parametrize(
    ("pattern", "expected", "answer", "right"),
    [
        (r"^\d{4}-\d\d-\d\d$", "whatever", "2026-11-26", 1),
        (r"^\d{4}-\d\d-\d\d$", "2026-11-26", "26 November", 0),
        (r"#### (\d+)", "It is 70 and 2. #### 72", "So 72. #### 72", 1),
        (r"#### (\d+)", "72", "#### 72", 1),
        (r"#### (\d+)", "72", "72", 0),
        (r"(?i)answer: (\w+)", "yes", "ANSWER: yes", 1),
        (r"(x)?y", "", "y", 1),
    ],
)
def test_regex(pattern: str, expected: str, answer: str, right: int) -> None:
    """A pattern with a group compares the text in it; one without a group only has to match."""
    assert right == score("regex", expected, answer, pattern=pattern)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ('{"a": 1}', 1),
        (" [1, 2] ", 1),
        ("null", 1),
        ('```json\n{"a": 1}\n```', 0),
        ('{"a": NaN}', 0),
        ("{'a': 1}", 0),
        ("", 0),
        ("[" * 100_000, 0),
        ("1" * 5000, 1),
    ],
)
def test_json_valid(answer: str, right: int) -> None:
    """The whole answer is JSON by RFC 8259."""
    assert right == score("json_valid", "", answer)


@pytest.mark.parametrize(
    ("expected", "answer", "share"),
    [
        ('{"a": 1, "b": "x"}', '{"b": "x", "a": 1.0}', 1),
        ('{"a": 1, "b": "x"}', '{"a": 1, "c": 3}', 0.5),
        ('{"a": 1, "b": "x"}', "a: 1", 0),
        ('{"a": true}', '{"a": 1}', 0),
        ('{"a": {"b": 1, "c": [1, 2]}}', '{"a": {"b": 1, "c": [2, 1]}}', 0.5),
        ('{"a": {}}', '{"a": {}}', 1),
        ('{"a": {}}', "{}", 0),
        ('{"a.b": 1}', '{"a": {"b": 1}}', 0),
        ("[1, 2]", "[1, 2]", 1),
        ("[1, true]", "[1, 1]", 0),
        ("not json", "not json", 0),
    ],
)
def test_json_fields(expected: str, answer: str, share: float) -> None:
    """The score is the share of expected fields with the same value; nested fields count one by one."""
    assert share == score("json_fields", expected, answer)


@pytest.mark.parametrize(
    ("name", "options", "expected", "why"),
    [
        ("numeric", {}, "none", "has no number"),
        ("json_fields", {}, "{", "is not JSON"),
        ("rouge_l", {}, "\u4f60\u597d", "has no Latin letter or digit, which is all that ROUGE reads"),
        ("numeric", {}, "1", None),
        ("exact_match", {}, "", None),
    ],
)
def test_a_metric_says_which_expected_answers_it_cannot_score(
    name: str, options: dict[str, Any], expected: str, why: str | None
) -> None:
    """A row that no answer can get right is reported."""
    suited = metric(name, **options)
    assert isinstance(suited, MetricModel)
    assert suited.unsuited(expected) == why
