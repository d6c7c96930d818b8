"""Detects a judge that judges its own answers."""

from __future__ import annotations

import re


def is_same_model(judge: str, *names: str) -> bool:
    """Return whether a judge is a base model or a model tuned from it, by its name.

    Args:
        judge: the name that its service has for it.
        names: the names of the base model.
    """
    # Services write one model in several ways: `org/Name-1B`, `name-1b`, `ft:name-1b:org::id`.
    base = judge.split(":")[1] if judge.startswith("ft:") and judge.count(":") > 1 else judge
    own = _plain(base)
    return bool(own) and own in {_plain(name) for name in names}


def same(judge: str, model: str) -> str:
    """Return the warning about a judge that judges its own answers.

    Args:
        judge, model: the names of the judge and of the base model.
    """
    return (
        f"WARNING: the judge {judge} is the base model {model} itself or made of it; models prefer their own answers "
        "(Panickssery et al. 2024, arXiv:2404.13076), so let another model judge"
    )


def _plain(name: str) -> str:
    last = re.split(r"[/\\]", name)[-1].casefold()
    return re.sub(r"[^a-z0-9]", "", last.removesuffix(".gguf").removesuffix("-instruct"))
