"""Writes rendered examples into the file formats of tuning providers, after a check against the providers' limits.

Every file can be read back with `dataset.path=...` and `template=plain`, and gives the same examples. Examples that a
format cannot represent are refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunerun.dataset.loading import LoadedDataset
from tunerun.errors import InputError, LimitError
from tunerun.examples import Example, ExampleSet
from tunerun.tuning_guide import GUIDE, MOST_INPUT_CHARACTERS, MOST_OUTPUT_CHARACTERS, SAFE_TRAINING_BYTES

_GIB = 2**30


@dataclass(frozen=True)
class ProviderFormat:
    """A provider's format for examples, and its limits.

    Attributes:
        ending: of its files.
        row: an example as a JSON object.
        is_list: whether a file is one JSON list; else a JSON object a line.
        has_conversations: whether it can represent a system message and several turns.
        has_weights: whether it can mark an answer as not learned.
        held_out: names of the held-out sets that it accepts.
        max_bytes: of a file; None: no limit. max_input_characters, max_output_characters: of an example.
        min_examples, max_validation: numbers of examples.
        source: the document that states the limits, with its date.
    """

    name: str
    ending: str
    row: Callable[[Example], dict[str, Any]]
    source: str
    is_list: bool = False
    has_conversations: bool = True
    has_weights: bool = True
    held_out: tuple[str, ...] = ("validation", "test")
    max_bytes: int | None = None
    max_input_characters: int | None = None
    max_output_characters: int | None = None
    min_examples: int = 1
    max_validation: int | None = None


def _messages(example: Example) -> dict[str, Any]:
    messages: list[dict[str, Any]] = [{"role": "system", "content": example.system}] if example.system else []
    for turn in example.turns:
        # 1 is the default of OpenAI's format.
        weight = {} if turn.is_learned else {"weight": 0}
        messages.append({"role": "user", "content": turn.text_input})
        messages.append({"role": "assistant", "content": turn.output, **weight})
    return {"messages": messages}


def _contents(example: Example) -> dict[str, Any]:
    messages = [each for turn in example.turns for each in (("user", turn.text_input), ("model", turn.output))]
    contents = {"contents": [{"role": role, "parts": [{"text": text}]} for role, text in messages]}
    if not example.system:
        return contents
    return {"systemInstruction": {"role": "system", "parts": [{"text": example.system}]}, **contents}


FORMATS = {
    each.name: each
    for each in (
        ProviderFormat(
            "gemini",
            "json",
            lambda example: {"text_input": example.text_input, "output": example.output},
            GUIDE,
            is_list=True,
            has_conversations=False,
            has_weights=False,
            held_out=(),
            max_bytes=SAFE_TRAINING_BYTES,
            max_input_characters=MOST_INPUT_CHARACTERS,
            max_output_characters=MOST_OUTPUT_CHARACTERS,
        ),
        ProviderFormat(
            "vertex",
            "jsonl",
            _contents,
            "Vertex AI supervised tuning, page of 2026-09-25",
            has_weights=False,
            held_out=("validation",),
            max_bytes=_GIB,
            max_validation=5_000,
        ),
        ProviderFormat(
            "openai",
            "jsonl",
            _messages,
            "OpenAI fine-tuning and files reference, read 2026-11-22",
            held_out=("validation",),
            max_bytes=512 * 2**20,
            min_examples=10,
        ),
        ProviderFormat(
            "together",
            "jsonl",
            _messages,
            "Together fine-tuning data preparation, read 2026-11-23",
            held_out=("validation",),
            max_bytes=100 * _GIB,
        ),
        ProviderFormat("messages", "jsonl", _messages, "no provider's: conversations as most tools read them"),
    )
}


@dataclass(frozen=True)
class ExportedDataset:
    """The files that were written, and notes on what was left out or changed, one line each."""

    files: tuple[Path, ...]
    notes: tuple[str, ...]


def export(loaded: LoadedDataset, format_: ProviderFormat, folder: Path) -> ExportedDataset:
    """Write the training examples and the held-out sets that the provider accepts, each into its own file.

    Args:
        folder: created if missing; a file in it with other content is not overwritten.

    Raises:
        LimitError: the provider would refuse the examples; nothing was written.
        InputError: a file is in the way, or the folder cannot be written.
    """
    sets = {"training": loaded.training, "validation": loaded.validation, "test": loaded.test}
    configured = {name: examples for name, examples in sets.items() if examples is not None}
    written = {name: examples for name, examples in configured.items() if name in ("training", *format_.held_out)}

    # All files are made before the first is written: a provider's refusal leaves nothing behind.
    contents: dict[str, bytes] = {}
    for name, examples in written.items():
        rows = [json.dumps(format_.row(example), ensure_ascii=False) for example in examples.examples]
        text = "[\n" + ",\n".join(rows) + "\n]\n" if format_.is_list else "".join(f"{row}\n" for row in rows)
        contents[name] = text.encode()
    problems = [
        line for name, examples in written.items() for line in _problems(name, examples, contents[name], format_)
    ]
    if problems:
        raise LimitError("\n".join(problems))

    files = {folder / f"{name}.{format_.ending}": content for name, content in contents.items()}
    blocked = [file for file, content in files.items() if file.exists() and file.read_bytes() != content]
    if blocked:
        raise InputError([f"{file}: exists with other content; move it, or set --output" for file in blocked])

    for file, content in files.items():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        except OSError as error:
            raise InputError(f"{file}: {error.strerror}; choose another --output") from error

    notes = [
        f"{name}: {len(examples.examples):,} examples were left out; {format_.name} takes no {name} set"
        for name, examples in configured.items()
        if name not in written
    ]
    return ExportedDataset(tuple(files), tuple(notes))


def _problems(name: str, examples: ExampleSet, content: bytes, format_: ProviderFormat) -> list[str]:
    count, by = len(examples.examples), f"{format_.name} ({format_.source})"
    problems = []
    if format_.max_bytes is not None and len(content) > format_.max_bytes:
        problems.append(f"{name}: {len(content):,} bytes, {by} takes {format_.max_bytes:,}; set dataset.limit")
    if name == "training" and count < format_.min_examples:
        problems.append(f"{name}: {count} examples, {by} wants at least {format_.min_examples}; add more")
    if name == "validation" and format_.max_validation is not None and count > format_.max_validation:
        problems.append(f"{name}: {count:,} examples, {by} takes {format_.max_validation:,}; hold fewer out")
    if not format_.has_conversations and (some := sum(each.is_conversation for each in examples.examples)):
        what = f"{some:,} of {count:,} examples have a system message or several turns"
        problems.append(
            f"{name}: {what}, {by} takes one input and its output; choose --format vertex, openai or messages"
        )
    elif not format_.has_weights and (some := sum(not t.is_learned for each in examples.examples for t in each.turns)):
        what = f"{some:,} answers have weight 0, {by} has no place for that and would learn them"
        problems.append(f"{name}: {what}; choose --format openai or messages, or leave those rows out")
    for part, limit in (("text_input", format_.max_input_characters), ("output", format_.max_output_characters)):
        longest = max(len(getattr(example, part)) for example in examples.examples)
        if limit is not None and longest > limit:
            problems.append(f"{name}: {part} of {longest:,} characters, {by} takes {limit:,}; shorten it")
    return problems
