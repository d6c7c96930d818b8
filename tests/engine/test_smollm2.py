"""The real small model, from the package's GGUF file to the answers of a tuned model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from tests.engine.test_generation import texts, transformers_answer, tune
from tunerun.engine import base_model, encoding, network, prepared_model, token_counter
from tunerun.engine.generation import Generation
from tunerun.examples import Example, Turn, messages_of
from tunerun.generation import GenerateOptions
from tunerun.job import BaseModelRef, TemplateText, TuningHyperparameters, TuningRequest

# PEFT 0.21 asks transformers 5.23 by an old name.
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")]

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "next_number"
OPTIONS = GenerateOptions(max_output_tokens=8)


def test_tuning_learns_and_peft_agrees(smollm2: BaseModelRef, cache: Path, tmp_path: Path) -> None:
    """Three epochs on the guide's examples lower the loss; PEFT and transformers alone answer the same."""
    rows = json.loads((EXPERIMENT / "train.json").read_text())
    examples = tuple(Example(row["text_input"], row["output"]) for row in rows)
    torch.set_num_threads(1)  # on a busy machine two wait for each other longer than they work
    base = network.load(smollm2, cache, network.choose_device("cpu"))
    counter = token_counter.token_counter(smollm2, cache)
    lengths = [len(one) for one in encoding.encode_examples(base.tokenizer, base.chat, examples)]
    assert counter.exact
    assert counter.count_all(examples) == lengths
    request = TuningRequest(
        key="a" * 64,
        tuned_model_id="next-number",
        model=smollm2,
        hyperparameters=TuningHyperparameters(epoch_count=3),
        seed=0,
        template=TemplateText(),
        training=examples,
        validation=(Example("five", "six"), Example("41", "42")),
    )
    folder = tune(base, request, tmp_path)
    status = json.loads((folder / "status.json").read_text())
    losses = [snapshot["mean_loss"] for snapshot in status["snapshots"]]
    assert sum(losses[-4:]) < sum(losses[:4]) / 2
    assert status["metrics"]["validation/loss"] < status["metrics"]["validation/base_loss"] / 2
    inputs = ["5", "forty one", "one hundred"]
    generation = Generation(base)
    prepared = prepared_model.model_folder(base_model.find(smollm2, cache), cache)
    assert texts(generation, folder, inputs, OPTIONS) == [
        transformers_answer(str(prepared), folder, text, OPTIONS.max_output_tokens) for text in inputs
    ]
    assert texts(generation, None, inputs[:1], OPTIONS) == [
        transformers_answer(str(prepared), None, inputs[0], OPTIONS.max_output_tokens)
    ]


def test_tokens_of_conversations_are_those_of_apply_chat_template(smollm2: BaseModelRef, cache: Path) -> None:
    """With and without a system message, of one turn and of several, tokens are those of the model's chat template."""
    from transformers import AutoTokenizer

    folder = prepared_model.prepare(smollm2, cache)
    found = base_model.find(smollm2, cache)
    transformers = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    chat, turns = (
        prepared_model.read_chat_format(found, cache),
        prepared_model.earlier_turns_or_derived(smollm2, found, cache),
    )
    tokenizer = Tokenizer.from_file(str(prepared_model.tokenizer_file(found, cache)))
    earlier = (Turn("How do I\n\nreset my card?", "Tap it twice."), Turn("And 你好 🙂?", "One line.", is_learned=False))
    rows = [
        Example("five", "six", system, earlier[:count])
        for system in ("", "Be brief.\n\nBe kind.")
        for count in (0, 1, 2)
    ]
    for row, encoded in zip(rows, encoding.encode_examples(tokenizer, chat, rows, turns), strict=True):
        messages = [*messages_of(row.input), {"role": "assistant", "content": row.output}]
        expected = transformers.apply_chat_template(messages, return_dict=True)["input_ids"]
        ours = encoded.prompt + encoded.target
        assert ours == expected[: len(ours)]
        assert transformers.decode(expected[len(ours) :]).strip() == ""
        learned = [turn.output + chat.end for turn in row.earlier if turn.is_learned]
        assert [transformers.decode(encoded.prompt[start:stop]) for start, stop in encoded.earlier] == learned
