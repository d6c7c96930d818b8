"""API keys, with owners and scopes, in a file that only its owner can read."""

from __future__ import annotations

import hmac
import json
import os
import secrets
import stat
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from tunerun.errors import ConfigError, NotFoundError
from tunerun.files import replacing

TUNING_SCOPE = "https://www.googleapis.com/auth/generative-language.tuning"
CLOUD_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
ALLOW_TUNING = frozenset({TUNING_SCOPE, CLOUD_SCOPE})
"""Either scope allows the methods of tuned models, as the Gemini API's tuning guide says of its OAuth tokens."""

FIRST_OWNER = "me@localhost"
_SECRET_BYTES = 32  # 256 bits cannot be guessed, however many keys a caller tries


@dataclass(frozen=True, repr=False)
class Key:
    """An API key. A client may send it as an API key or as a bearer token.

    Attributes:
        id: the public identifier, used to list and revoke keys and in logs.
        secret: the value that clients send. Never logged.
        owner: e-mail address to which permissions are granted.
        scopes: OAuth scopes that the key holds.
        created_at: in seconds since 1970 (UTC).
    """

    id: str
    secret: str
    owner: str
    scopes: tuple[str, ...]
    created_at: float

    @property
    def may_tune(self) -> bool:
        """Whether the key may call the methods of tuned models."""
        return not ALLOW_TUNING.isdisjoint(self.scopes)

    def __repr__(self) -> str:
        return f"Key({self.id}, {self.owner})"


class KeyFile:
    """The key file. Each read checks it for changes by other processes, so a revoked key is refused at once.

    Args:
        path: the file; `make` creates it with one key for `FIRST_OWNER`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._read_of: tuple[int, ...] = ()
        self._keys: tuple[Key, ...] = ()

    def make(self) -> bool:
        """Create the file with a first key unless it exists; return whether it was created."""
        with self._changing():
            if self.path.exists():
                return False
            self._write([_new(FIRST_OWNER, [TUNING_SCOPE], [])])
            return True

    def keys(self) -> tuple[Key, ...]:
        """Return all keys, oldest first.

        Raises:
            ConfigError: other users can read the file, or its content is not valid.
        """
        with self._lock:
            try:
                state = self.path.stat()
                # The time alone is not enough: two writes within a tick of the file system's clock have the same one.
                version = (state.st_mtime_ns, state.st_ino, state.st_size)
                if version != self._read_of:
                    self._keys = _read(self.path, state)
                    self._read_of = version
            except FileNotFoundError:
                self._keys, self._read_of = (), ()
            return self._keys

    def find(self, secret: str) -> Key | None:
        """Return the key with a secret; None: there is none."""
        valid = None
        # All keys are compared, each in constant time, so that timing does not reveal a near match. As bytes:
        # `compare_digest` refuses texts beyond ASCII, which a header may have.
        for key in self.keys():
            if hmac.compare_digest(key.secret.encode(), secret.encode("utf-8", "surrogatepass")):
                valid = key
        return valid

    def add(self, owner: str, scopes: Iterable[str]) -> Key:
        """Add a key for an owner, and return it.

        Args:
            owner: an e-mail address.
            scopes: OAuth scopes of the key; empty: it can only ask for answers.

        Raises:
            ConfigError: the owner is not an e-mail address, or the file cannot be used; see `keys`.
        """
        with self._changing():
            keys = list(self.keys())
            key = _new(owner, scopes, keys)
            self._write([*keys, key])
            return key

    def revoke(self, identifier: str) -> Key:
        """Remove a key, and return it; requests with it are refused at once.

        Raises:
            NotFoundError: no key has that id.
        """
        with self._changing():
            keys = {key.id: key for key in self.keys()}
            if identifier not in keys:
                raise NotFoundError(
                    f"{identifier}: no key has this id in {self.path}; keys: {', '.join(keys) or 'none'}"
                )
            revoked = keys.pop(identifier)
            self._write(keys.values())
            return revoked

    def _changing(self) -> FileLock:
        # `tunerun serve keys` may be called twice at once, or while the service starts: a key would be lost.
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self.path.with_suffix(".lock"))

    def _write(self, keys: Iterable[Key]) -> None:
        with replacing(self.path) as aside:
            aside.unlink(missing_ok=True)
            aside.touch(mode=0o600, exist_ok=False)  # private before the keys are in it
            aside.write_text(json.dumps({"keys": [asdict(key) for key in keys]}, indent=1), encoding="utf-8")


def _new(owner: str, scopes: Iterable[str], others: Iterable[Key]) -> Key:
    if owner.count("@") != 1 or not all(owner.split("@")) or not owner.isprintable() or " " in owner:
        raise ConfigError(f"{owner!r}: an owner is an e-mail address, such as {FIRST_OWNER}")
    taken = {key.id for key in others}
    identifier = next(i for i in iter(lambda: f"k{secrets.token_hex(3)}", "") if i not in taken)
    return Key(identifier, secrets.token_urlsafe(_SECRET_BYTES), owner.lower(), tuple(scopes), time.time())


def _read(path: Path, state: os.stat_result) -> tuple[Key, ...]:
    if stat.S_IMODE(state.st_mode) & 0o077:  # refused rather than repaired, as ssh does: someone may have read it
        raise ConfigError(f"{path}: others can read it, and it holds keys; run: chmod 600 {path}")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["keys"]
        keys = tuple(Key(**{**entry, "scopes": tuple(entry["scopes"])}) for entry in entries)
        if not all(isinstance(text, str) for key in keys for text in (key.id, key.secret, key.owner, *key.scopes)):
            raise TypeError("a field is not a text")
        return keys
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path}: holds no keys of `tunerun serve`; move it away, and a new one is made") from error
