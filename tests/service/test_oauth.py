"""`backend.oauth`: Google's application default credentials, with a token server and a service on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.engine.tiny_model import request_of
from tests.rigs.running_service import RunningService
from tunerun.backends.gemini import GeminiBackend, GeminiSection
from tunerun.backends.gemini.oauth import SCOPE
from tunerun.errors import AccessError
from tunerun.generation import GenerateOptions
from tunerun.job import BaseModelRef, JobState
from tunerun.testing.waiting import wait_for_end

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

MODEL = BaseModelRef(name="tiny", source="models/tiny")


class TokenServer:
    """What Google's token endpoint does: an assertion of a service account in, a bearer token out."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.asked = 0
        outer = self

        class Connection(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.asked += 1
                self.rfile.read(int(self.headers["content-length"]))
                content = json.dumps({"access_token": outer.token, "expires_in": 3600, "token_type": "Bearer"}).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that is overridden
                """Nothing is printed."""

        self.server = HTTPServer(("127.0.0.1", 0), Connection)
        self.thread = threading.Thread(target=self.server.serve_forever, args=[0.05], daemon=True)


@pytest.fixture
def tokens(running: RunningService) -> Iterator[TokenServer]:
    tokens = TokenServer(running.key.secret)
    tokens.thread.start()
    yield tokens
    tokens.server.shutdown()
    tokens.server.server_close()


@pytest.fixture
def credentials(tokens: TokenServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A service account's file, as the variable names it that Google's libraries look for."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    private = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = tmp_path / "account.json"
    account = {
        "type": "service_account",
        "project_id": "x",
        "private_key_id": "1",
        "private_key": private.decode(),
        "client_email": "me@x.example",
        "token_uri": f"http://127.0.0.1:{tokens.server.server_address[1]}/token",
    }
    file.write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    return file


def test_a_token_gives_the_access_of_a_key(running: RunningService, tokens: TokenServer, credentials: Path) -> None:
    """It is fetched once and sent as a bearer token; no variable with a key is read."""
    with GeminiBackend(GeminiSection(kind="gemini", base_url=running.address, oauth=True)) as backend:
        backend.prepare([MODEL])
        ref = backend.submit(request_of(MODEL, key="d"))
        assert wait_for_end(backend, ref).state is JobState.SUCCEEDED
        assert len(backend.generate(MODEL, ["1", "2"], GenerateOptions(max_output_tokens=2))) == 2
    assert tokens.asked == 1
    running.service.library.delete(running.key, ref.id)


def test_a_token_without_the_scope_names_the_command(
    running: RunningService, tokens: TokenServer, credentials: Path
) -> None:
    """The guide's command, with the scope."""
    key = running.service.keys.add("me@x.example", [])
    tokens.token = key.secret
    section = GeminiSection(kind="gemini", base_url=running.address, oauth=True)
    with GeminiBackend(section) as backend, pytest.raises(AccessError, match="gcloud auth") as caught:
        backend.submit(request_of(MODEL, key="e"))
    assert SCOPE in str(caught.value)
    assert key.secret not in str(caught.value)
    running.service.keys.revoke(key.id)


def test_missing_credentials_are_an_access_error(running: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that creates them."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere.json")
    section = GeminiSection(kind="gemini", base_url=running.address, oauth=True)
    with GeminiBackend(section) as backend, pytest.raises(AccessError, match="gcloud auth application-default login"):
        backend.prepare([MODEL])
