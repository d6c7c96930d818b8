"""Examples as JSON: what their digests hash, and what the ledger, the service and files keep of them.

An example of one turn has the shape that it had before there were conversations, so that digests, keys and old files
stay as they are; a system message and earlier turns are added where there are some.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tunerun.digest import digest_of_list
from tunerun.examples import Example, Turn


def digest_of_examples(examples: Iterable[Example]) -> str:
    """Return the digest of examples in their order: of `[{"output": "2", "text_input": "1"}, ...]`."""
    return digest_of_list(example.document for example in examples)


def from_object(document: Mapping[str, Any]) -> Example:
    """Return the example of a JSON object that is an `Example.document`.

    Raises:
        KeyError, TypeError: it is not one.
    """
    return _example(document["text_input"], document["output"], document)


def to_list(example: Example) -> list[Any]:
    """Return an example as a JSON list: `[text_input, output]`, and an object of `system` and `earlier` behind them."""
    texts = [example.text_input, example.output]
    if not example.is_conversation:
        return texts
    before = {name: value for name, value in example.document.items() if name in ("system", "earlier")}
    return [*texts, before]


def from_list(parts: Sequence[Any]) -> Example:
    """Return the example of a list that `to_list` made.

    Raises:
        KeyError, TypeError, ValueError: it is not one.
    """
    if len(parts) == 2:
        return Example(*parts)
    text_input, output, before = parts
    return _example(text_input, output, before)


def _example(text_input: Any, output: Any, more: Mapping[str, Any]) -> Example:
    texts = (text_input, output, more.get("system", ""))
    earlier = tuple(
        Turn(turn["text_input"], turn["output"], turn.get("is_learned", True)) for turn in more.get("earlier", ())
    )
    if not all(
        isinstance(text, str) for text in (*texts, *(t for turn in earlier for t in (turn.text_input, turn.output)))
    ):
        raise TypeError("an example's texts have to be strings")
    return Example(*texts, earlier)
