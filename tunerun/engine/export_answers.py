"""Answers of exported files, loaded with transformers alone as in a model card's code. Imports torch.

An export compares them with the answers of the tuned model itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from tunerun.engine import network, prepared_model
from tunerun.engine.chat_format import ChatFormat
from tunerun.engine.generation import Generation
from tunerun.errors import BackendError
from tunerun.examples import Input, messages_of
from tunerun.generation import GenerateOptions, prompt_of
from tunerun.job import BaseModelRef

ROWS = 8
"""Inputs of one batch: one by one SmolLM2-135M took 60 s for 24 rows on two busy cores (measured 2026-11-26)."""


def of_merged(folder: Path, inputs: Sequence[Input], chat: ChatFormat) -> list[str]:
    """Answer inputs with a folder that `merging.save_merged` wrote.

    Raises:
        BackendError: transformers cannot load the folder.
    """

    def load() -> tuple[Any, Any]:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
        return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)

    return _answers(load, inputs, chat, {})


def of_adapter(folder: Path, model: BaseModelRef, cache: Path, inputs: Sequence[Input], chat: ChatFormat) -> list[str]:
    """Answer inputs with a folder that `merging.save_adapter` wrote, on the base model of this machine.

    Raises:
        BackendError: transformers or peft cannot load the folder.
    """

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
    """Answer inputs with a GGUF file as transformers reads it back.

    Raises:
        BackendError: transformers cannot load the file.
    """

    def load() -> tuple[Any, Any]:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        where = {"gguf_file": file.name, "local_files_only": True}
        model = AutoModelForCausalLM.from_pretrained(file.parent, **where)
        return model, AutoTokenizer.from_pretrained(file.parent, **where)

    # A GGUF file does not contain transformers' generation config, so the options are given here.
    return _answers(load, inputs, chat, {"max_new_tokens": options.max_output_tokens, "do_sample": False})


def of_tuned(
    folder: Path, model: BaseModelRef, cache: Path, inputs: Sequence[Input], options: GenerateOptions
) -> list[str]:
    """Answer inputs with the tuned model itself, like `tunerun predict`.

    Raises:
        InputError: one of the inputs cannot be answered.
    """
    generation = Generation(network.load(model, cache, network.choose_device("cpu")))
    prompts = [prompt_of(each, options, str(folder)) for each in inputs]
    return [getattr(answer, "text", "") for answer in generation.answer(prompts, all_or_none=True)]


@torch.no_grad()
def _answers(
    load: Callable[[], tuple[Any, Any]], inputs: Sequence[Input], chat: ChatFormat, settings: dict[str, Any]
) -> list[str]:
    """Return the answers of a model and a tokenizer; `settings` are further arguments of transformers' `generate`."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    answers: list[str] = []
    try:
        model, tokenizer = load()
        model.eval()
        tokenizer.padding_side = "left"
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        for start in range(0, len(inputs), ROWS):
            prompts = tokenizer.apply_chat_template(
                list(map(messages_of, inputs[start : start + ROWS])),
                add_generation_prompt=True,
                padding=True,
                return_dict=True,
                return_tensors="pt",
            )
            tokens = model.generate(**prompts, **settings)[:, prompts["input_ids"].shape[1] :]
            answers += map(str, tokenizer.batch_decode(tokens, skip_special_tokens=True))
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise BackendError(f"transformers cannot load what was written: {type(error).__name__}: {error}") from error
    finally:
        logging.set_verbosity(verbosity)
    return [answer.removeprefix(chat.start).removesuffix(chat.space_before_end) for answer in answers]
