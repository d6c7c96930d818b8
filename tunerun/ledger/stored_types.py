"""The types that readers expect of what a record stores as free JSON: configs, and the sweep's document.

A ledger of this project was written by `tunerun.ledger` itself; a record from elsewhere may say anything. Unknown and
missing keys are accepted, as in every stored object (`tunerun.stored`): other versions may have written them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from tunerun.generation import GenerateOptions
from tunerun.job import Scalar, TemplateText, TuningHyperparameters
from tunerun.provenance.facts import Facts

_MOST_PROBLEMS = 5
"""Most problems that are listed of one object, one line each."""


@dataclass(frozen=True)
class _HeldOut:
    path: str | None = None
    fraction: float | None = None


@dataclass(frozen=True)
class _Dataset:
    path: str | None = None
    on_bad_row: str | None = None
    limit: int | None = None
    split_seed: int | None = None
    stratify_by: str | None = None
    cluster_by: str | None = None
    license: str | None = None
    validation: _HeldOut | None = None
    test: _HeldOut | None = None


@dataclass(frozen=True)
class _Model:
    name: str = ""
    source: str | None = None
    package: str | None = None
    revision: str | None = None
    license: str | None = None


@dataclass(frozen=True)
class _Backend:
    kind: str = ""


@dataclass(frozen=True)
class _Evaluation:
    metrics: list[Any] | None = None
    decide_by: str | None = None
    generation: GenerateOptions | None = None
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05
    stop_early: bool = False
    worth: float = 0.0


@dataclass(frozen=True)
class _Paths:
    cache: str | None = None


@dataclass(frozen=True)
class _Config:
    """The keys of a trial's config that are read, by `TrialSettings` and by code that shows a config."""

    name: str = ""
    seed: int = 0
    dataset: _Dataset | None = None
    template: TemplateText | None = None
    model: _Model = _Model()
    hyperparameters: TuningHyperparameters | None = None
    backend: _Backend | None = None
    evaluation: _Evaluation | None = None
    paths: _Paths | None = None


@dataclass(frozen=True)
class _Code:
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Document:
    """The keys of a sweep's document that are read."""

    code: _Code | None = None
    varied: tuple[str, ...] | None = None
    pins: Mapping[str, Scalar] | None = None
    warnings: tuple[str, ...] = ()
    round: int = 0
    data: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)
    held_out_rows: Mapping[str, str] = field(default_factory=dict)
    clusters: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    metrics: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    judges: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    facts: Facts | None = None


_CONFIG = TypeAdapter(_Config)
_DOCUMENT = TypeAdapter(_Document)


def problems_of_config(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield values of a trial's config that its readers could not use, with the dotted key."""
    return _problems(_CONFIG, config)


def problems_of_document(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield values of a sweep's document that its readers could not use, with the dotted key."""
    return _problems(_DOCUMENT, document)


def _problems(kind: TypeAdapter[Any], values: Mapping[str, Any]) -> Iterator[str]:
    try:
        # Strict, as the readers are not: they take a value as it is, and would fail somewhere else.
        kind.validate_json(json.dumps(values), strict=True)  # as JSON, where a tuple is a list
    except ValidationError as error:
        lines = error.errors(include_input=False, include_url=False, include_context=False)
        yield from (f"{'.'.join(map(str, each['loc']))[:200]}: {each['msg']}" for each in lines[:_MOST_PROBLEMS])
