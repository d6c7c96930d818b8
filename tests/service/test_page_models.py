"""The page without JavaScript: the life of a tuned model, from its progress to its deletion."""

from __future__ import annotations

import json
import re

import httpx

from tests.service.client import Client
from tests.service.visitor import FOREVER, Visitor, table, text_of
from tunerun.service.core.model_calls import UNPREDICTABLE
from tunerun.service.openai import names
from tunerun.service.page.view_models import MAX_POINTS
from tunerun.testing.waiting import wait_until


def test_a_cancelled_model_can_still_answer(visitor: Visitor) -> None:
    """It keeps what it has learned, is marked as cancelled, and has a warning."""
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
    response = visitor.http.post("/library/long/try", data={"text": "1"})
    assert response.text.count("<pre>") == 2
    visitor.delete("long")


def test_a_queued_job_can_be_cancelled_or_deleted(visitor: Visitor) -> None:
    """Its state is shown; a job that is cancelled before its first step has no model to try."""
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
    """The button is in a closed part of the page, which has to be opened first."""
    visitor.tuned("doomed")
    page = visitor.http.get("/").text
    inner = re.search(r'<details class="confirm"[^>]*>(.*?)</details>', page, re.DOTALL)
    assert inner is not None
    assert page.count("/library/doomed/delete") == inner[1].count("/library/doomed/delete") == 1
    visitor.delete("doomed")


def test_a_reader_sees_a_shared_model_without_buttons(visitor: Visitor, stranger: Visitor, client: Client) -> None:
    """A reader can try it; actions that would be refused are not offered; other users do not see the model."""
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


def test_a_job_of_the_openai_wire_is_shown(visitor: Visitor) -> None:
    """With its name, seed and metadata, and with buttons to pause and resume it."""
    bearer = {"authorization": f"Bearer {visitor.secret}"}
    rows = "".join(
        json.dumps({"messages": [{"role": "user", "content": one}, {"role": "assistant", "content": two}]}) + "\n"
        for one, two in (("1", "2"), ("3", "4"))
    )
    with httpx.Client(base_url=visitor.http.base_url.join("/v1"), headers=bearer, timeout=60, trust_env=False) as wire:
        file = wire.post("/files", data={"purpose": "fine-tune"}, files={"file": ("a.jsonl", rows)}).json()
        request = {
            "model": "tiny",
            "training_file": file["id"],
            "suffix": "router",
            "seed": 7,
            "metadata": {"team": "desk"},
        }
        job = wire.post("/fine_tuning/jobs", json={**request, "hyperparameters": {"n_epochs": 100_000}}).json()
    key = visitor.service.keys.find(visitor.secret)
    assert key is not None
    (row,) = visitor.service.library.creating(key)
    card = f"/library/{row.id}"
    text_of_card = text_of(visitor.http.get(card))
    for text in (f"OpenAI name {names.model_name(row)}", ":router:", "seed 7", "Metadata team: desk"):
        assert text in text_of_card
    assert job["id"] == names.job_id(row)
    assert "CREATING, paused" in text_of(visitor.http.post(f"{card}/pause"))
    assert ("paused" in text_of(visitor.http.get(card)), f'id="resume-{row.id}"' in visitor.http.get(card).text) == (
        True,
        True,
    )
    assert "paused" not in text_of(visitor.http.post(f"{card}/resume"))
    assert "Row 2 User 3 Assistant 4" in text_of(visitor.http.get(f"{card}/examples"))
    visitor.delete(row.id)


def test_a_model_is_renamed_and_described(visitor: Visitor) -> None:
    """A name that is too long is refused, and stays in its field."""
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


def test_training_rows_are_shown_by_page(visitor: Visitor) -> None:
    """With the findings of the data checks on all rows."""
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


def test_progress_of_a_running_job(visitor: Visitor) -> None:
    """Its steps and its curve, which has few enough points to be sent every second."""
    visitor.start(identifier="slow", epoch_count=FOREVER)

    def now() -> httpx.Response:
        return visitor.http.get("/progress")

    wait_until(lambda: now().json()["slow"]["steps"] > MAX_POINTS, "more steps than are shown")
    progress = now().json()["slow"]
    steps = [point[0] for point in progress["curve"]]
    assert (len(steps), steps[0], steps[-1]) == (MAX_POINTS, 1, progress["steps"])
    assert steps == sorted(set(steps))
    assert progress["loss"] == f"{progress['curve'][-1][2]:.4f}"
    assert progress["progress"].startswith(f"{progress['steps']:,} of ")
    visitor.http.post("/library/slow/cancel")
    visitor.finished("slow")
    assert now().json() == {}
    visitor.delete("slow")
