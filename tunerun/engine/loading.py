"""Loads a base model's weights, all of them or none. Imports torch.

transformers initialises weights that are missing from the files at random, and loads encoders as if they were causal
models; both would then be trained without a warning. For a damaged model it may raise any exception; here each becomes
a BaseModelError of one sentence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from tunerun.engine import packages, private_names
from tunerun.engine.chat_format import ChatFormat
from tunerun.engine.failures import is_out_of_memory
from tunerun.engine.model_shape import layer_count
from tunerun.engine.precision import BYTES, FLOAT32
from tunerun.errors import BaseModelError

_PROBE_TOKENS = 6
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 3e-2}
"""The most that a later token may change earlier logits, as a share of their standard deviation. Only rounding does so
in a causal model, and in bfloat16 it is 4e-3 of each number."""

QUANTISES_ON_CUDA = (
    "backend.quantization: 4bit needs a CUDA device, and this is {}; set backend.quantization=none, or train on a "
    "machine with an NVIDIA GPU"
)

_MOST_NAMES = 3


def load_network(what: str, folder: Path, gguf_file: str | None = None, number_format: str = FLOAT32) -> Any:
    """Return the causal language model in a folder, with every weight from the files.

    Args:
        what: describes the model in errors.
        folder: contains the model.
        gguf_file: the name of a GGUF file in that folder; None: the folder is in transformers' format.
        number_format: of the weights in memory; the files may have another one.

    Raises:
        BaseModelError: the model cannot be loaded, does not fit into memory, is incomplete, or is not causal.
    """
    return _in_one_sentence(
        what,
        lambda: _load(folder, gguf_file, dtype=getattr(torch, number_format)),
        f"{number_format} ({BYTES[number_format]} bytes a parameter)",
    )


def load_quantised(what: str, folder: Path, device: torch.device) -> Any:
    """Return the model on a CUDA device with its linear layers in 4 bits (NF4), which multiply in bfloat16.

    Args:
        what: describes the model in errors.
        folder: contains the model, in transformers' format.
        device: a CUDA device.

    Raises:
        MissingPackageError: the extra `quantized` is not installed.
        BaseModelError: as `load_network`; or the device is not CUDA.
    """
    if device.type != "cuda":
        raise BaseModelError(QUANTISES_ON_CUDA.format(device.type))
    packages.require(*packages.QUANTISING, extra="quantized", what="backend.quantization=4bit")

    def load() -> Any:
        from transformers import BitsAndBytesConfig

        nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
        return _load(folder, None, dtype=torch.bfloat16, quantization_config=nf4, device_map={"": device})

    return _in_one_sentence(what, load, "4 bits (half a byte a parameter)")


def load_tokenizer(what: str, folder: Path, gguf_file: str | None = None) -> Any:
    """Return transformers' tokenizer of a base model; for the arguments see `load_network`.

    Raises:
        BaseModelError: it cannot be loaded, or the library `tokenizers` cannot run it.
    """

    def load() -> Any:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(
            folder, gguf_file=gguf_file, local_files_only=True, trust_remote_code=False
        )
        if not tokenizer.is_fast:
            raise _RefusedError("its tokenizer does not have a fast version (tokenizer.json)")
        return tokenizer

    return _in_one_sentence(what, load)


def check_vocabulary(what: str, network: Any, tokenizer: Any, chat: ChatFormat) -> None:
    """Check that the network has every token that the tokenizer may produce.

    Args:
        what: describes the model in errors.
        network: the base model.
        tokenizer: transformers' tokenizer.
        chat: the model's chat format.

    Raises:
        BaseModelError: the tokenizer produces token numbers that the network does not have.
    """
    # Special tokens that the chat format does not use may be missing: the text of examples never becomes one.
    rows = network.get_input_embeddings().weight.shape[0]
    specials = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    needed = set(tokenizer(f"{chat.prompt('')}{chat.end}", add_special_tokens=False)["input_ids"])
    beyond = [number for number in tokenizer.get_vocab().values() if number >= rows]
    missing = [number for number in beyond if number not in specials or number in needed]
    if missing:
        raise BaseModelError(
            f"{what} cannot be used: its tokenizer has token numbers up to {max(missing):,}, but the weights have "
            f"{rows:,} tokens; use the tokenizer that belongs to the weights"
        )


class _RefusedError(Exception):
    """A reason of our own, which is reported without the name of an exception."""


def _in_one_sentence(what: str, load: Callable[[], Any], size: str = "float32 (4 bytes a parameter)") -> Any:
    try:
        return load()
    except _RefusedError as error:
        raise BaseModelError(f"{what} cannot be loaded: {error}; choose another base model") from error
    except Exception as error:
        if is_out_of_memory(error):
            raise BaseModelError(
                f"{what} does not fit this machine's memory: it ran out while the weights were loaded in {size}; free "
                "memory, or choose a smaller base model"
            ) from error
        # Only the first sentence: what follows advises options of transformers that tunerun does not have.
        text = " ".join(str(error).split())
        sentence = re.split(r"(?<=[.!?])\s", text, maxsplit=1)[0].rstrip(".!")
        kind = type(error).__name__
        reason = f"{kind}: {sentence}" if sentence else f"transformers ends with {kind}"
        raise BaseModelError(f"{what} cannot be loaded: {reason}; choose another base model") from error


def _load(folder: Path, gguf_file: str | None, **how: Any) -> Any:
    from transformers import AutoModelForCausalLM, __version__
    from transformers.utils import logging

    logging.disable_progress_bar()
    if gguf_file is None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = config.get("model_type")
        is_known = private_names.knows_architecture(kind)
        if not is_known and config.get("auto_map"):
            raise _RefusedError("it needs Python code of its own (auto_map in config.json), which tunerun never runs")
        if not is_known:
            raise _RefusedError(f"its architecture {kind!r} is not known to the installed transformers {__version__}")
        if not private_names.is_causal_language_model(kind):
            raise _RefusedError(f"its architecture {kind!r} is not a causal language model")

    network, info = AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=gguf_file,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        ignore_mismatched_sizes=True,  # they are refused below, by name
        output_loading_info=True,
        **how,
    )
    for problem in _incomplete(network, info):
        raise _RefusedError(problem)
    network.eval().requires_grad_(False)
    _check_causal(network)
    return network


def _incomplete(network: Any, info: dict[str, Any]) -> Iterator[str]:
    """Yield the reasons why the files do not contain the model that config.json describes."""
    if info["mismatched_keys"]:
        name, found, wanted = sorted(info["mismatched_keys"])[0]
        yield (
            f"{_named([key for key, *_ in info['mismatched_keys']])} have another shape in the files than config.json "
            f"gives them ({name}: {list(found)}, not {list(wanted)})"
        )
    if info["missing_keys"]:
        yield f"the files lack {_named(info['missing_keys'])}, which would be initialised at random"
    layers = getattr(network.config.get_text_config(), "num_hidden_layers", None)
    stored = layer_count(info["unexpected_keys"])
    if stored is not None and layers is not None and stored > layers:
        yield f"the files have {stored} layers, config.json states {layers}"
    for message in info["error_msgs"]:
        yield str(message)


def _named(names: Sequence[str]) -> str:
    shown = sorted(names)[:_MOST_NAMES]
    more = len(names) - len(shown)
    what = "1 weight" if len(names) == 1 else f"{len(names)} weights"
    return f"{what} ({', '.join(shown)}{', ...' if more else ''})"


@torch.no_grad()
def _check_causal(network: Any) -> None:
    """Refuse a network in which a token changes the logits of earlier tokens, or whose logits are not finite."""
    rows = network.get_input_embeddings().weight.shape[0]
    ids = [number % rows for number in range(3, 3 + _PROBE_TOKENS)]
    other = [*ids[:-1], (ids[-1] + 1) % rows]
    logits = (
        network(input_ids=torch.tensor([ids, other], device=network.device), use_cache=False).logits[:, :-1].float()
    )
    if not bool(torch.isfinite(logits).all()):
        raise _RefusedError("its weights contain or produce NaN or infinity")
    difference, spread = (logits[0] - logits[1]).abs().max(), logits.std()
    if float(difference) > _TOLERANCE[network.dtype] * float(spread):
        raise _RefusedError("it is not causal: a token changes the logits of the tokens before it")
