"""Asking a judge over HTTP: what is sent, what services refuse, and what is read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import stamina

from tests.judges.server import JudgeService, Reply, fair
from tunerun.errors import AccessError, BackendError, StatusError, UnavailableError
from tunerun.judges.client import JudgeClient
from tunerun.judges.prompt import Judged, Rating
from tunerun.metrics.judge import Judge

JUDGED = Judged("3", "4", "4")
PRICE = {
    "usd_per_million_input_tokens": 1.0,
    "usd_per_million_output_tokens": 10.0,
    "source": "the test",
    "date": "2026-11-26",
}

COST = 0.002
"""Of one call, with the counts of tokens that the service gives."""


@pytest.fixture(autouse=True)
def no_waits() -> Iterator[None]:
    """Use stamina's test mode: as many attempts, without waits."""
    with stamina.set_testing(True, attempts=4):
        yield


def client(service: JudgeService, **options: Any) -> JudgeClient:
    values = {"base_url": service.base_url, "model": "m", "rubric": "Is it right?", "key_variable": None, **options}
    return JudgeClient(Judge.model_validate(values))


def test_a_judge_is_asked_for_json_at_temperature_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """The call has a seed, the schema of the scale, and the key of the configured variable in its header."""
    monkeypatch.setenv("MY_KEY", "sk-secret-of-mine")
    with JudgeService() as service, client(service, key_variable="MY_KEY", price=PRICE) as judge:
        assert judge.rate(JUDGED) == Rating(5.0, "compared", COST)
    (body,) = service.bodies
    assert (body["model"], body["temperature"], body["seed"], body["max_tokens"]) == ("m", 0, 0, 512)
    assert body["response_format"]["json_schema"]["schema"]["properties"]["score"]["enum"] == [1, 2, 3, 4, 5]
    assert service.requests[0].path == "/v1/chat/completions"
    assert service.requests[0].key == "sk-secret-of-mine"


def test_a_missing_key_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable and the option that names it; nothing is sent."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with (
        JudgeService() as service,
        client(service, key_variable="OPENAI_API_KEY") as judge,
        pytest.raises(AccessError, match=r"evaluation\.metrics\.judge\.key_variable: the environment variable OPE"),
    ):
        judge.rate(JUDGED)
    assert not service.bodies


@pytest.mark.parametrize("field", ["response_format", "temperature", "seed", "max_tokens"])
def test_what_a_service_refuses_is_left_out(field: str) -> None:
    """A refusal that names a field is answered by a call without it, and it is not sent again."""

    def script(body: dict[str, Any]) -> Reply:
        words = "Use 'max_completion_tokens' instead." if field == "max_tokens" else ""
        return (400, f"Unsupported parameter: '{field}'. {words}") if field in body else fair(body)

    with JudgeService(script) as service, client(service) as judge:
        assert [judge.rate(JUDGED).score for _ in range(2)] == [5.0, 5.0]
    assert len(service.bodies) == 3
    assert field not in service.bodies[-1]
    assert ("max_completion_tokens" in service.bodies[-1]) == (field == "max_tokens")


def test_an_unreadable_reply_is_asked_for_once_more() -> None:
    """The second question shows the first reply; what cannot be read then has no score, and is never 0."""
    replies = iter(["I would say five.", '{"reason": "fine", "score": 4}', "five", "really five"])
    with JudgeService(lambda _: (200, next(replies))) as service, client(service, price=PRICE) as judge:
        assert judge.rate(JUDGED) == Rating(4.0, "fine", 2 * COST)
        assert judge.rate(JUDGED) == Rating(None, "really five", 2 * COST)
    assert [len(body["messages"]) for body in service.bodies] == [2, 4, 2, 4]
    assert service.bodies[1]["messages"][2] == {"role": "assistant", "content": "I would say five."}


def test_a_prompt_that_is_refused_alone_has_no_score() -> None:
    """A refusal by a service that has answered others leaves the row without a score; before that, it is an error."""
    with JudgeService() as service, client(service) as judge:
        judge.rate(JUDGED)
        service.script = lambda _: (400, "The text is too long.")
        assert judge.rate(JUDGED).score is None
    with (
        JudgeService(lambda _: (400, "no such thing")) as service,
        client(service) as judge,
        pytest.raises(StatusError, match=r"the service answered 400 .*: no such thing"),
    ):
        judge.rate(JUDGED)
    assert len(service.bodies) == 2, "once more without the schema"


@pytest.mark.parametrize(
    ("reply", "error", "message"),
    [
        (
            (401, "Incorrect API key provided: sk-wrong-of-mine"),
            AccessError,
            r"401 .*: Incorrect API key provided: \*\*\*; .*evaluation\.metrics\.judge\.key_variable",
        ),
        ((404, "The model m does not exist"), StatusError, "404 .*: The model m does not exist"),
        ((503, "overloaded"), UnavailableError, "503 .*: overloaded"),
        ((429, "slow down"), UnavailableError, "429 .*: slow down"),
        ((200, {"object": "list"}), BackendError, "answered without choices; does base_url end in /v1"),
    ],
)
def test_a_judge_that_fails_says_why(
    reply: Reply, error: type[BackendError], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error has the service's own words, without the key."""
    monkeypatch.setenv("MY_KEY", "sk-wrong-of-mine")
    with (
        JudgeService(lambda _: reply) as service,
        client(service, key_variable="MY_KEY") as judge,
        pytest.raises(error, match=message),
    ):
        judge.rate(JUDGED)
    assert len(service.bodies) == (4 if error is UnavailableError else 1)


def test_parts_of_a_message_are_one_text() -> None:
    """Some gateways give the content as a list of parts, and no count of tokens."""
    content = [{"type": "text", "text": json.dumps({"reason": "r", "score": 2})}]
    answer = {"choices": [{"index": 0, "message": {"role": "assistant", "content": content}}]}
    with JudgeService(lambda _: (200, answer)) as service, client(service, price=PRICE) as judge:
        rating = judge.rate(JUDGED)
    assert rating.score == 2.0
    assert 0.0002 < rating.usd < 0.0005
