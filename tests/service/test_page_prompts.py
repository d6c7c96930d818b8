"""The page without JavaScript: prompts to tuned models, and programs that send them."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

import pytest

from tests.rigs.running_service import RunningService
from tests.service.client import Client, prompt
from tests.service.visitor import Visitor, text_of, visiting
from tunerun.service.openai import names
from tunerun.service.page.snippets import KEY_VARIABLE


@pytest.fixture(scope="module")
def counting(running: RunningService) -> Iterator[Visitor]:
    """A user who is signed in, and whose tuned model `counting` has learned its examples."""
    with visiting(running, "counting@localhost") as visitor:
        visitor.sign_in()
        visitor.tuned("counting", epoch_count="60", batch_size="7")
        yield visitor
        visitor.delete("counting")


def test_a_model_and_its_base_model_answer_a_prompt(counting: Visitor) -> None:
    """Each answers as over the API, and the prompt stays in its box."""
    response = counting.http.post("/library/counting/try", data={"text": "twenty two"})
    assert response.status_code == 200
    answers = [html.unescape(text) for text in re.findall(r"<pre>(.*?)</pre>", response.text, re.DOTALL)]
    with Client(str(counting.http.base_url).rstrip("/"), counting.secret) as client:
        candidates = [
            client.good("POST", f"/{name}:generateContent", prompt("twenty two"))["candidates"][0]
            for name in ("tunedModels/counting", "models/tiny")
        ]
    assert answers == [one["content"]["parts"][0]["text"] for one in candidates]
    assert answers[0] == "twenty three"
    assert candidates[1]["finishReason"] == "MAX_TOKENS"
    assert "Cut off after 256 tokens" in text_of(response)
    assert re.search(r"<textarea[^>]*>\ntwenty two</textarea>", response.text)


def test_an_invalid_prompt_is_refused_beside_its_box(counting: Visitor) -> None:
    """The problem is shown and the prompt is kept; line breaks are sent as LF, as in the examples."""
    for text, problem in (("", "The prompt is empty"), ("1 " * 20_001, "the limit is 40,000"), ("1 " * 500, "tokens")):
        response = counting.http.post("/library/counting/try", data={"text": text})
        assert response.status_code == 400
        assert problem in text_of(response)
        assert f"\n{text}</textarea>" in response.text
    broken = counting.http.post("/library/counting/try", data={"text": "1\r\n2"})
    assert (broken.status_code, "\n1\n2</textarea>" in broken.text) == (200, True)


def test_the_temperature_of_a_prompt_is_used_or_refused(counting: Visitor) -> None:
    """It stays in its box; one that is not a number from 0 to 2 is refused."""
    cold = counting.http.post("/library/counting/try", data={"text": "twenty two", "temperature": "0"})
    assert (cold.status_code, 'value="0"' in cold.text, "twenty three" in text_of(cold)) == (200, True, True)
    for typed in ("2.5", "-1", "nan", "hot"):
        refused = counting.http.post("/library/counting/try", data={"text": "1", "temperature": typed})
        assert (refused.status_code, f'value="{typed}"' in refused.text) == (400, True)
        assert "The temperature is a number from 0 to 2" in text_of(refused)


def test_the_page_has_a_program_for_each_client(
    counting: Visitor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each has the service's address and the model's name; the first one runs unchanged."""
    page = counting.card("counting")
    row = counting.service.state.tuned_model("counting")
    assert row is not None
    programs = [html.unescape(text) for text in re.findall(r'<pre id="code-[^>]*>(.*?)</pre>', page.text, re.DOTALL)]
    address = str(counting.http.base_url).rstrip("/")
    assert len(programs) == 4
    assert all(address in program for program in programs)
    assert [names.model_name(row) in program for program in programs] == [True, True, False, False]
    assert ["tunedModels/counting" in program for program in programs] == [False, False, True, True]
    assert names.model_name(row) in text_of(page)
    monkeypatch.setenv(KEY_VARIABLE, counting.secret)
    exec(programs[0].replace('"Hello"', '"twenty two"'), {})  # noqa: S102 - what a user would paste
    assert capsys.readouterr().out == "twenty three\n"


def test_two_models_are_compared(counting: Visitor) -> None:
    """Two tuned models answer a prompt side by side, below the curves of both."""
    counting.tuned("right", epoch_count="1", batch_size="7")
    curves = counting.http.get("/compare?one=counting&other=right")
    assert curves.status_code == 200
    assert curves.text.count("<tbody") == 2
    chosen = {"one": "counting", "other": "right"}
    response = counting.http.post("/compare", data={**chosen, "text": "twenty two", "temperature": "0"})
    answers = re.findall(r"<pre>(.*?)</pre>", response.text, re.DOTALL)
    assert (len(answers), answers[0]) == (2, "twenty three")
    assert "First tunedModels/counting" in text_of(response)
    assert "Second tunedModels/right" in text_of(response)
    empty = counting.http.post("/compare", data={**chosen, "text": ""})
    assert (empty.status_code, "The prompt is empty" in text_of(empty)) == (400, True)
    alone = counting.http.post("/compare", data={"one": "counting", "text": "1"})
    assert (alone.status_code, "Choose two tuned models" in text_of(alone)) == (400, True)
    assert counting.http.get("/compare?one=counting&other=none").status_code == 404
    assert counting.http.post("/compare", data={"one": "counting", "other": "none", "text": "1"}).status_code == 404
    counting.delete("right")
