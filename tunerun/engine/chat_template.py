"""Reads and renders a base model's chat template. Needs only jinja2.

Templates are written for transformers' `apply_chat_template`, and get the same variables here; tests compare both. Two
things differ on purpose: thinking is off, and the date is constant.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tunerun.template.sandbox import BoundedEnvironment

TODAY = datetime(2024, 7, 26)
"""The date for templates: Llama 3's default without a clock. Constant, because a tuned model has to be called with the
date it was trained with, and a trial has to give the same result every day."""

VERSION = 2
"""The version of the derivation of chat formats. Raise it when a base model gets another chat format."""

IN_KEY = f"{VERSION}, {TODAY:%Y-%m-%d}"
"""The chat format's part of a trial's key; the rest follows from the base model's content, which is in the key."""

_THINKING_OFF = {"enable_thinking": False, "thinking": False}
"""Variables that switch thinking off: in Qwen3, SmolLM3, GLM-4.5 and others; in DeepSeek-V3.1 and Granite."""

_FAULTS = (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)


class UnusableTemplateError(Exception):
    """Why a base model's chat template cannot be used, as a clause about the model."""


def check_folder(folder: Path) -> None:
    """Check the chat template of a folder in transformers' format, without loading the model.

    Raises:
        UnusableTemplateError: there are several templates without a default, or the template fails or does not write
            each text exactly once.
    """
    config = _json(folder / "special_tokens_map.json") | _json(folder / "tokenizer_config.json")
    file = folder / "chat_template.jinja"
    template = config.get("chat_template")
    if isinstance(template, list):
        template = {one.get("name"): one.get("template") for one in template if isinstance(one, dict)}
    if file.is_file():  # has precedence, as in transformers
        template = file.read_text(encoding="utf-8", errors="replace")
    tokens = {
        name: str(value.get("content", "")) if isinstance(value, dict) else str(value)
        for name, value in config.items()
        if name.endswith("_token")
    }
    check(default_of(template), tokens)


def _json(file: Path) -> dict[str, Any]:
    """Read a JSON object; empty for a damaged file, which `model_facts` reports."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def check(template: str | None, tokens: Mapping[str, str]) -> None:
    """Check a chat template.

    Args:
        template: the chat template; None: the model has none, which is valid.
        tokens: texts of special tokens by name, such as `bos_token`.

    Raises:
        UnusableTemplateError: the template fails, or does not write each text exactly once.
    """
    if template is not None:
        around(template, tokens)


def default_of(template: object) -> str | None:
    """Return the template to use from a tokenizer's `chat_template`.

    Args:
        template: one template, several by name, or None.

    Raises:
        UnusableTemplateError: there are several, and none is named `default`.
    """
    if not isinstance(template, Mapping):
        return template if isinstance(template, str) and template else None
    if not isinstance(template.get("default"), str):
        raise UnusableTemplateError(
            f"it has several chat templates ({', '.join(map(str, template))}) and no default; name one of them "
            "`default` in its tokenizer_config.json"
        )
    return str(template["default"])


def around(template: str, tokens: Mapping[str, str]) -> tuple[str, str, str]:
    """Return the text before, between and after the two texts of a rendered conversation of two turns.

    Args:
        template: the chat template.
        tokens: texts of special tokens by name, such as `bos_token`.

    Raises:
        UnusableTemplateError: the template fails, or does not write each text exactly once.
    """
    problems = []
    # Templates of models with image input may accept a list of parts only; the first problem is the one to report.
    for content in (_plain, _parts):
        turns = [{"role": "user", "content": content(_INPUT)}, {"role": "assistant", "content": content(_OUTPUT)}]
        try:
            rendered = render(template, turns, tokens)
        except _FAULTS as error:
            problems.append(f"it fails with {type(error).__name__}: {_one_line(error)}")
            continue
        before, _, rest = rendered.partition(_INPUT)
        between, _, after = rest.partition(_OUTPUT)
        if f"{before}{_INPUT}{between}{_OUTPUT}{after}" == rendered and _INPUT not in rest and _OUTPUT not in after:
            return before, between, after
        problems.append(
            f"of a conversation of two turns it shows the user's text {rendered.count(_INPUT)} times and the "
            f"assistant's {rendered.count(_OUTPUT)} times, not each once and in this order"
        )
    raise UnusableTemplateError(
        f"its chat template cannot be used: {problems[0]}; correct the template or remove it, or choose another model"
    )


def around_turns(template: str, tokens: Mapping[str, str]) -> tuple[tuple[str, str], str, str]:
    """Return the text that a template writes around earlier turns.

    Returns:
        The text before the first input and the text between an earlier input and its output; the text between an
        earlier output and the next input; the text between the last input and its output.

    Raises:
        UnusableTemplateError: the template fails, does not write each text exactly once, or writes the earlier turns of
            a longer conversation differently.
    """
    # That earlier turns are alike cannot be seen in two rounds, which have only one earlier turn.
    two, three = _parts_of_turns(template, tokens, 2), _parts_of_turns(template, tokens, 3)
    first, suffix, between, last, end = two
    if three != [first, suffix, between, suffix, between, last, end]:
        raise UnusableTemplateError("its chat template does not write every earlier turn in the same way")
    return (first, suffix), between, last


def around_system(template: str, tokens: Mapping[str, str], *, has_turns: bool) -> tuple[str, str]:
    """Return the text before a system message, and the text between it and the first input.

    Args:
        template: the chat template.
        tokens: texts of special tokens by name.
        has_turns: whether it supports several turns, which then have to be the same after a system message.

    Raises:
        UnusableTemplateError: the template fails, does not write the message exactly once, or writes other parts
            differently after a system message.
    """
    forms: set[tuple[str, str]] = set()
    for rounds in (1, 2, 3) if has_turns else (1,):
        before, after, *rest = _parts_of_turns(template, tokens, rounds, has_system=True)
        forms.add((before, after))
        if rest != _parts_of_turns(template, tokens, rounds)[1:]:
            raise UnusableTemplateError("its chat template writes turns in another way behind a system message")
    if len(forms) > 1:
        raise UnusableTemplateError("its chat template writes a system message in another way before several turns")
    return forms.pop()


def _parts_of_turns(template: str, tokens: Mapping[str, str], rounds: int, *, has_system: bool = False) -> list[str]:
    """Return the text before, between and after the texts of several rounds of input and output."""
    problem = ""
    what = "a system message" if has_system else "several turns"
    texts_in_words = "a system message" if has_system else "the text of every earlier turn"
    roles = (["system"] if has_system else []) + ["user", "assistant"] * rounds
    texts = [f"tunerun7{role}7mark{number}end" for number, role in enumerate(roles)]
    for content in (_plain, _parts):
        turns = [{"role": role, "content": content(text)} for role, text in zip(roles, texts, strict=True)]
        try:
            rendered = render(template, turns, tokens)
        except _FAULTS as error:
            problem = problem or f"fails for {what} with {type(error).__name__}: {_one_line(error)}"
            continue
        parts = _MARK.split(rendered)
        if _MARK.findall(rendered) == texts:
            return parts
        problem = problem or f"does not show {texts_in_words} exactly once and in order"
    raise UnusableTemplateError(f"its chat template {problem}")


_MARK = re.compile(r"tunerun7(?:system|user|assistant)7mark[0-9]+end")
_INPUT = "tunerun7input7mark"
_OUTPUT = "tunerun7output7mark"


def _plain(text: str) -> str:
    return text


def _parts(text: str) -> list[dict[str, str]]:
    """Return the form of content that templates of models with image input may require."""
    return [{"type": "text", "text": text}]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or "no reason given"


def render(template: str, turns: Sequence[Mapping[str, Any]], tokens: Mapping[str, str]) -> str:
    """Render a conversation like `apply_chat_template`, but with thinking off and the date `TODAY`.

    Args:
        template: the chat template.
        turns: messages with `role` and `content`.
        tokens: texts of special tokens by name.

    Raises:
        jinja2.TemplateError: the template is invalid, exceeds the limit on its work, or raises an exception. Errors of
            Python's own types are not translated.
    """
    names = {"messages": turns, "tools": None, "documents": None, "add_generation_prompt": False}
    return _compiled(template)({**tokens, **_THINKING_OFF, **names})


@lru_cache(maxsize=8)
def _compiled(template: str) -> Callable[[dict[str, Any]], str]:
    environment = _ChatEnvironment()
    return environment.compiled(environment.parse(template), template)


class _ChatEnvironment(BoundedEnvironment):
    """transformers' environment for chat templates, with a limit on work: templates come from untrusted sources."""

    def __init__(self) -> None:
        super().__init__()
        own = ImmutableSandboxedEnvironment()
        self.undefined, self.keep_trailing_newline, self.tests = own.undefined, False, own.tests
        self.trim_blocks = self.lstrip_blocks = True
        self.filters["tojson"] = self._bounded("tojson", _to_json)
        self.globals |= {
            "dict": own.globals["dict"],
            "namespace": own.globals["namespace"],
            "range": own.globals["range"],
            "raise_exception": _refuse,
            "strftime_now": TODAY.strftime,
        }
        for extension in (_GenerationBlock, loopcontrols):
            self.add_extension(extension)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return an attribute or a key."""
        return ImmutableSandboxedEnvironment.getattr(self, obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Return a key or an attribute."""
        return ImmutableSandboxedEnvironment.getitem(self, obj, argument)

    def _check_method(self, owner: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if isinstance(owner, str):
            super()._check_method(owner, name, args, kwargs)
        else:  # the sandbox allows only methods that change nothing
            self.charge(self.measure(owner) + self.measure([*args, *kwargs.values()]))

    def _printable(self, value: Any) -> Any:
        self.charge(self.measure(value))
        return value


def _to_json(value: object, indent: int | None = None, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=ensure_ascii, **options)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


class _GenerationBlock(Extension):
    """transformers' block `generation`, which marks learned text; here it only renders its body."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Any) -> nodes.Node:
        """Return the block's body in a scope of its own."""
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)
