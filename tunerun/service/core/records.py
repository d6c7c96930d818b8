"""The rows of the service's database, as plain values."""

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
        """Whether this role has all rights of the other role."""
        return _RANKS.index(self) <= _RANKS.index(other)


_RANKS = list(Role)  # in the order of the class: the highest first


class Grantee(StrEnum):
    """The kind of grantee of a permission; groups are not supported."""

    USER = "USER"
    EVERYONE = "EVERYONE"


DEFAULT_OUTPUT_TOKENS = 256
"""Token limit of an answer if the request sets none. Our choice: a small model that does not stop would take long."""


@dataclass(frozen=True)
class Serving:
    """Default generation options: greedy, unless the tuned model has its own values."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    max_output_tokens: int = DEFAULT_OUTPUT_TOKENS


@dataclass(frozen=True)
class TunedModelRow:
    """A tuned model, and the job that makes it.

    Attributes:
        number: sequence number in the order of creation.
        id: the last part of its name, `tunedModels/<id>`.
        key: key of its job at the engine; never reused, unlike the id.
        folder: name of its folder in `tuned_models/`.
        base_model: the base model's name in the catalogue.
        source: id of the tuned model that training started from; None: a new adapter.
        source_folder: folder of `source`.
        temperature, top_p, top_k: defaults for answers; None: the base model's.
        created_at, updated_at, started_at, completed_at: in seconds since 1970 (UTC). `started_at` is None while the
            job is queued or paused, also after an interruption.
        learning_rate: the effective rate, with `learning_rate_multiplier` applied if there is one.
        operation: last part of the name of its long-running operation.
        is_cancelling: whether cancellation of its job was requested.
        can_answer: whether it can be called: it is ACTIVE, or was cancelled after its first step.
        error_code: number of the `Code` if its state is FAILED; None otherwise.
        validation_loss, base_validation_loss: loss of the tuned and of the base model on the held-out examples, in
            nats per output token; None: the request had no such examples, or the job has not ended.
        seed: seed of its job.
        suffix: part of its name that its creator chose; empty: none.
        metadata: key-value pairs of its creator, by which lists can be filtered.
        notes: data of the wire that created the job, as JSON values; not interpreted by the core.
        keeps_epochs: whether its job keeps a checkpoint after each epoch.
        is_paused: whether its job is paused until its creator resumes it.
        trained_tokens: number of tokens trained on, over all epochs; None: the job has not ended, or none were counted.
    """

    number: int
    id: str
    key: str
    folder: str
    display_name: str
    description: str
    base_model: str
    state: ModelState
    created_at: float
    updated_at: float
    epoch_count: int
    batch_size: int
    learning_rate: float
    total_steps: int
    operation: str
    source: str | None = None
    source_folder: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    reader_projects: tuple[int, ...] = ()
    started_at: float | None = None
    completed_at: float | None = None
    learning_rate_multiplier: float | None = None
    is_cancelling: bool = False
    can_answer: bool = False
    error_code: int | None = None
    error_message: str | None = None
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
        """Default generation options of its answers."""
        own = {name: getattr(self, name) for name in ("temperature", "top_p", "top_k")}
        return Serving(**{name: value for name, value in own.items() if value is not None})


@dataclass(frozen=True)
class EpochRow:
    """The state of a job after an epoch.

    Attributes:
        key: the key of the tuned model.
        epoch: from 1.
        step: optimiser steps taken by the end of the epoch.
        validation_loss: loss on the held-out examples, in nats per output token; None: there are none.
        folder: folder of the checkpoint in `tuned_models/`; empty: none was kept.
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
    """A permission for a tuned model; `email` is None for EVERYONE."""

    tuned_model: str
    id: str
    grantee: Grantee
    email: str | None
    role: Role


@dataclass(frozen=True)
class FileRow:
    """A table that was uploaded on the page, stored in the database."""

    id: str
    owner: str
    name: str
    content: bytes


@dataclass(frozen=True)
class StoredFile:
    """A file that a client uploaded over the API, stored on disk.

    Attributes:
        number: sequence number in the order of arrival.
        name: the client's file name; only shown.
        purpose: the purpose that the client stated, in the terms of its wire.
        size: in bytes.
        created_at: in seconds since 1970 (UTC).
        expires_at: in seconds since 1970 (UTC); None: never.
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
        reader: e-mail address of the caller.
        words: words that all have to occur in display name or description.
        role: the least role of the reader.
        everyone: True: only models that are shared with everyone; False: only models for which the reader has a
            permission of their own.
        state: required state; None: any.
        newest_first: order by creation, newest first; otherwise oldest first.
        after: number of the last row of the previous page; 0: this is the first page.
        noted: required key of `notes`; empty: any.
        metadata: required pairs, compared exactly; None: only models without metadata.
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
