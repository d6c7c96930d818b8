"""A locked database, a full disk, ten thousand tuned models, a clock that is set back, a session that ends."""

from __future__ import annotations

import re
import resource
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.rigs.running_service import RunningService
from tests.service.client import Client, body, prompt
from tests.service.visitor import Visitor, table, text_of
from tunerun.job import Snapshot
from tunerun.service.app import Settings
from tunerun.service.core.database import FILE_NAME
from tunerun.service.core.records import FileRow, ModelState
from tunerun.service.core.state import State
from tunerun.service.middleware import COOKIE
from tunerun.service.page.view_models import MAX_CARDS
from tunerun.testing.waiting import wait_until

MANY = 10_000


@pytest.fixture(scope="module")
def own(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with RunningService(replace(settings, state=tmp_path_factory.mktemp("own") / "state")) as running:
        yield running


@pytest.fixture
def client(own: RunningService) -> Iterator[Client]:
    with Client(own.address, own.key.secret) as client:
        yield client


@pytest.fixture
def visitor(own: RunningService) -> Iterator[Visitor]:
    with Visitor(own, own.key.secret, own.key.owner) as visitor:
        visitor.sign_in()
        yield visitor


def check_refused_for_now(response: httpx.Response) -> None:
    assert response.status_code == 503, response.text
    assert int(response.headers["retry-after"]) > 0
    assert "database is temporarily unavailable" in text_of(response)
    assert "service.db" not in response.text


def test_a_locked_database_is_a_503_with_retry_after(own: RunningService, client: Client, visitor: Visitor) -> None:
    """In JSON and as a page; requests that only read are answered, and all of them once it is unlocked."""
    own.service.state.database.rows("PRAGMA busy_timeout = 100")
    with closing(sqlite3.connect(own.state / FILE_NAME, isolation_level=None)) as another:
        another.execute("BEGIN IMMEDIATE")
        response = client.call("POST", "/tunedModels", body(epochCount=1), tunedModelId="locked")
        check_refused_for_now(response)
        assert response.json()["error"]["status"] == "UNAVAILABLE"
        check_refused_for_now(visitor.send(table()))
        assert client.good("GET", "/tunedModels") == {}
        another.execute("ROLLBACK")
    assert client.tuned("locked", epochCount=1)["state"] == "ACTIVE"
    client.good("DELETE", "/tunedModels/locked")


def test_a_full_disk_is_a_503_with_retry_after(own: RunningService, client: Client, visitor: Visitor) -> None:
    """Nothing is lost: a running job continues when there is room again, with every step recorded."""
    client.good("POST", "/tunedModels", body(epochCount=60), tunedModelId="full")
    wait_until(lambda: client.steps("full") > 2, "steps are taken")
    database = own.service.state.database
    database.rows(f"PRAGMA max_page_count = {database.rows('PRAGMA page_count')[0][0]}")
    check_refused_for_now(visitor.send(table([["x" * 4000, "2"]] * 100)))
    check_refused_for_now(client.call("POST", "/tunedModels", body([{"textInput": "1" * 90, "output": "2"}] * 5000)))
    assert client.good("GET", "/tunedModels")["tunedModels"][0]["state"] == "CREATING"
    database.rows("PRAGMA max_page_count = 1000000")
    assert client.finished("full")["state"] == "ACTIVE"
    assert client.steps("full") == 180
    client.good("DELETE", "/tunedModels/full")


@pytest.mark.usefixtures("own_engines")
def test_a_tuned_model_that_does_not_fit_on_the_disk(settings: Settings, tmp_path: Path) -> None:
    """Its job fails with the reason, and the next one is tuned when there is room again."""
    own = RunningService(replace(settings, state=tmp_path / "state"))
    with own, Client(own.address, own.key.secret) as client:
        client.tuned("before", epochCount=1)
        process = own.service.tuner._engines.engine_process_id
        assert process is not None
        limits = resource.prlimit(process, resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
        assert client.tuned("none", epochCount=1)["state"] == "FAILED"
        resource.prlimit(process, resource.RLIMIT_FSIZE, limits)
        message = client.operation("none")["error"]["message"]
        assert "too large" in message
        assert str(own.state) not in message
        assert client.tuned("after", epochCount=1)["state"] == "ACTIVE"


def test_ten_thousand_tuned_models(own: RunningService, client: Client, visitor: Visitor) -> None:
    """The list has each once, the page shows the newest with links to the rest, and a new job starts at once."""
    client.tuned("first", epochCount=1)
    names = ", ".join(n for n in columns_of(own.service.state) if n not in ("number", "id", "key", "folder", "state"))
    with own.service.state.database.transaction() as file:
        file.write(
            f"INSERT INTO tuned_model (id, key, folder, state, {names}) WITH RECURSIVE n(i) AS "
            f"(SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {MANY}) SELECT 'many-' || i, 'k' || i, 'f' || i, "
            f"iif(i % 2, 'ACTIVE', 'CREATING'), {names} FROM n, tuned_model WHERE id = 'first' ORDER BY i"
        )
        file.write("UPDATE tuned_model SET base_model = 'gone' WHERE state = 'CREATING'")
        file.write(
            "INSERT INTO permission SELECT m.id, 'p', p.grantee, p.email, p.role, p.created_at "
            "FROM tuned_model m, permission p WHERE p.tuned_model = 'first' AND m.id != 'first'"
        )
    names_of_pages: list[str] = []
    page = client.good("GET", "/tunedModels", pageSize=1000)
    while page:
        names_of_pages += [model["name"] for model in page["tunedModels"]]
        token = page.get("nextPageToken")
        page = client.good("GET", "/tunedModels", pageSize=1000, pageToken=token) if token else {}
    assert names_of_pages == ["tunedModels/first", *(f"tunedModels/many-{i}" for i in range(1, MANY + 1))]
    first_page = visitor.http.get("/")
    assert first_page.text.count("<article") == MAX_CARDS
    assert f'id="model-many-{MANY}"' in first_page.text
    older = visitor.http.get(re.findall(r'href="(/\?before=\d+)"', first_page.text)[0])
    assert f'id="model-many-{MANY - MAX_CARDS}"' in older.text
    assert older.text.count("<article") == MAX_CARDS
    first = own.service.state.tuned_model("first")
    assert first is not None
    last = visitor.http.get(f"/?before={first.number + 1}")
    assert last.text.count("<article") == 1
    assert "Older ones" not in last.text
    assert len(visitor.http.get("/progress").json()) == MANY / 2
    assert visitor.send(table()).text.count('<option value="tunedModels/') == 200
    assert client.tuned("new", epochCount=1)["state"] == "ACTIVE"
    for invalid in ("-1", "x", "9" * 30):
        assert visitor.http.get(f"/?before={invalid}").status_code == 400
    own.service.state.database.write("DELETE FROM tuned_model")


def columns_of(state: State) -> list[str]:
    return [row["name"] for row in state.database.rows("PRAGMA table_info(tuned_model)")]


def test_a_clock_that_is_set_back(own: RunningService, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """No time is before that of an earlier event, and the order stays that of creation."""
    state = own.service.state
    for number in range(3):
        state.add_file(FileRow(f"f{number}", "a@b", "rows.csv", b""), 3)
    client.good("POST", "/tunedModels", body(epochCount=1_000_000), tunedModelId="back")
    wait_until(lambda: client.steps("back") > 1, "steps are taken")
    back = time.time() - 86_400
    monkeypatch.setattr(time, "time", lambda: back)
    state.add_file(FileRow("newest", "a@b", "rows.csv", b""), 2)
    assert [state.file(name, "a@b") is not None for name in ("f0", "f1", "f2", "newest")] == [False, False, True, True]
    client.good("PATCH", "/tunedModels/back", {"displayName": "New"})
    client.good("POST", "/tunedModels/back:cancel", {})
    tuned = client.finished("back")
    times = [tuned["createTime"], tuned["tuningTask"]["startTime"], tuned["tuningTask"]["completeTime"]]
    assert times == sorted(times)
    assert tuned["createTime"] <= tuned["updateTime"]
    added = client.good("POST", "/tunedModels/back/permissions", {"granteeType": "EVERYONE", "role": "READER"})
    assert client.good("GET", "/tunedModels/back/permissions")["permissions"][-1] == added
    assert visitor_key_works(own)
    client.good("DELETE", "/tunedModels/back")


def visitor_key_works(own: RunningService) -> bool:
    key = own.service.keys.add("late@localhost", own.key.scopes)
    with Client(own.address, key.secret) as client:
        return "models" in client.good("GET", "/models")


def test_a_session_that_has_ended(settings: Settings, own: RunningService) -> None:
    """Pages, forms and progress ask for the key again, and nothing that was sent takes effect."""
    with RunningService(replace(settings, state=own.state.parent / "short"), session_life_s=0) as short:
        signed_in = httpx.post(f"{short.address}/sign-in", data={"key": short.key.secret}, trust_env=False, timeout=60)
        cookie = {COOKIE: re.findall(rf"{COOKIE}=([^;]+)", signed_in.headers["set-cookie"])[0]}
        with httpx.Client(base_url=short.address, cookies=cookie, trust_env=False) as http:
            assert "You are signed out" in text_of(http.get("/"))
            for method, path in (("GET", "/progress"), ("GET", "/library/x"), ("POST", "/files"), ("POST", "/files/x/tune"),
                                 ("POST", "/library/x/try"), ("POST", "/library/x/delete")):  # fmt: skip
                response = http.request(method, path, data={"text": "1"} if method == "POST" else None)
                assert response.status_code == 401
                assert "You are signed out" in text_of(response)


def test_a_model_that_is_deleted_while_it_answers(client: Client, own: RunningService) -> None:
    """The running answer is completed, later prompts are not found, and its folder is removed."""
    client.tuned("going", epochCount=1)
    payload = prompt("1", maxOutputTokens=100, temperature=2.0, seed=1)
    path = "/tunedModels/going:streamGenerateContent?alt=sse"
    with client.http.stream("POST", path, json=payload) as response:
        lines = response.iter_lines()
        next(lines)
        client.good("DELETE", "/tunedModels/going")
        rest = "".join(lines)
    assert response.status_code == 200
    assert '"error"' not in rest
    client.refused(404, "POST", "/tunedModels/going:generateContent", payload)
    wait_until(lambda: not own.service.state.leftovers(), "its folder is gone")
    assert not list((own.state / "tuned_models").glob("going-*"))


def test_the_first_record_of_a_step_and_of_an_end_wins(own: RunningService, client: Client) -> None:
    """A step of a curve stays as it was first recorded, and a job that has ended stays as it ended."""
    client.tuned("once", epochCount=1)
    row = own.service.state.tuned_model("once")
    assert row is not None
    before = own.service.library.curve(row)
    own.service.state.record(row.key, [Snapshot(1, 1, 99.0, 0.0)])
    own.service.state.finish(row.key, ModelState.FAILED, can_answer=False)
    assert own.service.library.curve(row) == before
    assert client.good("GET", "/tunedModels/once")["state"] == "ACTIVE"
    client.good("DELETE", "/tunedModels/once")
