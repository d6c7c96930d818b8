"""Models of the hub: which commit a name means, and that the files are what the hub sent. A loopback server is the hub."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.engine import tiny_model
from tunerun.engine import base_model, hub, prepared_model
from tunerun.errors import BaseModelError
from tunerun.job import BaseModelRef

FIRST, SECOND = "a1" * 20, "b2" * 20
MODEL = BaseModelRef(name="mine", source="owner/tiny")


@dataclass
class Hub:
    """A server on loopback that answers the requests of a download like the hub.

    Attributes:
        commits: the present commit of each branch.
        requests: the received requests, in order.
        is_gated: whether the content of files requires an account; their list does not.
    """

    files: Path
    commits: dict[str, str] = field(default_factory=lambda: {"main": FIRST, "v2": SECOND})
    requests: list[str] = field(default_factory=list)
    is_gated: bool = False

    def tree(self) -> bytes:
        entries = []
        for path in sorted(self.files.iterdir()):
            content, tag = self.file(path.name) or (b"", "")
            entry = {"type": "file", "path": path.name, "size": len(content), "oid": tag[:40]}
            entries.append(
                entry | ({"lfs": {"oid": tag, "size": len(content), "pointerSize": 1}} if len(tag) > 40 else {})
            )
        return json.dumps(entries).encode()

    def information(self, revision: str = "main") -> bytes | None:
        commit = self.commits.get(revision, revision)
        if commit not in (FIRST, SECOND):
            return None
        names = [{"rfilename": file.name} for file in sorted(self.files.iterdir())]
        return json.dumps({"id": "owner/tiny", "modelId": "owner/tiny", "sha": commit, "siblings": names}).encode()

    def file(self, name: str) -> tuple[bytes, str] | None:
        path = self.files / name
        if not path.is_file():
            return None
        content = path.read_bytes()
        if path.suffix == ".safetensors":
            return content, hashlib.sha256(content).hexdigest()
        return content, hashlib.sha1(b"blob %d\0%b" % (len(content), content), usedforsecurity=False).hexdigest()


@pytest.fixture
def loopback_hub(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    served = Hub(Path(shutil.copytree(tiny_folder, tmp_path / "served")))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def answer(self, *, with_body: bool) -> None:
            served.requests.append(f"{self.command} {self.path}")
            path, _, _ = self.path.partition("?")
            parts = path.strip("/").split("/")
            headers = {}
            content: bytes | None = None
            if parts[:4] == ["api", "models", "owner", "tiny"]:
                content = served.tree() if parts[4:5] == ["tree"] else served.information(*parts[5:6])
            elif parts[:2] == ["owner", "tiny"] and parts[2] == "resolve":
                found = served.file(parts[4])
                if found is not None:
                    content, tag = found
                    headers = {"ETag": f'"{tag}"', "X-Repo-Commit": served.commits.get(parts[3], parts[3])}
            if content is None:
                code = "RevisionNotFound" if "/revision/" in path else "EntryNotFound"
                code = code if "owner/tiny" in path else "RepoNotFound"
                headers, content = {"X-Error-Code": code}, b"{}"
                self.send_response(404)
            elif served.is_gated and parts[2:3] == ["resolve"]:
                headers, content = {"X-Error-Code": "GatedRepo"}, b"{}"
                self.send_response(403)
            else:
                self.send_response(200)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if with_body:
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    # huggingface_hub reads the variable once, when it is imported, which may have been in an earlier test.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    yield served
    server.shutdown()
    server.server_close()


def test_commit_is_resolved_once_and_fetched(loopback_hub: Hub, tmp_path: Path) -> None:
    """A name keeps its first commit, before and after the download, even if the branch moves."""
    cache = tmp_path / "cache"
    found = base_model.find(MODEL, cache)
    assert (found.kind, found.path, found.identity) == ("hub", None, f"hub:owner/tiny@{FIRST}")
    frozen = replace(MODEL, revision=found.commit)
    loopback_hub.commits["main"] = SECOND
    folder = prepared_model.prepare(frozen, cache)
    assert folder == hub.cache() / "models--owner--tiny" / "snapshots" / FIRST
    loopback_hub.requests.clear()
    assert base_model.find(frozen, cache).identity == found.identity
    assert prepared_model.prepare(frozen, cache) == folder
    assert loopback_hub.requests == []


def test_download_records_the_commit_of_the_branch(loopback_hub: Hub, tmp_path: Path) -> None:
    """A later plan with the same name uses the downloaded commit, without the network."""
    folder = prepared_model.prepare(MODEL, tmp_path / "cache")
    assert folder.name == FIRST
    loopback_hub.commits["main"] = SECOND
    loopback_hub.requests.clear()
    assert base_model.find(MODEL, tmp_path / "cache").identity == f"hub:owner/tiny@{FIRST}"
    assert loopback_hub.requests == []
    branch = replace(MODEL, revision="v2")
    assert base_model.find(branch, tmp_path / "cache").identity == f"hub:owner/tiny@{SECOND}"


def test_content_that_is_not_what_the_hub_sent(loopback_hub: Hub, tmp_path: Path) -> None:
    """A changed file in the hub's cache is reported, by its SHA-256 or by git's SHA-1."""
    folder = prepared_model.prepare(MODEL, tmp_path / "cache")
    for name in ("model.safetensors", "config.json"):
        blob = (folder / name).resolve()
        content = blob.read_bytes()
        blob.write_bytes(content[:-2] + b"  " if name == "config.json" else content[:-1] + b"\7")
        with pytest.raises(BaseModelError, match=rf"{name} in the Hugging Face cache is not what the hub sent; delete"):
            base_model.find(MODEL, tmp_path / "cache")
        blob.write_bytes(content)
    assert base_model.find(MODEL, tmp_path / "cache").path == folder


def test_cache_deleted_meanwhile(loopback_hub: Hub, tmp_path: Path) -> None:
    """A deleted snapshot is downloaded again: the same commit, and so the same model."""
    frozen = replace(MODEL, revision=FIRST)
    folder = prepared_model.prepare(frozen, tmp_path / "cache")
    shutil.rmtree(hub.cache())
    found = base_model.find(frozen, tmp_path / "cache")
    assert (found.path, found.identity) == (None, f"hub:owner/tiny@{FIRST}")
    assert prepared_model.prepare(frozen, tmp_path / "cache") == folder


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            replace(MODEL, revision="nosuch"),
            r"does not have 'owner/tiny' at revision 'nosuch', or you do not have access",
        ),
        (replace(MODEL, source="owner/other"), r"does not have 'owner/other', or you do not have access"),
    ],
)
def test_name_that_the_hub_does_not_know(model: BaseModelRef, message: str, loopback_hub: Hub, tmp_path: Path) -> None:
    """A name or revision that the hub does not have is refused in `plan`."""
    with pytest.raises(BaseModelError, match=message):
        base_model.find(model, tmp_path / "cache")


def test_gated_model(loopback_hub: Hub, tmp_path: Path) -> None:
    """`plan` accepts a gated model; the error of the download explains how to get access."""
    loopback_hub.is_gated = True
    assert base_model.find(MODEL, tmp_path / "cache").commit == FIRST
    with pytest.raises(
        BaseModelError, match=r"'owner/tiny' at revision '[0-9a-f]+' is gated: .* accept it on .*HF_TOKEN"
    ):
        prepared_model.prepare(MODEL, tmp_path / "cache")


def test_hub_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an answer there is no plan, because a key needs the commit."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with pytest.raises(BaseModelError, match=r"'owner/tiny' cannot be looked up .*: ConnectError: .*; connect to"):
        base_model.find(MODEL, tmp_path / "cache")


def test_layout_built_by_hand(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache's documented layout is read offline; a partial download counts as missing."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--owner--tiny"
    snapshot = repository / "snapshots" / FIRST
    shutil.copytree(tiny_folder, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(FIRST)
    found = base_model.find(MODEL, tmp_path / "cache")
    assert (found.path, found.identity) == (snapshot, f"hub:owner/tiny@{FIRST}")
    assert found.facts.context_tokens == tiny_model.CONTEXT_TOKENS
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(BaseModelError, match=r"not in the Hugging Face cache, and HF_HUB_OFFLINE forbids"):
        base_model.find(MODEL, tmp_path / "cache")
