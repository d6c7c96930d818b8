"""The kinds of baseline, each a module of its own.

A new kind is a module with `KIND`, `baselines(setting)` and `restored(subject, document)`, and a line here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from tunerun.baselines import few_shot, majority, untuned
from tunerun.baselines.base import Baseline, Setting


class BaselineModule(Protocol):
    """The functions of a kind's module."""

    KIND: str

    def baselines(self, setting: Setting) -> list[Baseline]:
        """Return the baselines of this kind for trials of a setting; none if the kind does not suit them."""
        ...

    def restored(self, subject: str, document: Mapping[str, Any]) -> Baseline:
        """Return the baseline that wrote a document, to be asked again."""
        ...

    def words(self, document: Mapping[str, Any]) -> str:
        """Return the name in a sentence of the baseline that wrote a document."""
        ...


_KINDS: Mapping[str, BaselineModule] = {module.KIND: module for module in (untuned, few_shot, majority)}
"""In the order of tables."""


def baselines_of(setting: Setting) -> list[Baseline]:
    """Return every baseline that trials of a setting are compared with, in the order of tables."""
    return [baseline for kind in _KINDS.values() for baseline in kind.baselines(setting)]


def is_base_model(kind: str) -> bool:
    """Return whether a kind is the bare base model, whose validation loss a backend measures while it tunes."""
    return kind == untuned.KIND


def restored(kind: str, subject: str, document: Mapping[str, Any]) -> Baseline | None:
    """Return the baseline that was frozen with a sweep; None: no such kind, or its document is empty.

    Args:
        document: from `Baseline.document`.
    """
    # Ledgers of old versions have baselines without a document; their answers are read, but cannot be asked for again.
    module = _KINDS.get(kind)
    return None if module is None or not document else module.restored(subject, document)


def words(kind: str, document: Mapping[str, Any]) -> str:
    """Return the name of a baseline in a sentence; empty: this version has no such kind."""
    module = _KINDS.get(kind)
    return "" if module is None else module.words(document)
