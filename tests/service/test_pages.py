"""The page "My library" without JavaScript: signing in and out, and what protects it."""

from __future__ import annotations

import re

import pytest

from tests.rigs.running_service import RunningService
from tests.service.visitor import Visitor, table, text_of, visiting
from tunerun.service.middleware import COOKIE


def test_a_key_signs_in_and_a_button_signs_out(stranger: Visitor) -> None:
    """The cookie does not contain the key, and scripts cannot read it."""
    signed_out = stranger.http.get("/")
    assert signed_out.status_code == 200
    assert 'type="password"' in signed_out.text
    assert "You are signed out" not in signed_out.text
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
    for text in (cookie, signed_out.text, response.text):
        assert stranger.secret not in text


@pytest.mark.parametrize("key", ["", "wrong", "ключ", "a" * 3_000])
def test_an_invalid_key_is_refused(stranger: Visitor, key: str) -> None:
    """The response neither repeats it nor sets a cookie."""
    response = stranger.http.post("/sign-in", data={"key": key})
    assert response.status_code == 401
    assert "This API key is not valid" in text_of(response)
    assert "set-cookie" not in response.headers
    assert not key or key not in response.text


def test_a_key_without_the_scope_is_refused(running: RunningService) -> None:
    """The page says that the key may not tune."""
    with visiting(running, "poor@localhost", ["https://www.googleapis.com/auth/other"]) as visitor:
        response = visitor.sign_in()
    assert response.status_code == 403
    assert "has no scope for tuning" in text_of(response)


def test_a_revoked_key_signs_out(running: RunningService) -> None:
    """At the next request."""
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
def test_every_other_path_requires_a_session(stranger: Visitor, method: str, path: str) -> None:
    """Without one the form to sign in is shown; an API key in a header is ignored."""
    response = stranger.http.request(method, path, headers={"x-goog-api-key": stranger.secret})
    assert response.status_code == 401
    assert 'type="password"' in response.text


def test_every_response_has_security_headers(visitor: Visitor, stranger: Visitor) -> None:
    """Only the page's own scripts and styles, no frames, no sniffing, no cache; errors have them too."""
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


def test_every_file_that_a_page_loads_exists(visitor: Visitor) -> None:
    """Scripts, styles and pictures come from the service itself; those of others have their licence beside them."""
    named = set(re.findall(r'(?:src|href)="(/static/[^"]*)"', visitor.http.get("/").text))
    assert len(named) == 5
    licence = next(path for path in named if "vendor" in path).rpartition("/")[0] + "/LICENSE"
    for path in [*named, "/static/chart.js", licence]:
        answer = visitor.http.get(path)
        assert (answer.status_code, answer.headers["x-content-type-options"]) == (200, "nosniff")


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://elsewhere.example", 403),
        ("http://127.0.0.1:1", 403),
        ("null", 403),
        ("", 403),
        ("x" * 9999, 403),
        ("http://[::1", 400),
        ("http://[x]", 400),
    ],
)
def test_a_form_of_another_site_is_refused(visitor: Visitor, origin: str, status: int) -> None:
    """Even if it has the cookie; a malformed Origin is the client's error."""
    response = visitor.http.post("/files", files={"file": ("a.csv", table())}, headers={"origin": origin})
    assert response.status_code == status
    assert ("sent from another site" if status == 403 else "Origin is malformed") in text_of(response)
    assert visitor.http.post("/sign-out", headers={"origin": origin}).status_code == status
    own = str(visitor.http.base_url).rstrip("/")
    assert visitor.http.post("/files", files={"file": ("a.csv", table())}, headers={"origin": own}).status_code == 200


def test_a_malformed_form_is_refused(visitor: Visitor) -> None:
    """With a page, not with an internal error."""
    response = visitor.http.post("/files", content=b"x", headers={"content-type": "multipart/form-data"})
    assert response.status_code == 400
    assert "send it again" in text_of(response)
