"""View models of the page: tuned models as a visitor may see them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime

from tunerun.job import Snapshot
from tunerun.service.core.credentials import Key
from tunerun.service.core.library import Library
from tunerun.service.core.model_calls import UNPREDICTABLE
from tunerun.service.core.problems import Code, Json
from tunerun.service.core.records import ModelState, Role, TunedModelRow
from tunerun.service.core.sweep_models import SweepModel
from tunerun.service.openai import names

MAX_POINTS = 300
"""The most points of a shown curve: more than a small chart has pixels, few enough to send every second."""

MAX_CARDS = 50
"""Tuned models on a page; a card with its curve is up to 20 KB."""

MAX_SOURCES = 200
"""Tuned models that the form offers to continue; older ones can be continued over the API."""


@dataclass(frozen=True)
class ModelView:
    """A tuned model on the page.

    Attributes:
        row: the tuned model.
        curve: at most `MAX_POINTS` of its snapshots, always with the last one.
        roles: of the visitor.
        sweep_model: set if a sweep has tuned it; None: this service has.
    """

    row: TunedModelRow
    curve: Sequence[Snapshot]
    roles: frozenset[Role]
    sweep_model: SweepModel | None = None

    @property
    def title(self) -> str:
        """Its display name, or its id if it has none."""
        return self.row.display_name.strip() or self.row.id

    @property
    def openai_name(self) -> str:
        """Its name on the OpenAI wire."""
        return names.model_name(self.row)

    @property
    def source(self) -> str:
        """The name of the model that it was tuned from."""
        return f"tunedModels/{self.row.source}" if self.row.source else f"models/{self.row.base_model}"

    @property
    def created(self) -> str:
        """Creation time, formatted in UTC."""
        return datetime.fromtimestamp(self.row.created_at, UTC).strftime("%Y-%m-%d %H:%M UTC")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of its template, as inputs of a prompt; empty: a prompt is one text."""
        return self.sweep_model.template.columns if self.sweep_model is not None else ()

    @property
    def is_creating(self) -> bool:
        """Whether its job has not ended."""
        return self.row.state is ModelState.CREATING

    @property
    def is_cancelled(self) -> bool:
        """Whether its job was cancelled."""
        return self.row.error_code == Code.CANCELLED.number

    @property
    def may_cancel(self) -> bool:
        """Whether the visitor may cancel its job, and that has an effect."""
        return self.is_creating and not self.row.is_cancelling and self.may_edit

    @property
    def may_edit(self) -> bool:
        """Whether the visitor may rename it and see its training rows."""
        return any(role.includes(Role.WRITER) for role in self.roles)

    @property
    def may_delete(self) -> bool:
        """Whether the visitor may delete it."""
        return Role.OWNER in self.roles

    @property
    def steps(self) -> int:
        """The number of optimiser steps taken."""
        return self.curve[-1].step if self.curve else 0

    @property
    def percent(self) -> int:
        """The share of its steps that have been taken, in percent from 0 to 100."""
        return 100 * self.steps // self.row.total_steps

    @property
    def loss(self) -> str:
        """The last mean loss; empty before the first step."""
        return f"{self.curve[-1].mean_loss:.4f}" if self.curve else ""

    @property
    def warning(self) -> str | None:
        """A caveat about its answers; None: there is none."""
        is_cut = self.row.can_answer and self.row.state is ModelState.FAILED
        return f"{UNPREDICTABLE[:1].upper()}{UNPREDICTABLE[1:]}." if is_cut else None

    @property
    def progress(self) -> str:
        """Its progress as a text."""
        # In the order of precedence: a job that is being cancelled may still be marked as paused.
        steps = f"{self.steps:,} of {self.row.total_steps:,} steps ({self.percent} %)"
        if not self.is_creating:
            return steps
        if self.row.is_cancelling:
            return f"{steps}, being cancelled"
        if self.row.is_paused:
            return f"{steps}, paused"
        return steps if self.row.started_at else f"{steps}, waiting in the queue"

    def as_json(self) -> Json:
        """Return the values that the page's script updates."""
        # null where a job diverges: JSON has neither infinity nor NaN, for which starlette raises a ValueError.
        return {
            "steps": self.steps,
            "percent": self.percent,
            "progress": self.progress,
            "loss": self.loss,
            "curve": [[s.step, s.epoch, s.mean_loss if math.isfinite(s.mean_loss) else None] for s in self.curve],
        }


class ViewModels:
    """View models of a library's tuned models."""

    def __init__(self, library: Library) -> None:
        self._library = library

    def page(self, caller: Key, before: int = 0) -> tuple[list[ModelView], int | None]:
        """Return a page of the tuned models that the caller may see, the newest first.

        Args:
            caller: the visitor.
            before: the number of the last one of the previous page; 0: this is the first page.

        Returns:
            The models, and `before` for the next page; None: this is the last page.
        """
        newest = self._library.newest(caller, MAX_CARDS + 1, before)
        rows = newest[:MAX_CARDS]
        following = rows[-1].number if len(newest) > MAX_CARDS else None
        return self._views(rows, self._library.roles(caller, rows)), following

    def one(self, caller: Key, identifier: str) -> ModelView:
        """Return the view model of one tuned model.

        Raises:
            ServiceError: no tuned model has that id, or the caller may not see it.
        """
        row = self._library.get(caller, identifier)
        return self._views([row], self._library.roles(caller, [row]))[0]

    def creating(self, caller: Key) -> list[ModelView]:
        """Return the caller's tuned models whose jobs have not ended, without roles."""
        return self._views(self._library.creating(caller), {})

    def _views(self, rows: Sequence[TunedModelRow], roles: Mapping[str, Set[Role]]) -> list[ModelView]:
        curves, sweep_models = self._library.curves(rows), self._library.sweep_models
        views = []
        for row in rows:
            curve = curves[row.key]
            if len(curve) > MAX_POINTS:  # evenly spaced, from the first step to the last
                last = len(curve) - 1
                curve = [curve[round(number * last / (MAX_POINTS - 1))] for number in range(MAX_POINTS)]
            views.append(ModelView(row, curve, frozenset(roles.get(row.id, ())), sweep_models.get(row.id)))
        return views
