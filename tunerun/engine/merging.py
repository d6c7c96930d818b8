"""A tuned model as files that transformers, PEFT and others load without tunerun. Heavy.

The base model is loaded into this process's own memory for it: nothing of it on the disk is changed.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from tunerun.engine import adapters, base_model, loading, model_facts, network, prepared_model, tuned_model
from tunerun.engine.base_model import FoundModel
from tunerun.engine.export_template import template_of
from tunerun.engine.network import ADAPTER, LoadedModel
from tunerun.engine.tuned_model import RECORD_FILE, WEIGHTS_FILE, TunedModelRecord
from tunerun.errors import BaseModelError, NotFoundError
from tunerun.job import GenerateOptions

CONFIG_FILE = "adapter_config.json"

_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16}  # as safetensors calls them
_GGUF_DTYPES = {1: torch.float16, 32: torch.bfloat16}  # by llama.cpp's llama_ftype


@dataclass(frozen=True)
class LoadedTunedModel:
    """A tuned model's folder with its base model in memory.

    Attributes:
        base: bare; `merge` changes it.
        tokenizer: transformers'; its chat template writes the chat format.
        precision: what the base model's files have; float32 where they are quantised, for then the numbers that were
            trained on fit no other.
    """

    folder: Path
    record: TunedModelRecord
    base: LoadedModel
    tokenizer: Any
    precision: torch.dtype


def load(folder: Path, cache: Path) -> LoadedTunedModel:
    """Read a tuned model's folder and load its base model.

    Raises:
        NotFoundError: the folder holds no tuned model, not the one that was made, or an adapter of another form.
        BaseModelError: its base model cannot be found or loaded, is another one now, or lacks a layer of the adapter.
    """
    record = tuned_model.read(folder)
    if (problem := tuned_model.fault(folder)) is not None:
        raise NotFoundError(f"{record.tuned_model} cannot be exported: {problem}; tune it again")
    base = network.load(record.base_model, cache, network.choose_device("cpu"))
    network.check_base(record, base)
    adapters.load(folder, base.network, base.device)  # refuses what PEFT would load in part, with a warning
    found = base_model.find(record.base_model, cache)
    return LoadedTunedModel(folder, record, base, _tokenizer(record, base, found, cache), _precision(found))


def merge(tuned: LoadedTunedModel) -> Any:
    """Add the adapter to the base model's weights, in float32.

    Returns:
        transformers' model without adapters; the base model in memory is used up.
    """
    import peft

    with network.peft_warnings_ignored():
        adapted = peft.PeftModel.from_pretrained(
            tuned.base.network, tuned.folder, adapter_name=ADAPTER, torch_device="cpu"
        )
        return adapted.merge_and_unload(safe_merge=True)


def _tokenizer(record: TunedModelRecord, base: LoadedModel, found: FoundModel, cache: Path) -> Any:
    """Return the base model's tokenizer with a chat template that writes the tuned model's chat format."""
    folder = prepared_model.prepare(record.base_model, cache)
    tokenizer = loading.load_tokenizer(f"the base model {record.base_model.name!r} ({found.origin})", folder)
    tokenizer.chat_template = template_of(record.chat_format, record.earlier_turns or base.turns)
    text = "{{ x }} 'y' \"z\"\n"
    turns = [{"role": "user", "content": text}]
    written = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    if written != record.chat_format.prompt(text):
        raise BaseModelError(
            f"{record.tuned_model}: its chat format cannot be written as a chat template; call it by `tunerun predict`"
        )
    return tokenizer


def _precision(found: FoundModel) -> torch.dtype:
    """Return what most of a base model's numbers are stored as."""
    if found.path is None:
        return torch.float32
    if found.kind == "gguf":
        return _GGUF_DTYPES.get(model_facts.gguf_file_type(found.path), torch.float32)
    counts = model_facts.numbers_by_type(found.path)
    most = max(counts, key=lambda name: counts[name], default="")
    return _DTYPES.get(most, torch.float32)


def save_merged(tuned: LoadedTunedModel, options: GenerateOptions, folder: Path) -> None:
    """Merge, and write a folder that `AutoModelForCausalLM` and `AutoTokenizer` load.

    Raises:
        OSError: the disk refuses.
    """
    merged = merge(tuned).to(tuned.precision)
    merged.config.dtype = tuned.precision
    merged.config.name_or_path = ""  # otherwise the path of the cache folder would be saved
    merged.generation_config = _manner(tuned, options)
    _written(lambda: merged.save_pretrained(folder))
    _save_tokenizer(tuned.tokenizer, folder)


def save_adapter(tuned: LoadedTunedModel, options: GenerateOptions, folder: Path, base_name: str) -> None:
    """Write a folder that `PeftModel.from_pretrained` loads on the base model of that name.

    Raises:
        OSError: the disk refuses.
    """
    config = json.loads((tuned.folder / CONFIG_FILE).read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base_name
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    shutil.copyfile(tuned.folder / WEIGHTS_FILE, folder / WEIGHTS_FILE)
    _manner(tuned, options).save_pretrained(folder)
    _save_tokenizer(tuned.tokenizer, folder)


def save_record(folder: Path, target: Path, base_name: str) -> None:
    """Write `tunerun.json` without a path of this machine."""
    content = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
    content["base_model"] |= {"source": base_name}
    if "/" in content["base_model"]["name"]:
        content["base_model"]["name"] = base_name
    (target / RECORD_FILE).write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write a tokenizer without where it was read from."""
    _written(lambda: tokenizer.save_pretrained(folder))
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    for name in ("name_or_path", "is_local", "local_files_only"):
        config.pop(name, None)
    file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _manner(tuned: LoadedTunedModel, options: GenerateOptions) -> Any:
    """Return how it was measured: as a base model's own habits (a penalty for repetition, say) are left out."""
    from transformers import GenerationConfig

    sampling: dict[str, Any] = {"do_sample": False}
    if options.temperature > 0:
        sampling = {"do_sample": True, "temperature": options.temperature, "top_p": 1.0, "top_k": 0}
    return GenerationConfig(
        max_new_tokens=options.max_output_tokens,
        eos_token_id=tuned.base.stop_ids,
        pad_token_id=tuned.base.pad_id,
        bos_token_id=tuned.tokenizer.bos_token_id,
        repetition_penalty=1.0,
        **sampling,
    )


def _written(write: Callable[[], object]) -> None:
    """Do what writes weights; safetensors has errors of its own for what the disk refuses."""
    try:
        write()
    except SafetensorError as error:
        raise OSError(errno.EIO, str(error)) from error
