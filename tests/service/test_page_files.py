"""The page without JavaScript: files that visitors upload, and the jobs that are started from them."""

from __future__ import annotations

import html
import re

import pytest

from tests.service.visitor import Visitor, table, text_of
from tunerun.service.page.pages import KEPT_FILES
from tunerun.service.page.uploads import MAX_FILE_BYTES


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
    """In every format, with its columns and first rows, two columns chosen, and a warning if it has few rows."""
    response = visitor.send(content, name)
    assert (response.status_code, response.url.path[:7]) == (200, "/files/")
    text = text_of(response)
    assert f"{name} 2 rows All of them note answer x one y two 2 training examples; the Gemini API's" in text
    chosen = re.findall(r'<option value="([^"]*)" selected>', response.text)
    assert chosen == ["note", "answer"]
    assert visitor.http.get(response.url.path).text == response.text


def test_a_long_file_is_shown_in_part(visitor: Visitor) -> None:
    """The first ten of many rows are shown, without a warning about their number."""
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
def test_an_invalid_file_is_refused(visitor: Visitor, name: str, content: bytes, line: str) -> None:
    """The problem is shown beside the form that sent it, with the line."""
    response = visitor.send(content, name)
    assert response.status_code == 400
    assert line in text_of(response)
    assert 'id="file"' in response.text
    assert "<b>" not in response.text


def test_a_form_without_a_file_is_refused(visitor: Visitor) -> None:
    """Also if it has an empty file name, as browsers send it."""
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename=""\r\n\r\n\r\n--x--\r\n'
    response = visitor.http.post("/files", content=body, headers={"content-type": "multipart/form-data; boundary=x"})
    assert (response.status_code, "no file was chosen" in text_of(response)) == (400, True)
    assert visitor.http.post("/files").status_code == 400


def test_only_the_newest_files_are_kept(visitor: Visitor, stranger: Visitor) -> None:
    """An older one has to be sent again; users do not see each other's files."""
    paths = [visitor.send(table()).url.path for _ in range(KEPT_FILES + 1)]
    gone = visitor.http.get(paths[0])
    assert (gone.status_code, "send it again" in text_of(gone)) == (404, True)
    assert [visitor.http.get(path).status_code for path in paths[1:]] == [200] * KEPT_FILES
    stranger.sign_in()
    assert stranger.http.get(paths[-1]).status_code == 404


def test_a_file_becomes_a_tuned_model(visitor: Visitor) -> None:
    """The chosen columns become its examples, and empty fields mean the defaults; the library shows its progress."""
    rows = [["a note", one, two] for one, two in (("1", "2"), ("3", "4"), ("one", "two"))]
    response = visitor.send(table(rows, ["note", "question", "answer"]))
    started = visitor.submit(
        response, input_column="question", output_column="answer", display_name="Next number", identifier="next-number"
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
    """A link reads the first line as a row, and so does the form on that page."""
    response = visitor.send(table([["3", "4"]], ["1", "2"]))
    assert "it looks like a row" in text_of(response)
    response = visitor.http.get(f"{response.url.path}?header=no")
    assert "2 rows" in text_of(response)
    assert "it looks like a row" not in text_of(response)
    action = re.findall(r'action="(/files/[^"]*)"', response.text)[0]
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


def test_columns_of_any_name_can_be_chosen(visitor: Visitor) -> None:
    """Empty names, names with line breaks, which browsers change, and names with quotes."""
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
    """Every problem is shown with the label of its field, and every field has its value."""
    typed = {"display_name": "My <model>", "epoch_count": "7", "learning_rate": "0.5"} | typed
    response = visitor.submit(visitor.send(table()), **typed)
    assert response.status_code in (400, 404)
    text = text_of(response)
    assert "The job was not started" in text
    for line in lines:
        assert line in text
    for name in ("display_name", "identifier", "epoch_count", "batch_size", "learning_rate"):
        match = re.search(rf'name="{name}" value="([^"]*)"', response.text)
        assert match is not None
        assert html.unescape(match[1]) == typed.get(name, "")
    assert "There are none yet" in text_of(visitor.http.get("/"))


def test_a_refused_job_can_be_corrected(visitor: Visitor) -> None:
    """An id that is in use is reported, and the same page accepts another one."""
    visitor.tuned("taken")
    refused = visitor.start(identifier="taken")
    assert (refused.status_code, "Id: is taken; choose another one" in text_of(refused)) == (409, True)
    assert visitor.submit(refused, identifier="free").status_code == 200
    visitor.finished("free")
    visitor.delete("taken", "free")


def test_invalid_cells_are_named_by_their_line(visitor: Visitor) -> None:
    """By file, line and column; the first ones are named, and the others are counted."""
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


def test_text_of_users_is_escaped(visitor: Visitor) -> None:
    """Names, headers and cells are shown as they were typed, and never become HTML."""
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
