"""Sessions of the page, in memory: a restart of the service signs everyone out."""

from __future__ import annotations

import secrets
import threading
import time

from tunerun.service.core.credentials import Key, KeyFile
from tunerun.service.core.problems import Code, ServiceError

MAX_SESSIONS = 1000
"""The most open sessions; one more ends the oldest."""

LIFE_S = 12 * 3600
"""A working day, after which the key has to be entered again."""

SESSION_ENDED = "SESSION_ENDED"
SCOPE_MISSING = "ACCESS_TOKEN_SCOPE_INSUFFICIENT"
KEY_WRONG = "API_KEY_INVALID"
"""Reasons of a ServiceError after which the visitor has to sign in."""


class Sessions:
    """Sessions by random ids, which reveal nothing of the keys. May be used from any thread.

    Args:
        keys: looked up each time, so that revoking a key ends its sessions.
        most: the limit of open sessions.
        life_s: seconds until a session expires.
    """

    def __init__(self, keys: KeyFile, most: int = MAX_SESSIONS, life_s: float = LIFE_S) -> None:
        self.life_s = life_s
        self._keys = keys
        self._most = most
        self._lock = threading.Lock()
        self._sessions: dict[str, tuple[Key, float]] = {}
        """The key of each session, and when it expires on the monotonic clock; the oldest session first."""

    def start(self, secret: str) -> str:
        """Sign in with a key's secret, and return the id of the session.

        Raises:
            ServiceError: no key has that secret, or its scopes do not allow tuning.
        """
        key = self._keys.find(secret)
        if key is None:
            words = "This API key is not valid. Copy it again from the service's key file, or ask who runs the service."
            raise ServiceError(Code.UNAUTHENTICATED, words, reason=KEY_WRONG)
        _check_scope(key)
        identifier = secrets.token_urlsafe(32)
        with self._lock:
            now = time.monotonic()
            # Only here: a session that is never used again is not looked up, and `key` checks the time itself.
            self._sessions = {i: session for i, session in self._sessions.items() if session[1] > now}
            while len(self._sessions) >= self._most:
                del self._sessions[next(iter(self._sessions))]
            self._sessions[identifier] = (key, now + self.life_s)
        return identifier

    def key(self, identifier: str) -> Key:
        """Return the key of a session, as the key file has it now.

        Raises:
            ServiceError: the session has expired, or its key was revoked or may no longer tune.
        """
        with self._lock:
            session = self._sessions.get(identifier)
        key = None  # found by its secret: the id of a revoked key could be given to a new one
        if session is not None and session[1] > time.monotonic():
            key = self._keys.find(session[0].secret)
        if key is None:
            self.end(identifier)
            words = "You are signed out: the session is over, or its key was revoked. Sign in again."
            raise ServiceError(Code.UNAUTHENTICATED, words, reason=SESSION_ENDED)
        _check_scope(key)
        return key

    def is_open(self, identifier: str) -> bool:
        """Whether the session of an id is open."""
        try:
            self.key(identifier)
        except ServiceError:
            return False
        return True

    def end(self, identifier: str) -> None:
        """End a session; an unknown id is ignored."""
        with self._lock:
            self._sessions.pop(identifier, None)


def _check_scope(key: Key) -> None:
    if not key.may_tune:
        words = (
            f"The key {key.id} has no scope for tuning, so it cannot open a library. "
            "Use another key, or ask who runs the service for one: tunerun serve keys add --scope tuning."
        )
        raise ServiceError(Code.PERMISSION_DENIED, words, reason=SCOPE_MISSING)
