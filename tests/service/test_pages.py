"""The page "My library" without JavaScript, at a service that really tunes."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator

import httpx
import pytest

from tests.rigs.running_service import RunningService
from tests.service.client import Client, prompt
from tests.service.visitor import FOREVER, Visitor, table, text_of, visiting
from tunerun.service.core.model_calls import UNPREDICTABLE
from tunerun.service.middleware import COOKIE
from tunerun.service.openai import names
from tunerun.service.page.pages import KEPT_FILES
from tunerun.service.page.snippets import KEY_VARIABLE
from tunerun.service.page.uploads import MAX_FILE_BYTES
from tunerun.service.page.view_models import MAX_POINTS
from tunerun.testing.waiting import wait_until


@pytest.fixture
def stranger(running: RunningService) -> Iterator[Visitor]:
    """A user with a key who has not signed in."""
    with visiting(running, "stranger@localhost") as visitor:
        yield visitor


@pytest.fixture
def visitor(running: RunningService) -> Iterator[Visitor]:
    """A user who is signed in, and whose library is empty."""
    with visiting(running, "visitor@localhost") as visitor:
        visitor.sign_in()
        yield visitor


# In and out


def test_signing_in_and_out(stranger: Visitor) -> None:
    """A key opens the library until one signs out; the cookie is not the key and no script can read it."""
    asked = stranger.http.get("/")
    assert asked.status_code == 200
    assert 'type="password"' in asked.text
    assert "You are signed out" not in asked.text
    response = stranger.sign_in()
    (set_by,) = response.history
    cookie = set_by.headers["set-cookie"]
    assert re.fullmatch(rf"{COOKIE}=\S{{43}}; HttpOnly; Max-Age=43200; Path=/; SameSite=strict", cookie)
    assert "My library" in text_of(response)
    assert "stranger@localhost" in text_of(response)
    session = stranger.http.cookies[COOKIE]
    assert 'type="password"' in stranger.http.post("/sign-out").text
    assert COOKIE not in stranger.http.cookies
    assert stranger.http.get("/progress", headers={"cookie": f"{COOKIE}={session}"}).status_code == 401
    for text in (cookie, asked.text, response.text):
        assert stranger.secret not in text


@pytest.mark.parametrize("key", ["", "wrong", "ключ", "a" * 3_000])
def test_a_wrong_key(stranger: Visitor, key: str) -> None:
    """A wrong key is refused, is not repeated, and sets no cookie."""
    response = stranger.http.post("/sign-in", data={"key": key})
    assert response.status_code == 401
    assert "This API key is not valid" in text_of(response)
    assert "set-cookie" not in response.headers
    assert not key or key not in response.text


def test_a_key_without_the_scope(running: RunningService) -> None:
    """For a key that may not tune the page says so."""
    with visiting(running, "poor@localhost", ["https://www.googleapis.com/auth/other"]) as visitor:
        response = visitor.sign_in()
    assert response.status_code == 403
    assert "has no scope for tuning" in text_of(response)


def test_a_revoked_key_signs_out(running: RunningService) -> None:
    """A user whose key is revoked is signed out at the next request."""
    with visiting(running, "fired@localhost") as visitor:
        visitor.sign_in()
        key = running.service.keys.find(visitor.secret)
        assert key is not None
        running.service.keys.revoke(key.id)
        sent = visitor.send(table())
        assert (sent.status_code, "its key was revoked" in text_of(sent)) == (401, True)
        assert "its key was revoked" in text_of(visitor.http.get("/"))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/progress"),
        ("GET", "/library/some"),
        ("POST", "/library/some/cancel"),
        ("POST", "/library/some/delete"),
        ("POST", "/library/some/try"),
        ("POST", "/library/some/edit"),
        ("POST", "/library/some/pause"),
        ("POST", "/library/some/resume"),
        ("GET", "/library/some/examples"),
        ("GET", "/compare"),
        ("POST", "/compare"),
        ("POST", "/files"),
        ("GET", "/files/some"),
        ("POST", "/files/some/tune"),
    ],
)
def test_everything_else_needs_a_session(stranger: Visitor, method: str, path: str) -> None:
    """Who is not signed in gets the form to sign in; an API key in a header is none of the page's."""
    response = stranger.http.request(method, path, headers={"x-goog-api-key": stranger.secret})
    assert response.status_code == 401
    assert 'type="password"' in response.text


def test_every_answer_has_the_headers_of_a_safe_page(visitor: Visitor, stranger: Visitor) -> None:
    """No script or style but the page's own, no frames, no sniffing, nothing kept; also where something is refused."""
    answers = [visitor.http.get("/"), visitor.http.get("/library/none"), visitor.send("", "a.csv")]
    answers += [visitor.http.get("/progress"), stranger.http.get("/"), stranger.http.post("/files")]
    assert [answer.status_code for answer in answers] == [200, 404, 400, 200, 200, 401]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'self';")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"
        assert not re.search(r"<script(?![^>]* src=)|<style| style=| on[a-z]+=", answer.text)


def test_everything_a_page_names_is_there(visitor: Visitor) -> None:
    """Scripts, styles and pictures come from the service itself, and with the licence of those that are not ours."""
    named = set(re.findall(r'(?:src|href)="(/static/[^"]*)"', visitor.http.get("/").text))
    assert len(named) == 5
    licence = next(path for path in named if "vendor" in path).rpartition("/")[0] + "/LICENSE"
    for path in [*named, "/static/chart.js", licence]:
        answer = visitor.http.get(path)
        assert (answer.status_code, answer.headers["x-content-type-options"]) == (200, "nosniff")


@pytest.mark.parametrize("origin", ["https://elsewhere.example", "null", "http://127.0.0.1:1"])
def test_a_form_of_another_site(visitor: Visitor, origin: str) -> None:
    """A form that another site sends does nothing, though the cookie be with it."""
    response = visitor.http.post("/files", files={"file": ("a.csv", table())}, headers={"origin": origin})
    assert response.status_code == 403
    assert "sent from another site" in text_of(response)
    assert visitor.http.post("/sign-out", headers={"origin": origin}).status_code == 403
    own = str(visitor.http.base_url).rstrip("/")
    assert visitor.http.post("/files", files={"file": ("a.csv", table())}, headers={"origin": own}).status_code == 200


def test_a_form_that_cannot_be_read(visitor: Visitor) -> None:
    """A body that is not a form is refused with a page, not with an error of the service."""
    response = visitor.http.post("/files", content=b"x", headers={"content-type": "multipart/form-data"})
    assert response.status_code == 400
    assert "send it again" in text_of(response)


# Files


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "note,answer\nx,one\ny,two\n"),
        ("a.tsv", "note\tanswer\nx\tone\ny\ttwo\n"),
        ("a.json", '[{"note": "x", "answer": "one"}, {"note": "y", "answer": "two"}]'),
        ("a.jsonl", '{"note": "x", "answer": "one"}\n{"note": "y", "answer": "two"}\n'),
    ],
)
def test_a_file_is_shown(visitor: Visitor, name: str, content: str) -> None:
    """Every kind of file is shown with its columns and first rows, two columns chosen, and advice where it is short."""
    response = visitor.send(content, name)
    assert (response.status_code, response.url.path[:7]) == (200, "/files/")
    text = text_of(response)
    assert f"{name} 2 rows All of them note answer x one y two 2 training examples; the Gemini API's" in text
    chosen = re.findall(r'<option value="([^"]*)" selected>', response.text)
    assert chosen == ["note", "answer"]
    assert visitor.http.get(response.url.path).text == response.text


def test_a_long_file_is_shown_in_part(visitor: Visitor) -> None:
    """Of many rows the first ten are shown, and there is no advice to add some."""
    response = visitor.send(table([[f"input {n}", f"output {n}"] for n in range(1000)]))
    text = text_of(response)
    assert "1,000 rows The first 10 text_input" in text
    assert "input 9 output 9" in text
    assert "input 10" not in text
    assert "training examples;" not in text
    assert 'placeholder="16"' in response.text


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.csv", b"a,b\n1,2\n3\n", "a.csv:3: has 1 cell, the header has 2"),
        ("a.json", b"{", "a.json:1: broken JSON"),
        ("a.csv", b"a,b\n" * (MAX_FILE_BYTES // 4 + 1), "a.csv: is over the limit of 4,194,304 bytes"),
        ("<b>.csv", b"a,a\n", "<b>.csv:1: the header names 'a' more than once"),
    ],
)
def test_a_bad_file(visitor: Visitor, name: str, content: bytes, line: str) -> None:
    """What is wrong with a file is shown beside the form that sent it, with the line."""
    response = visitor.send(content, name)
    assert response.status_code == 400
    assert line in text_of(response)
    assert 'id="file"' in response.text
    assert "<b>" not in response.text


def test_no_file(visitor: Visitor) -> None:
    """A form that was sent without a file is answered as one with a bad file; so browsers send it."""
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename=""\r\n\r\n\r\n--x--\r\n'
    response = visitor.http.post("/files", content=body, headers={"content-type": "multipart/form-data; boundary=x"})
    assert (response.status_code, "no file was chosen" in text_of(response)) == (400, True)
    assert visitor.http.post("/files").status_code == 400


def test_only_the_newest_files_are_kept(visitor: Visitor, stranger: Visitor) -> None:
    """An older file than the newest few has to be sent again, and no user sees another's."""
    paths = [visitor.send(table()).url.path for _ in range(KEPT_FILES + 1)]
    gone = visitor.http.get(paths[0])
    assert (gone.status_code, "send it again" in text_of(gone)) == (404, True)
    assert [visitor.http.get(path).status_code for path in paths[1:]] == [200] * KEPT_FILES
    stranger.sign_in()
    assert stranger.http.get(paths[-1]).status_code == 404


# Jobs


def test_a_file_becomes_a_tuned_model(visitor: Visitor) -> None:
    """Two chosen columns become the examples, empty fields the defaults; the library shows it to its end."""
    rows = [["a note", one, two] for one, two in (("1", "2"), ("3", "4"), ("one", "two"))]
    shown = visitor.send(table(rows, ["note", "question", "answer"]))
    started = visitor.submit(
        shown, input_column="question", output_column="answer", display_name="Next number", identifier="next-number"
    )
    assert (started.status_code, str(started.url.path), started.url.fragment) == (200, "/", "model-next-number")
    visitor.finished("next-number")
    text = text_of(visitor.http.get("/"))
    assert "Next number ACTIVE Name tunedModels/next-number OpenAI name ft:tiny:tunerun::" in text
    assert " Tuned from models/tiny" in text
    assert "5 epochs, batch size 4, learning rate 0.001" in text
    assert "5 of 5 steps (100 %) Mean loss" in text
    assert re.search(r"Loss by step Step Epoch Mean loss 1 1 \d+\.\d{4} 2 2 \d+\.\d{4} 3 3", text)
    row = visitor.service.state.tuned_model("next-number")
    assert row is not None
    examples = [(e.text_input, e.output) for e in visitor.service.library.examples(row)]
    assert examples == [("1", "2"), ("3", "4"), ("one", "two")]
    again = visitor.submit(visitor.send(table()), base="tunedModels/next-number", identifier="again")
    assert "Tuned from tunedModels/next-number" in text_of(again)
    visitor.finished("again")
    visitor.delete("next-number", "again")
    assert "There are none yet" in text_of(visitor.http.get("/"))


def test_a_file_without_a_header_is_noticed(visitor: Visitor) -> None:
    """The page says so, and a link takes the first line as a row; so does the form that is sent from there."""
    shown = visitor.send(table([["3", "4"]], ["1", "2"]))
    assert "it looks like a row" in text_of(shown)
    shown = visitor.http.get(f"{shown.url.path}?header=no")
    assert "2 rows" in text_of(shown)
    assert "it looks like a row" not in text_of(shown)
    action = re.findall(r'action="(/files/[^"]*)"', shown.text)[0]
    form = {"input_column": "column 1", "output_column": "column 2", "base": "models/tiny", "identifier": "bare"}
    refused = visitor.http.post(action, data=form | {"epoch_count": "x"})
    assert re.findall(r'action="(/files/[^"]*)"', refused.text) == [action]
    assert visitor.http.post(action, data=form).status_code == 200
    row = visitor.service.state.tuned_model("bare")
    assert row is not None
    assert [(e.text_input, e.output) for e in visitor.service.library.examples(row)] == [("1", "2"), ("3", "4")]
    visitor.delete("bare")
    assert "it looks like a row" not in text_of(visitor.send(table()))
    named = visitor.send('[{"a": "1", "b": "2"}]', "rows.json")
    assert visitor.http.get(f"{named.url.path}?header=no").status_code == 400
    assert visitor.http.get(f"{named.url.path}?header=maybe").status_code == 400


def test_columns_of_any_name(visitor: Visitor) -> None:
    """Columns can be chosen whatever their names are: empty, with line breaks as a form sends them, with quotes."""
    shown = visitor.send('"in\nput","",\'"""\'\n1,2,3\n')
    assert visitor.submit(shown, input_column="in\r\nput", output_column="", identifier="odd").status_code == 200
    row = visitor.service.state.tuned_model("odd")
    assert row is not None
    assert [(e.text_input, e.output) for e in visitor.service.library.examples(row)] == [("1", "2")]
    visitor.delete("odd")


@pytest.mark.parametrize(
    ("typed", "lines"),
    [
        ({"identifier": "Not an id"}, ["Id: 'Not an id' is not an id; 1 to 40 lower case letters"]),
        ({"display_name": "x" * 41}, ["Display name: has 41 characters, the limit is 40"]),
        (
            {"epoch_count": "many", "batch_size": "1.5", "learning_rate": "<fast>"},
            [
                "Epochs: must be a whole number",
                "Batch size: must be a whole number",
                "Learning rate: must be a number",
            ],
        ),
        ({"epoch_count": "-1"}, ["Epochs: must be 1 or more, not -1"]),
        ({"epoch_count": "9" * 30}, ["Epochs: Input should be less than or equal to 2147483647"]),
        ({"learning_rate": "nan"}, ["Learning rate: Input should be a finite number"]),
        ({"learning_rate": "1", "learning_rate_multiplier": "2"}, ["exclude each other; send one"]),
        ({"output_column": "text_input"}, ["Column of the output: is the column of the input too"]),
        ({"input_column": "none"}, ["Column of the input: is not a column of the file"]),
        ({"base": "models/none"}, ["Base model: choose models/tiny"]),
        ({"base": "tunedModels/none"}, ["tunedModels/none: not found"]),
        ({"base": ""}, ["Base model: set either baseModel or"]),
    ],
)
def test_a_refused_job_keeps_what_was_typed(visitor: Visitor, typed: dict[str, str], lines: list[str]) -> None:
    """Every problem is shown beside the form in the words of its labels, and everything that was typed is still there."""
    typed = {"display_name": "My <model>", "epoch_count": "7", "learning_rate": "0.5"} | typed
    response = visitor.submit(visitor.send(table()), **typed)
    assert response.status_code in (400, 404)
    text = text_of(response)
    assert "The job was not started" in text
    for line in lines:
        assert line in text
    for name in ("display_name", "identifier", "epoch_count", "batch_size", "learning_rate"):
        found = re.search(rf'name="{name}" value="([^"]*)"', response.text)
        assert found is not None
        assert html.unescape(found[1]) == typed.get(name, "")
    assert "There are none yet" in text_of(visitor.http.get("/"))


def test_a_refused_job_can_be_corrected(visitor: Visitor) -> None:
    """An id that is in use is reported, and the same page takes another one."""
    visitor.tuned("taken")
    refused = visitor.start(identifier="taken")
    assert (refused.status_code, "Id: is taken; choose another one" in text_of(refused)) == (409, True)
    assert visitor.submit(refused, identifier="free").status_code == 200
    visitor.finished("free")
    visitor.delete("taken", "free")


def test_bad_cells_are_named_by_their_line(visitor: Visitor) -> None:
    """A blank or long cell is named by file, line and column; of many the first are named and the rest is counted."""
    refused = visitor.start(table([["1", "2"], ["", "3"], ["4", "x" * 5001]]))
    assert refused.status_code == 400
    text = text_of(refused)
    assert "rows.csv:3: 'text_input' is blank; every example needs an input and an output" in text
    assert "rows.csv:4: 'output' has 5,001 characters, the limit is 5,000" in text
    long = text_of(visitor.start(table([["1", "2"], ["9" * 200, "3"]])))
    assert "rows.csv:3: the row has" in long
    assert "tokens including the chat format; the limit of models/tiny is 128" in long
    many = text_of(visitor.start(table([["1", " "]] * 30)))
    assert "rows.csv:21: 'output' is blank" in many
    assert "rows.csv:22:" not in many
    assert "and 10 more" in many


def test_what_people_write_is_no_html(visitor: Visitor) -> None:
    """Names, headers and cells are shown as they are written, and never become part of the page."""
    evil = '"><script>x()</script>'
    shown = visitor.send(table([[evil, "' onfocus='x()"]], [f"in{evil}", "out&amp;"]), f"{evil.replace('/', '')}.csv")
    started = visitor.submit(
        shown, input_column=f"in{evil}", output_column="out&amp;", display_name=evil, identifier="evil"
    )
    card = visitor.card("evil")
    refused = visitor.submit(shown, input_column=evil, display_name=evil, identifier=evil, base=evil, epoch_count=evil)
    for page in (shown, started, card, refused):
        assert "<script>x" not in page.text
        assert "' onfocus" not in page.text
    assert evil in text_of(started).replace("&quot;", '"')
    assert 'in"><script>x()</script>' in html.unescape(shown.text)
    visitor.finished("evil")
    visitor.delete("evil")


def test_cancelling(visitor: Visitor) -> None:
    """A cancelled model keeps what it learned, is marked, and warns where it can be tried."""
    visitor.start(identifier="long", epoch_count=FOREVER)
    assert "of 2,000,000 steps (0 %)" in text_of(visitor.card("long"))
    visitor.under_way("long")
    visitor.http.post("/library/long/cancel")
    visitor.finished("long")
    response = visitor.card("long")
    text = text_of(response)
    assert "FAILED, cancelled" in text
    assert "cancelled on request; the tuned model keeps what it learned by then" in text
    assert UNPREDICTABLE[1:] in text
    assert "/library/long/cancel" not in response.text
    tried = visitor.http.post("/library/long/try", data={"text": "1"})
    assert tried.text.count("<pre>") == 2
    visitor.delete("long")


def test_a_job_that_waits_can_be_cancelled_or_deleted(visitor: Visitor) -> None:
    """What waits in the queue says so; cancelled, it has nothing to be tried; deleted, it is gone at once."""
    visitor.start(identifier="first", epoch_count=FOREVER)
    visitor.under_way("first")
    visitor.start(identifier="second")
    assert "waiting in the queue" in text_of(visitor.card("second"))
    visitor.http.post("/library/second/cancel")
    visitor.finished("second")
    card = visitor.card("second")
    assert "cancelled on request, before its first step" in text_of(card)
    assert "Try it" not in text_of(card)
    visitor.delete("first", "second")
    gone = visitor.card("first")
    assert (gone.status_code, "not found" in text_of(gone)) == (404, True)


def test_deleting_is_confirmed_without_javascript(visitor: Visitor) -> None:
    """The button that deletes is inside a closed part of the page that has to be opened first."""
    visitor.tuned("doomed")
    page = visitor.http.get("/").text
    inner = re.search(r'<details class="confirm"[^>]*>(.*?)</details>', page, re.DOTALL)
    assert inner is not None
    assert page.count("/library/doomed/delete") == inner[1].count("/library/doomed/delete") == 1
    visitor.delete("doomed")


def test_other_peoples_models(visitor: Visitor, stranger: Visitor, client: Client) -> None:
    """A user who may only read a model can try it, and sees no buttons that would be refused; others do not see it."""
    visitor.tuned("shared")
    stranger.sign_in()
    assert stranger.card("shared").status_code == 404
    assert "shared" not in text_of(stranger.http.get("/"))
    with Client(str(visitor.http.base_url).rstrip("/"), visitor.secret) as owner:
        permission = {"granteeType": "USER", "emailAddress": stranger.owner, "role": "READER"}
        owner.good("POST", "/tunedModels/shared/permissions", permission)
    page = stranger.http.get("/").text
    assert 'id="model-shared"' in page
    assert "/library/shared/try" in page
    assert "/library/shared/delete" not in page
    assert "/library/shared/examples" not in page
    assert "/library/shared/edit" not in stranger.card("shared").text
    assert stranger.http.get("/library/shared/examples").status_code == 403
    for action in ("cancel", "delete", "edit", "pause", "resume"):
        refused = stranger.http.post(f"/library/shared/{action}")
        assert (refused.status_code, "ask visitor@localhost" in text_of(refused)) == (403, True)
    visitor.delete("shared")


# The box to try one


def test_trying_a_model_beside_its_base_model(visitor: Visitor) -> None:
    """Both answer the same prompt, each as over the API, and the prompt stays in its box."""
    visitor.tuned("tried", epoch_count="60", batch_size="7")
    response = visitor.http.post("/library/tried/try", data={"text": "twenty two"})
    assert response.status_code == 200
    shown = [html.unescape(text) for text in re.findall(r"<pre>(.*?)</pre>", response.text, re.DOTALL)]
    with Client(str(visitor.http.base_url).rstrip("/"), visitor.secret) as client:
        asked = [
            client.good("POST", f"/{name}:generateContent", prompt("twenty two"))["candidates"][0]
            for name in ("tunedModels/tried", "models/tiny")
        ]
    assert shown == [one["content"]["parts"][0]["text"] for one in asked]
    assert shown[0] == "twenty three"
    assert asked[1]["finishReason"] == "MAX_TOKENS"
    assert "Cut off after 256 tokens" in text_of(response)
    assert re.search(r"<textarea[^>]*>\ntwenty two</textarea>", response.text)
    visitor.delete("tried")


def test_prompts_that_are_refused(visitor: Visitor) -> None:
    """What is wrong with a prompt is shown in the box, with the prompt kept; line breaks are as in the examples."""
    visitor.tuned("asked")
    for text, problem in (("", "The prompt is empty"), ("1 " * 20_001, "the limit is 40,000"), ("1 " * 500, "tokens")):
        response = visitor.http.post("/library/asked/try", data={"text": text})
        assert response.status_code == 400
        assert problem in text_of(response)
        assert f"\n{text}</textarea>" in response.text
    broken = visitor.http.post("/library/asked/try", data={"text": "1\r\n2"})
    assert (broken.status_code, "\n1\n2</textarea>" in broken.text) == (200, True)
    visitor.delete("asked")


def test_the_temperature_of_a_prompt(visitor: Visitor) -> None:
    """A temperature is used, stays in its box, and is refused where it is none."""
    visitor.tuned("warm", epoch_count="60", batch_size="7")
    cold = visitor.http.post("/library/warm/try", data={"text": "twenty two", "temperature": "0"})
    assert (cold.status_code, 'value="0"' in cold.text, "twenty three" in text_of(cold)) == (200, True, True)
    for typed in ("2.5", "-1", "nan", "hot"):
        refused = visitor.http.post("/library/warm/try", data={"text": "1", "temperature": typed})
        assert (refused.status_code, f'value="{typed}"' in refused.text) == (400, True)
        assert "The temperature is a number from 0 to 2" in text_of(refused)
    visitor.delete("warm")


def test_a_job_of_the_openai_wire(visitor: Visitor) -> None:
    """It is shown as any other, with its name, seed and metadata, and pauses and resumes by buttons."""
    bearer = {"authorization": f"Bearer {visitor.secret}"}
    rows = "".join(
        json.dumps({"messages": [{"role": "user", "content": one}, {"role": "assistant", "content": two}]}) + "\n"
        for one, two in (("1", "2"), ("3", "4"))
    )
    with httpx.Client(base_url=visitor.http.base_url.join("/v1"), headers=bearer, timeout=60, trust_env=False) as wire:
        file = wire.post("/files", data={"purpose": "fine-tune"}, files={"file": ("a.jsonl", rows)}).json()
        asked = {
            "model": "tiny",
            "training_file": file["id"],
            "suffix": "router",
            "seed": 7,
            "metadata": {"team": "desk"},
        }
        job = wire.post("/fine_tuning/jobs", json={**asked, "hyperparameters": {"n_epochs": 100_000}}).json()
    key = visitor.service.keys.find(visitor.secret)
    assert key is not None
    (row,) = visitor.service.library.creating(key)
    card = f"/library/{row.id}"
    shown = text_of(visitor.http.get(card))
    for text in (f"OpenAI name {names.model_name(row)}", ":router:", "seed 7", "Metadata team: desk"):
        assert text in shown
    assert job["id"] == names.job_id(row)
    assert "CREATING, paused" in text_of(visitor.http.post(f"{card}/pause"))
    assert ("paused" in text_of(visitor.http.get(card)), f'id="resume-{row.id}"' in visitor.http.get(card).text) == (
        True,
        True,
    )
    assert "paused" not in text_of(visitor.http.post(f"{card}/resume"))
    assert "Row 2 User 3 Assistant 4" in text_of(visitor.http.get(f"{card}/examples"))
    visitor.delete(row.id)


# Names, rows, programs


def test_renaming_and_describing(visitor: Visitor) -> None:
    """A display name and a description are changed in place; one that is too long is refused with what was typed."""
    visitor.start(identifier="named", epoch_count=FOREVER)
    changed = visitor.http.post("/library/named/edit", data={"display_name": " Mine <3 ", "description": "one\r\ntwo"})
    assert changed.url.path == "/library/named"
    row = visitor.service.state.tuned_model("named")
    assert row is not None
    assert (row.display_name, row.description) == ("Mine <3", "one\ntwo")
    assert "Mine &lt;3" in changed.text
    refused = visitor.http.post("/library/named/edit", data={"display_name": "x" * 41, "description": "kept"})
    assert refused.status_code == 400
    assert f'value="{"x" * 41}"' in refused.text
    assert "kept</textarea>" in refused.text
    assert "40" in text_of(refused)
    visitor.delete("named")


def test_training_rows(visitor: Visitor) -> None:
    """The rows of a model are shown page by page, with what the data checks find in all of them."""
    rows = [[f"{number} <i>", f"out {number}"] for number in range(44)]
    visitor.start(table([*rows, rows[0]]), identifier="rows", epoch_count=FOREVER)
    first, last = (visitor.http.get(f"/library/rows/examples?page={page}") for page in (1, 99))
    assert "45 rows" in text_of(first)
    assert [text in text_of(first) for text in ("Row 1 User 0 <i> Assistant out 0", "Row 20 ", "Row 21 ")] == [
        True,
        True,
        False,
    ]
    assert "exact duplicates among the training examples (1): row 1 and row 45" in text_of(first)
    assert ("Page 3 of 3" in text_of(last), "Row 45 User 0 <i> Assistant out 0" in text_of(last)) == (True, True)
    visitor.delete("rows")


def test_programs_of_every_client(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page of a model has a program for each client with this service's address; the first one runs as it is."""
    visitor.tuned("coded", epoch_count="60", batch_size="7")
    page = visitor.card("coded")
    row = visitor.service.state.tuned_model("coded")
    assert row is not None
    programs = [html.unescape(text) for text in re.findall(r'<pre id="code-[^>]*>(.*?)</pre>', page.text, re.DOTALL)]
    address = str(visitor.http.base_url).rstrip("/")
    assert len(programs) == 4
    assert all(address in program for program in programs)
    assert [names.model_name(row) in program for program in programs] == [True, True, False, False]
    assert ["tunedModels/coded" in program for program in programs] == [False, False, True, True]
    assert names.model_name(row) in text_of(page)
    monkeypatch.setenv(KEY_VARIABLE, visitor.secret)
    exec(programs[0].replace('"Hello"', '"twenty two"'), {})  # noqa: S102 - what a user would paste
    assert capsys.readouterr().out == "twenty three\n"
    visitor.delete("coded")


# Two tuned models


def test_comparing_two_models(visitor: Visitor) -> None:
    """One prompt is answered by two tuned models side by side, under the curves of both."""
    for identifier, epochs in (("left", "60"), ("right", "1")):
        visitor.tuned(identifier, epoch_count=epochs, batch_size="7")
    shown = visitor.http.get("/compare?one=left&other=right")
    assert shown.status_code == 200
    assert shown.text.count("<tbody") == 2
    chosen = {"one": "left", "other": "right"}
    asked = visitor.http.post("/compare", data={**chosen, "text": "twenty two", "temperature": "0"})
    answers = re.findall(r"<pre>(.*?)</pre>", asked.text, re.DOTALL)
    assert (len(answers), answers[0]) == (2, "twenty three")
    assert "First tunedModels/left" in text_of(asked)
    assert "Second tunedModels/right" in text_of(asked)
    empty = visitor.http.post("/compare", data={**chosen, "text": ""})
    assert (empty.status_code, "The prompt is empty" in text_of(empty)) == (400, True)
    alone = visitor.http.post("/compare", data={"one": "left", "text": "1"})
    assert (alone.status_code, "Choose two tuned models" in text_of(alone)) == (400, True)
    assert visitor.http.get("/compare?one=left&other=none").status_code == 404
    assert visitor.http.post("/compare", data={"one": "left", "other": "none", "text": "1"}).status_code == 404
    visitor.delete("left", "right")


# Progress


def test_progress(visitor: Visitor) -> None:
    """A running job shows its steps and its curve, thinned to a size that can be sent each second."""
    visitor.start(identifier="slow", epoch_count=FOREVER)

    def now() -> httpx.Response:
        return visitor.http.get("/progress")

    wait_until(lambda: now().json()["slow"]["steps"] > MAX_POINTS, "more steps than are shown")
    found = now().json()["slow"]
    steps = [point[0] for point in found["curve"]]
    assert (len(steps), steps[0], steps[-1]) == (MAX_POINTS, 1, found["steps"])
    assert steps == sorted(set(steps))
    assert found["loss"] == f"{found['curve'][-1][2]:.4f}"
    assert found["progress"].startswith(f"{found['steps']:,} of ")
    visitor.http.post("/library/slow/cancel")
    visitor.finished("slow")
    assert now().json() == {}
    visitor.delete("slow")
