"""Sessions of the page: how they start, expire and end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunerun.service.core.credentials import TUNING_SCOPE, Key, KeyFile
from tunerun.service.core.problems import ServiceError
from tunerun.service.page.sessions import Sessions


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "keys.json")


@pytest.fixture
def key(keys: KeyFile) -> Key:
    return keys.add("me@localhost", [TUNING_SCOPE])


def test_a_session_finds_its_key(keys: KeyFile, key: Key) -> None:
    """Its id is random and does not contain the key; it finds the key until the session is ended."""
    sessions = Sessions(keys)
    first, second = sessions.start(key.secret), sessions.start(key.secret)
    assert len({first, second, key.secret}) == 3
    assert sessions.key(first) == key
    sessions.end(first)
    sessions.end("none")
    with pytest.raises(ServiceError, match="You are signed out"):
        sessions.key(first)
    assert sessions.key(second) == key


def test_a_session_expires(keys: KeyFile, key: Key) -> None:
    """After its lifetime it does not find its key."""
    sessions = Sessions(keys, life_s=0)
    with pytest.raises(ServiceError, match="You are signed out"):
        sessions.key(sessions.start(key.secret))


def test_the_oldest_session_is_ended_at_the_limit(keys: KeyFile, key: Key) -> None:
    """So that sessions cannot fill the memory."""
    sessions = Sessions(keys, most=2)
    first, *others = [sessions.start(key.secret) for _ in range(3)]
    with pytest.raises(ServiceError, match="You are signed out"):
        sessions.key(first)
    assert [sessions.key(each) for each in others] == [key, key]


def test_a_revoked_key_ends_its_sessions(keys: KeyFile, key: Key) -> None:
    """A revoked key cannot start one either."""
    sessions = Sessions(keys)
    session = sessions.start(key.secret)
    keys.revoke(key.id)
    with pytest.raises(ServiceError, match="its key was revoked"):
        sessions.key(session)
    with pytest.raises(ServiceError, match="not valid"):
        sessions.start(key.secret)


def test_a_key_without_the_scope_is_refused(keys: KeyFile) -> None:
    """The error names the key and the missing scope."""
    key = keys.add("me@localhost", ["https://www.googleapis.com/auth/other"])
    with pytest.raises(ServiceError, match=f"The key {key.id} has no scope for tuning"):
        Sessions(keys).start(key.secret)
