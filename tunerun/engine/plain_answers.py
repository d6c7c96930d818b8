"""What exported files answer when they are loaded as a model card's code loads them: by transformers alone. Heavy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from tunerun.engine import network, prepared_model
from tunerun.engine.chat import ChatFormat
from tunerun.engine.generation import Generation
from tunerun.errors import BackendError
from tunerun.job import BaseModelRef, GenerateOptions, Input, messages_of, prompt_of

ROWS = 8
"""Inputs answered at once: one by one SmolLM2-135M took 60 s for 24 rows on two busy cores (measured 2026-11-26)."""


def of_merged(folder: Path, inputs: Sequence[Input], chat: ChatFormat) -> list[str]:
    """Ask a folder that `merging.save_merged` wrote."""

    def load() -> tuple[Any, Any]:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True), AutoTokenizer.from_pretrained(
            folder, local_files_only=True
        )

    return _answers(load, inputs, chat, {})


def of_adapter(folder: Path, model: BaseModelRef, cache: Path, inputs: Sequence[Input], chat: ChatFormat) -> list[str]:
    """Ask a folder that `merging.save_adapter` wrote, on the base model as it is on this machine."""

    def load() -> tuple[Any, Any]:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

        base = AutoModelForCausalLM.from_pretrained(prepared_model.prepare(model, cache), local_files_only=True)
        base.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
        with network.peft_warnings_ignored():
            adapted = PeftModel.from_pretrained(base, folder)
        return adapted, AutoTokenizer.from_pretrained(folder, local_files_only=True)

    return _answers(load, inputs, chat, {})


def of_gguf(file: Path, inputs: Sequence[Input], chat: ChatFormat, options: GenerateOptions) -> list[str]:
    """Ask a GGUF file, read back by transformers."""

    def load() -> tuple[Any, Any]:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        where = {"gguf_file": file.name, "local_files_only": True}
        return AutoModelForCausalLM.from_pretrained(file.parent, **where), AutoTokenizer.from_pretrained(
            file.parent, **where
        )

    return _answers(load, inputs, chat, {"max_new_tokens": options.max_output_tokens, "do_sample": False})


def of_tuned(
    folder: Path, model: BaseModelRef, cache: Path, inputs: Sequence[Input], options: GenerateOptions
) -> list[str]:
    """Ask the tuned model itself, as `tunerun predict` does.

    Raises:
        InputError: it has no answer to one of them.
    """
    generation = Generation(network.load(model, cache, network.choose_device("cpu")))
    prompts = [prompt_of(asked, options, str(folder)) for asked in inputs]
    return [getattr(answer, "text", "") for answer in generation.answer(prompts, all_or_none=True)]


@torch.no_grad()
def _answers(
    load: Callable[[], tuple[Any, Any]], inputs: Sequence[Input], chat: ChatFormat, manner: dict[str, Any]
) -> list[str]:
    from transformers.utils import logging

    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        model, tokenizer = load()
        tokenizer.padding_side = "left"
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        batches = [inputs[start : start + ROWS] for start in range(0, len(inputs), ROWS)]
        return [answer for batch in batches for answer in _batch(model.eval(), tokenizer, batch, chat, manner)]
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise BackendError(f"transformers cannot load what was written: {type(error).__name__}: {error}") from error
    finally:
        logging.set_verbosity(verbosity)


def _batch(model: Any, tokenizer: Any, inputs: Sequence[Input], chat: ChatFormat, manner: dict[str, Any]) -> list[str]:
    prompts = tokenizer.apply_chat_template(
        list(map(messages_of, inputs)),
        add_generation_prompt=True,
        padding=True,
        return_dict=True,
        return_tensors="pt",
    )
    tokens = model.generate(**prompts, **manner)
    answers = tokenizer.batch_decode(tokens[:, prompts["input_ids"].shape[1] :], skip_special_tokens=True)
    return [str(answer).removeprefix(chat.start).removesuffix(chat.space_before_end) for answer in answers]
