"""The Hugging Face hub: resolves a model's name to a commit, finds it in the hub's cache, and downloads it.

The cache's layout is the one that huggingface_hub documents ("Understand caching", 2.4.0):

    models--<owner>--<name>/refs/<revision>          the commit of a branch or tag when it was fetched
    models--<owner>--<name>/snapshots/<commit>/      the files, as links to
    models--<owner>--<name>/blobs/<etag>             their contents, named by SHA-256 (large files) or git's SHA-1
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from tunerun.engine import file_digest
from tunerun.engine.packages import require
from tunerun.errors import BaseModelError, first_line

TIMEOUT_S = 10.0
"""The time limit of a request to the hub; the default of huggingface_hub 2.4.0."""

DEFAULT_REVISION = "main"

_NAME = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95})?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TRUE = frozenset({"1", "true", "yes", "on"})  # as huggingface_hub reads HF_HUB_OFFLINE
FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")
"""The files that determine a model's answers. Without pickled weights, because loading them can run code."""


def is_name(source: str) -> bool:
    """Whether the hub allows this as a model's name."""
    return _NAME.fullmatch(source) is not None and "--" not in source and ".." not in source


def is_offline() -> bool:
    """Whether the user forbids access to the hub (HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE)."""
    return any(os.environ.get(name, "").lower() in _TRUE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def cache() -> Path:
    """Return the hub's own cache directory, by the environment variables that huggingface_hub reads."""
    if stated := os.environ.get("HF_HUB_CACHE"):
        return Path(stated).expanduser()
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(home).expanduser() / "hub"


def cached_commit(name: str, revision: str | None) -> str | None:
    """Return the commit of a revision by the hub's cache; None: only the hub can tell.

    Args:
        name: the model's name on the hub.
        revision: a branch, a tag or a commit; None: `DEFAULT_REVISION`.
    """
    wanted = revision or DEFAULT_REVISION
    if _COMMIT.fullmatch(wanted):  # a commit never moves
        return wanted
    try:
        commit = _reference(name, wanted).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return commit if _COMMIT.fullmatch(commit) else None


def snapshot(name: str, commit: str) -> Path | None:
    """Return the folder of a commit's files in the hub's cache; None: it has not been fetched."""
    folder = _repository(name) / "snapshots" / commit
    return folder if folder.is_dir() else None


def damaged_files(files: Sequence[Path], cache: Path) -> Iterator[Path]:
    """Yield the files of a snapshot whose content differs from what the hub sent.

    Args:
        files: of the snapshot.
        cache: tunerun's cache directory, for the digests of large files.
    """
    for file in files:
        blob = file.resolve()
        if blob.parent.name != "blobs":  # a file system without links; then no name contains the digest
            continue
        if _SHA256.fullmatch(blob.name):
            if file_digest.sha256(blob, cache) != blob.name:
                yield file
        elif _COMMIT.fullmatch(blob.name):
            content = blob.read_bytes()
            git = hashlib.sha1(b"blob %d\0%b" % (len(content), content), usedforsecurity=False).hexdigest()
            if git != blob.name:
                yield file


def resolve(name: str, revision: str | None) -> str:
    """Request the commit of a revision from the hub.

    Args:
        name: the model's name on the hub.
        revision: a branch, a tag or a commit; None: `DEFAULT_REVISION`.

    Raises:
        BaseModelError: the hub does not have the model or the revision, or does not answer.
        MissingPackageError: huggingface_hub is not installed.
    """
    require("huggingface_hub", what="a base model of the Hugging Face hub")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    wanted = _words(name, revision)
    # HfApi itself reads the user's token, from HF_TOKEN or where `hf auth login` saved it.
    try:
        info = HfApi(endpoint=os.environ.get("HF_ENDPOINT")).model_info(name, revision=revision, timeout=TIMEOUT_S)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise _unknown(wanted) from error
    except Exception as error:
        raise BaseModelError(
            f"{wanted} cannot be looked up on the Hugging Face hub: {type(error).__name__}: {first_line(error)}; "
            "connect to the network, or give model.source a folder or a GGUF file"
        ) from error
    if info.sha is None or not _COMMIT.fullmatch(info.sha):
        raise BaseModelError(f"the Hugging Face hub does not state the commit of {wanted}; set model.revision to one")
    return info.sha


def fetch(name: str, commit: str, revision: str | None) -> Path:
    """Download one commit of a model into the hub's cache, and record it there as the commit of the revision.

    Args:
        name: the model's name on the hub.
        commit: from `resolve`.
        revision: for which `commit` was resolved.

    Returns:
        The folder of the files.

    Raises:
        BaseModelError: it cannot be downloaded.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    wanted = _words(name, commit)
    try:
        folder = snapshot_download(
            name,
            revision=commit,
            cache_dir=cache(),
            allow_patterns=list(FILES),
            ignore_patterns=["*/*"],  # folders hold the model in other formats: original/, onnx/, coreml/
            etag_timeout=TIMEOUT_S,
            endpoint=os.environ.get("HF_ENDPOINT"),
        )
        # snapshot_download records a revision only if it was given its name, and here it was given the commit.
        reference = _reference(name, revision or DEFAULT_REVISION)
        if reference.name != commit and not reference.exists():
            reference.parent.mkdir(parents=True, exist_ok=True)
            reference.write_text(commit, encoding="ascii")
    except GatedRepoError as error:
        raise BaseModelError(
            f"{wanted} is gated: its owner gives it to accounts that accept its licence; accept it on the model's page "
            "of the hub, and set HF_TOKEN to an access token of that account"
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise _unknown(wanted) from error
    except Exception as error:
        raise BaseModelError(
            f"{wanted} cannot be fetched from the Hugging Face hub: {type(error).__name__}: {first_line(error)}; "
            "it needs the network once; connect, or give model.source a folder or a GGUF file"
        ) from error
    return Path(folder)


def _repository(name: str) -> Path:
    return cache() / f"models--{name.replace('/', '--')}"


def _reference(name: str, revision: str) -> Path:
    return _repository(name) / "refs" / revision


def _words(name: str, revision: str | None) -> str:
    return f"{name!r}" + (f" at revision {revision!r}" if revision else "")


def _unknown(wanted: str) -> BaseModelError:
    return BaseModelError(
        f"the Hugging Face hub does not have {wanted}, or you do not have access; a name is 'owner/name'; "
        "correct model.source and model.revision, or set HF_TOKEN for a private or gated model"
    )
