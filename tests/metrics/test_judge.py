"""The options of the metrics that a chat model scores."""

from __future__ import annotations

from typing import Any

import pytest

from tests.metrics.test_registry import problems
from tunerun.errors import MetricError
from tunerun.metrics import Metric, Unit, resolve
from tunerun.metrics.judge import Judge
from tunerun.metrics.judge_preference import JudgePreference

REQUIRED: dict[str, Any] = {"base_url": "http://127.0.0.1:8000/v1/", "model": "m", "rubric": "Is it right?"}
_CONFORM: tuple[Metric, ...] = (
    Judge.model_validate(REQUIRED),
    JudgePreference.model_validate(REQUIRED),
)


def judge(**options: Any) -> Judge:
    (metric,) = resolve({"metrics": [{"name": "judge", **REQUIRED, **options}]})
    assert isinstance(metric, Judge)
    return metric


def test_a_judges_identity_is_what_decides_its_judgements() -> None:
    """Model, rubric and scale are part of it; address, key and how it is called are not."""
    first = judge()
    assert (first.base_url, first.unit, first.bounds) == ("http://127.0.0.1:8000/v1", Unit.NUMBER, (1, 5))
    same = judge(base_url="https://example.org/v1", key_variable=None, max_in_flight=1, read_timeout_s=1.0)
    assert same.identity == first.identity
    others = [judge(model="n"), judge(rubric="Is it kind?"), judge(scale=[0, 5])]
    preference = JudgePreference.model_validate(REQUIRED)
    assert len({first.identity, preference.identity, *(each.identity for each in others)}) == 5
    assert first.description.startswith("m, prompt 1 (sha256 ")


def test_a_price_is_known_or_the_service_is_this_machine() -> None:
    """A service elsewhere may charge; a judge on this machine does not."""
    price = {
        "usd_per_million_input_tokens": 2.0,
        "usd_per_million_output_tokens": 8.0,
        "source": "https://example.org/prices",
        "date": "2026-11-26",
    }
    assert not judge().has_unknown_price
    assert judge(base_url="https://example.org/v1").has_unknown_price
    priced = judge(base_url="https://example.org/v1", price=price)
    assert not priced.has_unknown_price
    assert priced.price is not None
    assert priced.price.usd(1e6, 5e5) == 6.0


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"base_url": None}, "base_url: must be"),
        (
            {"base_url": "http://example.org/v1"},
            "must be https, because held-out examples are sent there; http is for this",
        ),
        (
            {"base_url": "https://me:secret@example.org"},
            "must hold no user, password or query; the API key is named by",
        ),
        (
            {"base_url": "example.org"},
            "must be an address such as http://127.0.0.1:8000/v1 or https://api.openai.com/v1",
        ),
        ({"key_variable": "sk-123"}, "key_variable: "),
        ({"scale": [5, 1]}, "must be two whole numbers, the lower one first and at most 100 apart, such as [1, 5]"),
        ({"rubrik": "x"}, "unknown option 'rubrik'; did you mean 'rubric'?"),
        ({"price": {"usd": 1}}, "price.source: is missing; give it a value"),
        ({"price": {"usd": 1}}, "price.usd: unknown"),
    ],
)
def test_wrong_options_are_named_by_their_key(options: dict[str, Any], line: str) -> None:
    """Each has one line with its dotted key, which contains no secret."""
    issues = problems({"metrics": [{"name": "judge", **REQUIRED, **options}]})
    assert any(line in each and each.startswith("evaluation.metrics.0.") for each in issues), issues
    assert not any("secret" in each or "sk-123" in each for each in issues)


def test_scoring_stored_answers_does_not_call_the_judge() -> None:
    """Its scores come from the ledger, so reading a record calls no judge."""
    with pytest.raises(MetricError, match=r"evaluation\.metrics\.judge: a judge scores answers; their scores are in"):
        judge().rows(["a"], ["b"])
