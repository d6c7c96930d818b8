"""Prepares base models for loading, once, and knows where the cache keeps the result.

Imports torch and transformers only while a model is being prepared. For each prepared base model the cache contains:

    base_models/<entry>/chat-<n>.json    the chat format, derived by version n of the rules
    base_models/<entry>/turns-<n>.json   the format of a system message and of earlier turns, likewise
    base_models/<entry>/tokenizer.json   the tokenizer, for the library `tokenizers`
    base_models/<entry>/model/           weights that were converted from GGUF; other weights stay where they are

An entry is written after the model has been loaded once and found complete. Errors of transformers, gguf,
huggingface_hub and the file system become BaseModelError here and in `loading`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from pathlib import Path

from filelock import FileLock

from tunerun.engine import base_model, chat_format, chat_template, hub, model_facts
from tunerun.engine.base_model import FoundModel
from tunerun.engine.packages import require
from tunerun.errors import BaseModelError
from tunerun.interpolation import resolved_record
from tunerun.job import BaseModelRef

_CONVERSION_VERSION = 2  # raise it when the written weights change, so that old entries are not used


def prepare(model: BaseModelRef, cache: Path) -> Path:
    """Prepare a base model for loading, once: fetch it, convert it, derive its chat format. Imports torch if needed.

    Args:
        model: the config's model section.
        cache: the cache directory. Processes that prepare the same model wait for each other.

    Returns:
        The folder that transformers can load.

    Raises:
        BaseModelError: as `base_model.find`; or it cannot be fetched, read or written.
        MissingPackageError: torch, transformers or gguf is not installed.
    """
    model = resolved_record(model)
    found = base_model.find(model, cache)
    ready = model_folder(found, cache)
    if ready is not None:
        return ready

    require("torch", "transformers", "safetensors", *(["gguf"] if found.kind == "gguf" else []))
    if found.path is None:
        assert found.commit is not None  # noqa: S101 - `find` has asked the hub
        missing = model_facts.missing_parts(hub.fetch(model.source, found.commit, model.revision))
        if missing:
            raise BaseModelError(
                f"{model.source!r} on the Hugging Face hub has no {', no '.join(missing)}; a base model needs "
                "config.json, weights in *.safetensors and a tokenizer; choose another model"
            )
        found = base_model.find(model, cache)

    entry = entry_folder(found, cache)
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(entry.with_suffix(".lock")):
            # Another process may have prepared it while this one waited for the lock.
            if model_folder(found, cache) is None:
                _write_entry(entry, model, found)
    except OSError as error:
        raise BaseModelError(
            f"the base model {model.name!r} cannot be prepared in the cache {cache}: {error}; "
            "it needs room for the weights in float32 (4 bytes a parameter); set paths.cache to another directory"
        ) from error
    ready = model_folder(found, cache)
    assert ready is not None  # noqa: S101 - _write_entry raises otherwise
    return ready


def _write_entry(entry: Path, model: BaseModelRef, found: FoundModel) -> None:
    """Write the entry under another name and rename it, so that it appears complete or not at all."""
    from tunerun.engine import loading, private_names

    assert found.path is not None  # noqa: S101 - prepare has fetched it
    what = f"the base model {model.name!r} ({found.origin})"
    folder, gguf_file = (found.path.parent, found.path.name) if found.kind == "gguf" else (found.path, None)
    partial = entry.with_suffix(".partial")  # safe to remove: it is a killed process's, because we hold the lock
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        tokenizer = loading.load_tokenizer(what, folder, gguf_file)
        form = chat_format.derive(tokenizer)
        network = loading.load_network(what, folder, gguf_file)
        loading.check_vocabulary(what, network, tokenizer, form)
        if gguf_file is not None:
            private_names.forget_quantisation(network)
            network.save_pretrained(partial / "model")
            tokenizer.save_pretrained(partial / "model")
        tokenizer.backend_tokenizer.save(str(partial / "tokenizer.json"))
        chat_format.write(form, chat_file(partial))
        chat_format.write_turns(chat_format.derive_turns(tokenizer, form), turns_file(partial))
        shutil.rmtree(entry, ignore_errors=True)
        partial.rename(entry)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def entry_folder(found: FoundModel, cache: Path) -> Path:
    """Return the cache's folder for a model."""
    digest = hashlib.sha256(f"{_CONVERSION_VERSION}\n{found.identity}".encode()).hexdigest()
    return cache / "base_models" / digest[:32]


def model_folder(found: FoundModel, cache: Path) -> Path | None:
    """Return the folder that transformers can load.

    Args:
        found: the base model.
        cache: the cache directory.

    Returns:
        The folder; None: `prepare` has to be called first.
    """
    entry = entry_folder(found, cache)
    folder = entry / "model" if found.kind == "gguf" else found.path
    parts = (chat_file(entry), entry / "tokenizer.json")
    if folder is None or not folder.is_dir() or not all(_is_whole_json(part) for part in parts):
        return None
    if found.kind == "gguf" and (model_facts.missing_parts(folder) or model_facts.of_folder(folder).problems):
        return None  # a conversion that was damaged by a power cut or a full disk is repeated
    return folder


def _is_whole_json(file: Path) -> bool:
    """Whether a file that was written as a JSON object is complete, judged by its first and last bytes."""
    try:
        with file.open("rb") as content:
            first = content.read(1)
            content.seek(-min(file.stat().st_size, 16), os.SEEK_END)
            return first == b"{" and content.read().rstrip().endswith(b"}")
    except OSError:
        return False


def tokenizer_file(found: FoundModel, cache: Path) -> Path:
    """Return the file of a prepared model that `tokenizers.Tokenizer.from_file` reads."""
    return entry_folder(found, cache) / "tokenizer.json"


def chat_file(entry: Path) -> Path:
    """Return the file of a model's chat format; its name has the version, so that older files are not used."""
    return entry / f"chat-{chat_template.VERSION}.json"


def read_chat_format(found: FoundModel, cache: Path) -> chat_format.ChatFormat:
    """Return the chat format of a prepared model.

    Raises:
        OSError: the model is not prepared.
    """
    return chat_format.read(chat_file(entry_folder(found, cache)))


def turns_file(entry: Path) -> Path:
    """Return the file of the format of earlier turns; its name has the version of the rules."""
    return entry / f"turns-{chat_format.TURNS_VERSION}.json"


def earlier_turns(found: FoundModel, cache: Path) -> chat_format.EarlierTurns | None:
    """Return the format of earlier turns; None: an earlier version, which did not derive it, prepared the model."""
    file = turns_file(entry_folder(found, cache))
    return chat_format.read_turns(file) if file.is_file() else None


def earlier_turns_or_derived(model: BaseModelRef, found: FoundModel, cache: Path) -> chat_format.EarlierTurns:
    """Return the format of earlier turns of a prepared model; derive it if an earlier version prepared the model.

    Raises:
        BaseModelError: as `prepare`.
    """
    turns = earlier_turns(found, cache)
    if turns is None:
        from tunerun.engine import loading

        folder = prepare(model, cache)
        tokenizer = loading.load_tokenizer(f"the base model {model.name!r} ({found.origin})", folder)
        turns = chat_format.derive_turns(tokenizer, read_chat_format(found, cache))
        with contextlib.suppress(OSError):  # without a writable cache it is derived again next time
            chat_format.write_turns(turns, turns_file(entry_folder(found, cache)))
    return turns
