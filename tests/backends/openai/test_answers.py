"""Prompts to base and tuned models."""

from __future__ import annotations

import pytest

from tests.backends.openai.place import MODEL, OpenAIPlace, ended
from tests.engine.tiny_model import EXAMPLES
from tests.rigs.http_service import Fault, Request
from tests.rigs.openai_service import once
from tunerun.backends.openai import OpenAIBackend, OpenAISection
from tunerun.errors import BackendError, InputError
from tunerun.examples import Conversation, Example, Turn
from tunerun.generation import GenerateOptions


def test_a_prompt_has_all_that_precedes_it(place: OpenAIPlace, backend: OpenAIBackend) -> None:
    """System message, examples and earlier turns, in this order; the options have the names of the API."""
    asked = Conversation("3?", "Count on.", (Turn("1?", "2"),))
    options = GenerateOptions(
        9, 0.5, seed=2**31 + 5, top_p=0.9, stop_sequences=("\n",), json_schema='{"type": "object"}'
    )
    assert backend.generate(MODEL, [asked], options, [Example("a", "b")]) == ["3?"]
    body = place.service.requests[-1].body
    assert [(m["role"], m["content"]) for m in body.pop("messages")] == [
        ("system", "Count on."),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "1?"),
        ("assistant", "2"),
        ("user", "3?"),
    ]
    form = {"name": "answer", "schema": {"type": "object"}, "strict": True}
    assert body == {
        "model": "smollm2-135m",
        "max_tokens": 9,
        "temperature": 0.5,
        "seed": 5,
        "top_p": 0.9,
        "stop": ["\n"],
        "response_format": {"type": "json_schema", "json_schema": form},
    }


def test_a_tuned_model_that_is_not_served_yet_is_retried(place: OpenAIPlace, backend: OpenAIBackend) -> None:
    """A tuned model may answer 404 for a while; a base model that does is missing."""
    tuned = ended(backend, place.request("1")).tuned_model
    assert tuned is not None
    place.service.script = once(Fault(404, "no such model"), "POST", "/v1/chat/completions")
    assert backend.generate(tuned, ["1"], GenerateOptions()) == ["1"]
    with pytest.raises(BackendError, match="missing-model"):
        backend.generate(place.missing_model, ["1"], GenerateOptions())
    assert len([each for each in place.service.requests if each.body.get("model") == "missing-model"]) == 1


def test_a_prompt_to_a_busy_service_is_retried(place: OpenAIPlace, backend: OpenAIBackend) -> None:
    """After a rate limit and after a server error."""
    for status in (429, 503):
        fault = Fault(status, "busy", headers={"retry-after-ms": "1"})
        place.service.script = once(fault, "POST", "/v1/chat/completions")
        assert backend.generate(MODEL, ["1", "2"], GenerateOptions()) == ["1", "2"]


def test_the_newer_field_for_the_length_is_the_fallback(place: OpenAIPlace, backend: OpenAIBackend) -> None:
    """`max_tokens` is tried first, once for each backend."""
    words = "Unsupported parameter: 'max_tokens' is not supported; use 'max_completion_tokens' instead."

    def fault(request: Request) -> Fault | None:
        return Fault(400, words, param="max_tokens") if "max_tokens" in request.body else None

    place.service.script.fault = fault
    assert backend.generate(MODEL, ["1"], GenerateOptions(9)) == ["1"]
    assert backend.generate(MODEL, ["2"], GenerateOptions(9)) == ["2"]
    assert [each.body.get("max_completion_tokens") for each in place.service.requests] == [None, 9, 9]


@pytest.mark.parametrize(
    ("options", "words"),
    [(GenerateOptions(top_k=3), "top_k"), (GenerateOptions(stop_sequences=tuple("abcde")), "5 stop sequences")],
)
def test_options_that_the_api_lacks_are_refused(backend: OpenAIBackend, options: GenerateOptions, words: str) -> None:
    """Nothing is sent."""
    with pytest.raises(InputError, match=words):
        backend.generate(MODEL, ["1"], options)


def test_azure_needs_a_deployment_before_a_model_answers(place: OpenAIPlace) -> None:
    """The capabilities warn of it, and the error of a tuned model that does not answer says so."""
    with place.open(base_url=place.service.address, api_version="2024-10-21") as backend:
        (warning,) = backend.capabilities().warnings
        assert "deploy each tuned model under its own name" in warning
        tuned = ended(backend, place.request("1")).tuned_model
        assert tuned is not None
        place.service.script.fault = lambda request: Fault(404, code="DeploymentNotFound") if request.body else None
        with pytest.raises(BackendError, match="deploy the model under its own name"):
            backend.generate(tuned, ["1"], GenerateOptions())


def test_limits_and_warnings_depend_on_the_service() -> None:
    """OpenAI's own is closing, and needs ten examples; other services have no limits that are known."""
    openai = OpenAIBackend(OpenAISection(kind="openai")).capabilities()
    assert "2027-01-06" in openai.warnings[0]
    assert (openai.min_examples, openai.takes_learning_rate) == (10, False)
    own = OpenAIBackend(OpenAISection(kind="openai", base_url="http://127.0.0.1:1/v1")).capabilities()
    assert (own.min_examples, own.warnings) == (1, ())
    assert len(EXAMPLES) < openai.min_examples
