"""The rows of the service's state, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class ModelState(StrEnum):
    """State of a tuned model."""

    CREATING = "CREATING"
    ACTIVE = "ACTIVE"
    FAILED = "FAILED"


class Role(StrEnum):
    """A user's role on a tuned model; each includes the rights of the next one."""

    OWNER = "OWNER"
    WRITER = "WRITER"
    READER = "READER"

    def includes(self, other: Role) -> bool:
        """Whether it has the rights of the other role."""
        return _RANKS.index(self) <= _RANKS.index(other)


_RANKS = list(Role)


class Grantee(StrEnum):
    """The kind of grantee of a permission; there are no groups."""

    USER = "USER"
    EVERYONE = "EVERYONE"


DEFAULT_OUTPUT_TOKENS = 256
"""Limit of an answer where the request has none. Our choice: small models that never end would take long."""


@dataclass(frozen=True)
class Serving:
    """Defaults of answers: greedy, unless the tuned model has its own values."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    max_output_tokens: int = DEFAULT_OUTPUT_TOKENS


@dataclass(frozen=True)
class TunedModelRow:
    """A tuned model, and the job that makes it.

    Attributes:
        number: in the order of creation.
        id: `tunedModels/<id>` is its name.
        key: of its job, for the engine; never reused, even where an id is.
        folder: its name under `tuned_models/`.
        base_model: a name of the catalogue.
        source: the id of the tuned model it started from, and `source_folder` that one's folder; None: a base model.
        temperature, top_p, top_k: what answers are given with that ask for nothing else; None: as the base model.
        created_at, updated_at, started_at, completed_at: in seconds since 1970 (UTC); a job that was paused or
            whose service was ended has no start until it runs again.
        learning_rate: what the optimiser gets; `learning_rate_multiplier`, where that was asked for, is in it.
        operation: the last part of its operation's name.
        is_cancelling: whether a client has asked to end its job.
        can_answer: whether it can be called: it is ACTIVE, or was cancelled after its first step.
        validation_loss, base_validation_loss: of the examples held out, after the job and of its base model, in nats
            per output token; None: the request had none, or the job has not ended.
        error_code: number of the `Code` of why it is FAILED; None otherwise.
        seed: of its job.
        suffix: part of its name that its creator chose; empty: none.
        metadata: words of its creator, by which a list can be filtered.
        notes: what the wire that took the job has to remember of the request, as JSON values; the core reads none.
        keeps_epochs: whether its job keeps a checkpoint after each epoch.
        is_paused: whether its job waits until its creator resumes it; it then continues at its step.
        trained_tokens: that its job has learned from, all epochs together; None: it has not ended, or was not counted.
    """

    number: int
    id: str
    key: str
    folder: str
    display_name: str
    description: str
    base_model: str
    source: str | None
    source_folder: str | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    reader_projects: tuple[int, ...]
    state: ModelState
    created_at: float
    updated_at: float
    started_at: float | None
    completed_at: float | None
    epoch_count: int
    batch_size: int
    learning_rate: float
    learning_rate_multiplier: float | None
    total_steps: int
    operation: str
    is_cancelling: bool
    can_answer: bool
    error_code: int | None
    error_message: str | None
    validation_loss: float | None = None
    base_validation_loss: float | None = None
    seed: int = 0
    suffix: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    keeps_epochs: bool = False
    is_paused: bool = False
    trained_tokens: int | None = None

    @property
    def serving(self) -> Serving:
        """The defaults of its answers."""
        own = {name: getattr(self, name) for name in ("temperature", "top_p", "top_k")}
        return Serving(**{name: value for name, value in own.items() if value is not None})


@dataclass(frozen=True)
class EpochRow:
    """The state of a job after an epoch.

    Attributes:
        key: the tuned model's.
        epoch: from 1; `step`: optimiser steps taken by then.
        validation_loss: of the examples held out, in nats per output token; None: there are none.
        folder: of the checkpoint, as the tuned model's own below `tuned_models/`; empty: none was kept.
        created_at: in seconds since 1970 (UTC).
    """

    key: str
    epoch: int
    step: int
    validation_loss: float | None
    folder: str
    created_at: float


@dataclass(frozen=True)
class PermissionRow:
    """A permission for a tuned model; `email` is None for everyone."""

    tuned_model: str
    id: str
    grantee: Grantee
    email: str | None
    role: Role


@dataclass(frozen=True)
class FileRow:
    """A file of rows that a visitor has uploaded."""

    id: str
    owner: str
    name: str
    content: bytes


@dataclass(frozen=True)
class StoredFile:
    """A file on disk that a client has sent.

    Attributes:
        number: in the order of arrival.
        name: as the client sent it; only shown.
        purpose: as the client stated it, in the terms of its wire.
        size: in bytes.
        created_at, expires_at: in seconds since 1970 (UTC); None: it stays until it is deleted.
    """

    number: int
    id: str
    owner: str
    name: str
    purpose: str
    size: int
    created_at: float
    expires_at: float | None = None


@dataclass(frozen=True)
class Listing:
    """A query for a list of tuned models.

    Attributes:
        reader: the e-mail address of the caller.
        words: that must all be in display name or description.
        role: what the reader has to be; READER: any permission does.
        everyone: only what everyone may read; otherwise that is left out, unless it is also the reader's own.
        state: that they have; None: any.
        newest_first: whether the newest comes first; otherwise the oldest does.
        after: the number of the last one that was seen; 0: none was.
        noted: a key that their `notes` have to have; empty: any do.
        metadata: that they have to have, word for word; None: they have none.
    """

    reader: str
    words: tuple[str, ...] = ()
    role: Role = Role.READER
    everyone: bool = False
    state: ModelState | None = None
    newest_first: bool = False
    after: int = 0
    noted: str = ""
    metadata: Mapping[str, str] | None = field(default_factory=dict)
