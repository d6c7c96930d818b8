"""Prepares base models: fetches from the hub, converts GGUF to safetensors, derives the chat format. Imports torch.

Errors of transformers, gguf, huggingface_hub and the file system become BaseModelError here and in `loading`.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

from filelock import FileLock

from tunerun.engine import base_model, chat, hub, model_facts
from tunerun.engine.base_model import FoundModel
from tunerun.engine.packages import require
from tunerun.errors import BaseModelError
from tunerun.job import BaseModelRef


def prepare(model: BaseModelRef, found: FoundModel, cache: Path) -> Path:
    """Prepare a model that is not ready yet; called by `base_model.prepare`, which documents it."""
    require("torch", "transformers", "safetensors", *(["gguf"] if found.kind == "gguf" else []))
    if found.path is None:
        found = _fetched(model, found, cache)
    entry = base_model.entry_folder(found, cache)
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(entry.with_suffix(".lock")):
            if base_model.prepared_folder(found, cache) is None:
                _fill(entry, model, found)
    except OSError as error:
        raise BaseModelError(
            f"the base model {model.name!r} cannot be prepared in the cache {cache}: {error}; "
            "it needs room for the weights in float32 (4 bytes a parameter); set paths.cache to another directory"
        ) from error
    ready = base_model.prepared_folder(found, cache)
    assert ready is not None  # noqa: S101 - _fill raises otherwise
    return ready


def _fetched(model: BaseModelRef, found: FoundModel, cache: Path) -> FoundModel:
    assert found.commit is not None  # noqa: S101 - `find` has asked the hub
    folder = hub.fetch(model.source, found.commit, model.revision)
    missing = model_facts.missing_parts(folder)
    if missing:
        raise BaseModelError(
            f"{model.source!r} on the Hugging Face hub has no {', no '.join(missing)}; a base model needs config.json, "
            "weights in *.safetensors and a tokenizer; choose another model"
        )
    return base_model.find(model, cache)


def _fill(entry: Path, model: BaseModelRef, found: FoundModel) -> None:
    """Write the entry under another name and rename it, so that it appears complete or not at all."""
    from tunerun.engine import loading

    assert found.path is not None  # noqa: S101 - prepare has fetched it
    what = f"the base model {model.name!r} ({found.origin})"
    folder, gguf_file = (found.path.parent, found.path.name) if found.kind == "gguf" else (found.path, None)
    partial = entry.with_suffix(".partial")  # safe to remove: it is a killed process's, because we hold the lock
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        tokenizer = loading.load_tokenizer(what, folder, gguf_file)
        chat_format = chat.derive(tokenizer)
        network = loading.load_network(what, folder, gguf_file)
        loading.check_vocabulary(what, network, tokenizer, chat_format)
        if gguf_file is not None:
            _save_converted(network, tokenizer, partial / "model")
        tokenizer.backend_tokenizer.save(str(partial / "tokenizer.json"))
        chat.write(chat_format, base_model.chat_file(partial))
        chat.write_turns(chat.derive_turns(tokenizer, chat_format), base_model.turns_file(partial))
        shutil.rmtree(entry, ignore_errors=True)
        partial.rename(entry)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def earlier_turns(model: BaseModelRef, found: FoundModel, cache: Path) -> chat.EarlierTurns:
    """Return the format of earlier turns of a prepared model; derive it if an earlier version prepared the model."""
    turns = base_model.earlier_turns(found, cache)
    if turns is None:
        from tunerun.engine import loading

        folder = base_model.prepare(model, cache)
        tokenizer = loading.load_tokenizer(f"the base model {model.name!r} ({found.origin})", folder)
        turns = chat.derive_turns(tokenizer, base_model.chat_format(found, cache))
        with contextlib.suppress(OSError):  # without a writable cache it is derived again next time
            chat.write_turns(turns, base_model.turns_file(base_model.entry_folder(found, cache)))
    return turns


def _save_converted(network: Any, tokenizer: Any, folder: Path) -> None:
    # The weights are plain float32 now; transformers still calls them quantised and would refuse to save them.
    network.hf_quantizer = None
    if hasattr(network.config, "quantization_config"):
        del network.config.quantization_config
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
