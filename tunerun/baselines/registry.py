"""The kinds of baseline, each a module of its own.

A new kind is a module with `KIND`, `baselines(setting)` and `restored(subject, document)`, and a line here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from tunerun.baselines import few_shot, majority, untuned
from tunerun.baselines.base import Baseline, Setting


class BaselineModule(Protocol):
    """What a kind's module offers."""

    KIND: str

    def baselines(self, setting: Setting) -> list[Baseline]:
        """The baselines of this kind that trials of a setting are compared with; none where it makes no sense."""
        ...

    def restored(self, subject: str, document: Mapping[str, Any]) -> Baseline:
        """The baseline that wrote a document, to be asked again."""
        ...

    def words(self, document: Mapping[str, Any]) -> str:
        """What a sentence calls the baseline that wrote a document."""
        ...


_KINDS: Mapping[str, BaselineModule] = {module.KIND: module for module in (untuned, few_shot, majority)}
"""In the order of tables."""


def baselines_of(setting: Setting) -> list[Baseline]:
    """Every baseline that trials of a setting are compared with, in the order of tables."""
    return [baseline for kind in _KINDS.values() for baseline in kind.baselines(setting)]


def is_base_model(kind: str) -> bool:
    """Whether a kind is the bare base model, whose validation loss a backend measures while it tunes."""
    return kind == untuned.KIND


def restored(kind: str, subject: str, document: Mapping[str, Any]) -> Baseline | None:
    """The baseline that was frozen with a sweep; None: no such kind, or its document is empty."""
    module = _KINDS.get(kind)
    return None if module is None or not document else module.restored(subject, document)


def words(kind: str, document: Mapping[str, Any]) -> str:
    """What a sentence calls a baseline; empty: this version has no such kind."""
    module = _KINDS.get(kind)
    return "" if module is None else module.words(document)
