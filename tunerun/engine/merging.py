"""A tuned model as files that transformers, PEFT and other programs load without tunerun. Imports torch.

The base model is loaded into this process's memory; its files are not changed.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from tunerun.engine import adapters, base_model, loading, model_facts, network, prepared_model, tuned_model
from tunerun.engine.base_model import FoundModel
from tunerun.engine.export_template import template_of
from tunerun.engine.network import ADAPTER, LoadedModel
from tunerun.engine.tuned_model import ADAPTER_FILE, RECORD_FILE, WEIGHTS_FILE, TunedModelRecord
from tunerun.errors import BaseModelError, NotFoundError
from tunerun.generation import GenerateOptions

_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16}  # as safetensors calls them
_GGUF_DTYPES = {1: torch.float16, 32: torch.bfloat16}  # by llama.cpp's llama_ftype


@dataclass(frozen=True)
class LoadedTunedModel:
    """A tuned model's folder with its base model in memory.

    Attributes:
        base: the base model without adapter; `merge` changes its weights.
        tokenizer: transformers' tokenizer, whose chat template writes the chat format.
        precision: the number format of the base model's files; float32 if they are quantised, because the adapter was
            trained with their dequantised weights, which other formats would round.
    """

    folder: Path
    record: TunedModelRecord
    base: LoadedModel
    tokenizer: Any
    precision: torch.dtype


def load(folder: Path, cache: Path) -> LoadedTunedModel:
    """Read a tuned model's folder and load its base model.

    Args:
        folder: the tuned model's folder.
        cache: the cache directory of base models.

    Raises:
        NotFoundError: the folder holds no tuned model, a changed one, or an adapter of another form than LoRA's.
        BaseModelError: the base model cannot be found or loaded, was replaced, or lacks a layer of the adapter; or the
            chat format cannot be written as a chat template.
    """
    record = tuned_model.read(folder)
    if (problem := tuned_model.fault(folder)) is not None:
        raise NotFoundError(f"{record.tuned_model} cannot be exported: {problem}; tune it again")
    base = network.load(record.base_model, cache, network.choose_device("cpu"))
    network.check_base(record, base)
    adapters.load(folder, base.network, base.device)  # refuses what PEFT would load in part, with a warning

    found = base_model.find(record.base_model, cache)
    what = f"the base model {record.base_model.name!r} ({found.origin})"
    tokenizer = loading.load_tokenizer(what, prepared_model.prepare(record.base_model, cache))
    tokenizer.chat_template = template_of(record.chat_format, record.earlier_turns or base.turns)
    # An input with everything that a template could change: Jinja's braces, both quotes, a newline at the end.
    text = "{{ x }} 'y' \"z\"\n"
    turns = [{"role": "user", "content": text}]
    written = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    if written != record.chat_format.prompt(text):
        raise BaseModelError(
            f"{record.tuned_model}: its chat format cannot be written as a chat template; call it by `tunerun predict`"
        )
    return LoadedTunedModel(folder, record, base, tokenizer, _precision(found))


def merge(tuned: LoadedTunedModel) -> Any:
    """Add the adapter to the base model's weights, in float32.

    Returns:
        The merged transformers model. It is the base model in memory, which must not be used any more.
    """
    import peft

    with network.peft_warnings_ignored():
        adapted = peft.PeftModel.from_pretrained(
            tuned.base.network, tuned.folder, adapter_name=ADAPTER, torch_device="cpu"
        )
        return adapted.merge_and_unload(safe_merge=True)


def _precision(found: FoundModel) -> torch.dtype:
    """Return the number format of most weights in a base model's files; float32 if they are quantised or unknown."""
    if found.path is None:
        return torch.float32
    if found.kind == "gguf":
        return _GGUF_DTYPES.get(model_facts.gguf_file_type(found.path), torch.float32)
    counts = model_facts.numbers_by_type(found.path)
    most = max(counts, key=lambda name: counts[name], default="")
    return _DTYPES.get(most, torch.float32)


def save_merged(tuned: LoadedTunedModel, options: GenerateOptions, folder: Path) -> None:
    """Merge the adapter and write a folder that `AutoModelForCausalLM` and `AutoTokenizer` load.

    Args:
        tuned: is used up.
        options: how answers were generated when the tuned model was evaluated.
        folder: an existing folder.

    Raises:
        OSError: a file cannot be written.
    """
    merged = merge(tuned).to(tuned.precision)
    merged.config.dtype = tuned.precision
    merged.config.name_or_path = ""  # otherwise the path of the cache folder would be saved
    merged.generation_config = _generation_config(tuned, options)
    with _disk_errors():
        merged.save_pretrained(folder)
    _save_tokenizer(tuned.tokenizer, folder)


def save_adapter(tuned: LoadedTunedModel, options: GenerateOptions, folder: Path, base_name: str) -> None:
    """Write a folder that `PeftModel.from_pretrained` loads.

    Args:
        tuned: the tuned model.
        options: how answers were generated when it was evaluated.
        folder: an existing folder.
        base_name: the name of the base model for `adapter_config.json`.

    Raises:
        OSError: a file cannot be written.
    """
    config = json.loads((tuned.folder / ADAPTER_FILE).read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base_name
    (folder / ADAPTER_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    shutil.copyfile(tuned.folder / WEIGHTS_FILE, folder / WEIGHTS_FILE)
    _generation_config(tuned, options).save_pretrained(folder)
    _save_tokenizer(tuned.tokenizer, folder)


def save_record(folder: Path, target: Path, base_name: str) -> None:
    """Write a copy of `tunerun.json` without paths of this machine.

    Args:
        folder: the tuned model's folder.
        target: an existing folder.
        base_name: the name of the base model, in place of a path.
    """
    content = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
    content["base_model"] |= {"source": base_name}
    if "/" in content["base_model"]["name"]:
        content["base_model"]["name"] = base_name
    (target / RECORD_FILE).write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write a tokenizer's files without the path that it was loaded from."""
    with _disk_errors():
        tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    for name in ("name_or_path", "is_local", "local_files_only"):
        config.pop(name, None)
    file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _generation_config(tuned: LoadedTunedModel, options: GenerateOptions) -> Any:
    """Return the settings of the evaluation, without the base model's own ones such as a repetition penalty."""
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


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Turn safetensors' own error for a file that cannot be written into an OSError."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(errno.EIO, str(error)) from error
