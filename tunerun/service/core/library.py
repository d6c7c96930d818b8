"""Operations on tuned models, and who may do which.

Decided here, because the documents of neither wire say: a tuned model of a tuned model continues that one's adapter; a
writer may cancel; a list leaves out what everyone may read; there are no groups.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from tunerun.errors import ConfigError
from tunerun.job import Example, Snapshot
from tunerun.service.core.catalogue import Catalogue, OfferedModel
from tunerun.service.core.credentials import Key
from tunerun.service.core.new_model import NewModel, check, row_of
from tunerun.service.core.problems import Code, ServiceError, invalid, not_found
from tunerun.service.core.records import EpochRow, Grantee, Listing, ModelState, PermissionRow, Role, TunedModelRow
from tunerun.service.core.state import State
from tunerun.service.core.sweep_models import SweepModel
from tunerun.service.core.tuner import Tuner


class Library:
    """The tuned models of the service, for those who may see them.

    Args:
        sweep_models: tuned models of sweeps: everyone may see and call them, and they cannot be changed.

    Raises:
        ConfigError: some of these have the names of tuned models that the service has made.
    """

    def __init__(
        self, state: State, catalogue: Catalogue, tuner: Tuner, sweep_models: Sequence[SweepModel] = ()
    ) -> None:
        self.catalogue = catalogue
        self.sweep_models = {one.row.id: one for one in sweep_models}
        self._state = state
        self._tuner = tuner
        taken = [name for name in self.sweep_models if state.tuned_model(name) is not None]
        if taken:
            raise ConfigError(
                [
                    f"tunedModels/{name}: the service has a tuned model of its own of this name; delete that one over "
                    "the API, or do not choose this one"
                    for name in taken
                ]
            )

    # Access

    def get(self, caller: Key, identifier: str, role: Role = Role.READER) -> TunedModelRow:
        """Return a tuned model that the caller has a role on.

        Raises:
            ServiceError: the caller may not see such a model, or lacks the role.
        """
        if (one := self.sweep_models.get(identifier)) is not None:
            if role is not Role.READER:
                raise one.refusal
            return one.row
        row = self._state.tuned_model(identifier)
        permissions = self._state.permissions(identifier)
        own = [p for p in permissions if p.grantee is Grantee.EVERYONE or p.email == caller.owner]
        if row is None or not own:  # what a caller may not see is answered like what does not exist
            raise not_found(f"tunedModels/{identifier}")
        if not any(p.role.includes(role) for p in own):
            owner = next((p.email for p in permissions if p.role is Role.OWNER), "its owner")
            raise ServiceError(
                Code.PERMISSION_DENIED,
                f"tunedModels/{identifier}: {caller.owner} is not a {role.value} of it; ask {owner} for a permission",
                reason="IAM_PERMISSION_DENIED",
            )
        return row

    def is_there(self, name: str) -> bool:
        """Whether there is a tuned model of that name, visible to the caller or not."""
        identifier = name.removeprefix("tunedModels/")
        return identifier in self.sweep_models or self._state.tuned_model(identifier) is not None

    # Tuned models

    def create(self, caller: Key, new: NewModel) -> TunedModelRow:
        """Take a tuning job, and give the tuned model its name.

        Raises:
            ServiceError: the request is invalid, or the id is taken.
        """
        base, source = self._start(caller, new)
        check(new, base)
        row = row_of(new, base, source)
        owner = PermissionRow(row.id, secrets.token_hex(8), Grantee.USER, caller.owner, Role.OWNER)
        created = None if row.id in self.sweep_models else self._state.create(row, new.training, owner, new.validation)
        if created is None:
            raise ServiceError(
                Code.ALREADY_EXISTS, f"tunedModels/{row.id} exists already; choose another id, or delete it"
            )
        self._tuner.look()
        return created

    def _start(self, caller: Key, new: NewModel) -> tuple[OfferedModel, TunedModelRow | None]:
        """Return the base model, and the tuned model that training starts from, if any."""
        if bool(new.source) == bool(new.base_model):
            raise invalid("base_model", "give either a base model or a tuned model to start from")
        source = self.get(caller, new.source) if new.source else None
        base = self.catalogue.find(new.base_model if source is None else source.base_model)
        if source is not None and source.state is not ModelState.ACTIVE:
            words = f"tunedModels/{new.source} is {source.state.value}; it has to be ACTIVE"
            raise ServiceError(Code.FAILED_PRECONDITION, f"source: {words}", fields={"source": words})
        if source is not None and base is None:
            words = (
                f"models/{source.base_model}, which tunedModels/{new.source} was tuned from, is not offered any more"
            )
            raise ServiceError(Code.FAILED_PRECONDITION, f"source: {words}", fields={"source": words})
        if base is None:
            words = f"{new.base_model!r} cannot be tuned here; there is {', '.join(self.catalogue.offered)}"
            raise ServiceError(Code.NOT_FOUND, f"base_model: {words}", fields={"base_model": words})
        return base, source

    def listed(self, listing: Listing, size: int) -> Sequence[TunedModelRow]:
        """Return the tuned models of a list, at most `size`: the service's own and those of sweeps."""
        rows = [one.row for one in self.sweep_models.values() if one.is_in(listing)]
        rows += self._state.tuned_models(listing, size)
        return sorted(rows, key=lambda row: row.number, reverse=listing.newest_first)[:size]

    def newest(self, caller: Key, size: int, before: int = 0) -> Sequence[TunedModelRow]:
        """The newest tuned models that the caller may read, or the newest before one that was seen, by its number."""
        return self.listed(Listing(caller.owner, newest_first=True, after=before), size)

    def own_sources(self, caller: Key, size: int) -> Sequence[TunedModelRow]:
        """The newest tuned models of the caller's own that another one can start from."""
        wanted = Listing(caller.owner, role=Role.OWNER, state=ModelState.ACTIVE, newest_first=True)
        return self._state.tuned_models(wanted, size)

    def creating(self, caller: Key) -> Sequence[TunedModelRow]:
        """All tuned models that the caller may read and that are not finished."""
        return self._state.tuned_models(Listing(caller.owner, state=ModelState.CREATING), -1)

    def jobs(
        self,
        caller: Key,
        size: int,
        noted: str,
        after: int = 0,
        metadata: Mapping[str, str] | None = MappingProxyType({}),
    ) -> Sequence[TunedModelRow]:
        """The newest tuned models that the caller may read and that one wire has made, at most `size`; negative: all.

        Args:
            noted: the key that this wire alone writes into their notes.
            after: the number of the last one that was seen; 0: none was.
            metadata: that they have; None: that they have none.
        """
        wanted = Listing(caller.owner, newest_first=True, after=after, noted=noted, metadata=metadata)
        return self._state.tuned_models(wanted, size)

    def active(self, caller: Key) -> Sequence[TunedModelRow]:
        """All tuned models that the caller may ask and that are finished, the newest first; those of sweeps first."""
        wanted = Listing(caller.owner, state=ModelState.ACTIVE, newest_first=True)
        return [*(one.row for one in self.sweep_models.values()), *self._state.tuned_models(wanted, -1)]

    def epochs(self, row: TunedModelRow) -> Sequence[EpochRow]:
        """What the job of a tuned model had reached after each of its epochs, by epoch."""
        return [] if row.id in self.sweep_models else self._state.epochs(row.key)

    def roles(self, caller: Key, rows: Sequence[TunedModelRow]) -> dict[str, set[Role]]:
        """What the caller may do with tuned models, by id."""
        return self._state.roles([row.id for row in rows], caller.owner)

    def curves(self, rows: Sequence[TunedModelRow]) -> dict[str, list[Snapshot]]:
        """The loss curves of tuned models, by key."""
        own = self._state.snapshots([row.key for row in rows if row.id not in self.sweep_models])
        return own | {row.key: [*one.curve] for row in rows if (one := self.sweep_models.get(row.id)) is not None}

    def steps(self, row: TunedModelRow, before: int, size: int) -> Sequence[Snapshot]:
        """The newest steps of a job of the service's own before one, the newest first, at most `size`."""
        return self._state.steps(row.key, before, size)

    def curve(self, row: TunedModelRow) -> list[Snapshot]:
        """The loss curve of a tuned model."""
        return self.curves([row])[row.key]

    def examples(self, row: TunedModelRow) -> Sequence[Example]:
        """What a tuned model was tuned on."""
        return self._state.examples(row.key)

    def change(self, caller: Key, identifier: str, values: Mapping[str, Any]) -> TunedModelRow:
        """Change how a tuned model is shown and what it answers with by default.

        Args:
            values: of `display_name`, `description`, `temperature`, `top_p`, `top_k`, `reader_projects` and
                `metadata`; the wire has checked them.
        """
        self.get(caller, identifier, Role.WRITER)
        self._state.change(identifier, values)
        return self.get(caller, identifier)

    def delete(self, caller: Key, identifier: str) -> None:
        """Delete a tuned model, and end its job if it has not ended."""
        self.get(caller, identifier, Role.OWNER)
        self._state.delete(identifier)
        self._tuner.look()

    # Operations

    def of_operation(self, caller: Key, identifier: str, operation: str, role: Role = Role.READER) -> TunedModelRow:
        """The tuned model that an operation makes."""
        row = self.get(caller, identifier, role)
        if row.operation != operation:
            raise not_found(f"tunedModels/{identifier}/operations/{operation}")
        return row

    def cancel(self, caller: Key, identifier: str, operation: str | None = None) -> None:
        """Cancel the job of a tuned model, within a step; one that has ended is left as it is."""
        row = self.get(caller, identifier, Role.WRITER)
        if operation is not None and row.operation != operation:
            raise not_found(f"tunedModels/{identifier}/operations/{operation}")
        self._state.request_cancel(identifier)
        self._tuner.look()

    def pause(self, caller: Key, identifier: str) -> TunedModelRow:
        """Pause the job of a tuned model until it is resumed: its engine is free within a step, its curve is kept.

        Raises:
            ServiceError: the job has ended, or is being cancelled.
        """
        return self._set_paused(caller, identifier, is_paused=True)

    def resume(self, caller: Key, identifier: str) -> TunedModelRow:
        """Queue a paused job again; it continues at its step.

        Raises:
            ServiceError: the job has ended, or is being cancelled.
        """
        return self._set_paused(caller, identifier, is_paused=False)

    def _set_paused(self, caller: Key, identifier: str, *, is_paused: bool) -> TunedModelRow:
        row = self.get(caller, identifier, Role.WRITER)
        if row.state is not ModelState.CREATING or row.is_cancelling:
            words = "has ended" if row.state is not ModelState.CREATING else "is being cancelled"
            done = "paused" if is_paused else "resumed"
            raise ServiceError(
                Code.FAILED_PRECONDITION, f"tunedModels/{identifier}: its job {words}; only one that has not is {done}"
            )
        self._state.set_paused(identifier, is_paused=is_paused)
        self._tuner.look()
        return self.get(caller, identifier)

    # Permissions

    def permissions(self, caller: Key, identifier: str) -> list[PermissionRow]:
        """Who may do what with a tuned model; the oldest permission first."""
        self.get(caller, identifier)
        one = self.sweep_models.get(identifier)
        return self._state.permissions(identifier) if one is None else [one.permission]

    def permission(self, caller: Key, identifier: str, permission: str) -> PermissionRow:
        """Return one permission for a tuned model, by its id."""
        found = next((p for p in self.permissions(caller, identifier) if p.id == permission), None)
        if found is None:
            raise not_found(f"tunedModels/{identifier}/permissions/{permission}")
        return found

    def grant(self, caller: Key, identifier: str, grantee: Grantee, email: str | None, role: Role) -> PermissionRow:
        """Give one user, or everyone, a permission.

        Args:
            email: of the user.

        Raises:
            ServiceError: the role cannot be granted, or the grantee has a permission already.
        """
        self.get(caller, identifier, Role.WRITER)
        _check_role(grantee, role)
        email = None if grantee is Grantee.EVERYONE else _email(email)
        identity = "everyone" if email is None else secrets.token_hex(8)
        row = PermissionRow(identifier, identity, grantee, email, role)
        if not self._state.grant(row):
            self.get(caller, identifier)  # it may have been deleted meanwhile
            raise ServiceError(
                Code.ALREADY_EXISTS,
                f"{email or 'EVERYONE'} has a permission for tunedModels/{identifier}; change its role",
            )
        return row

    def change_role(self, caller: Key, identifier: str, permission: str, role: Role) -> PermissionRow:
        """Give a permission another role; nothing else of it can be changed."""
        self.get(caller, identifier, Role.WRITER)
        row = self.permission(caller, identifier, permission)
        _check_role(row.grantee, Role.OWNER if row.role is Role.OWNER else role)
        self._state.change_role(identifier, permission, role)
        return replace(row, role=role)

    def revoke(self, caller: Key, identifier: str, permission: str) -> None:
        """Revoke a permission; the owner's cannot be revoked."""
        self.get(caller, identifier, Role.WRITER)
        if self.permission(caller, identifier, permission).role is Role.OWNER:
            raise ServiceError(
                Code.FAILED_PRECONDITION,
                "the owner's permission stays; a transfer of the ownership gives it to another user",
            )
        self._state.revoke(identifier, permission)

    def transfer(self, caller: Key, identifier: str, given_email: str | None) -> None:
        """Make another user the owner of a tuned model; the owner so far becomes a writer."""
        self.get(caller, identifier, Role.OWNER)
        email = _email(given_email)
        if email == caller.owner:
            raise invalid("email", f"{email} owns it already")
        self._state.transfer(
            identifier, PermissionRow(identifier, secrets.token_hex(8), Grantee.USER, email, Role.OWNER)
        )


def _check_role(grantee: Grantee, role: Role) -> None:
    """Refuse a role that cannot be granted."""
    if role is Role.OWNER:
        raise invalid("role", "there is one OWNER; a transfer of the ownership makes another one")
    if grantee is Grantee.EVERYONE and role is not Role.READER:
        raise invalid("role", f"EVERYONE may be READER, not {role.value}")


def _email(given: str | None) -> str:
    text = (given or "").strip().lower()
    if text.count("@") != 1 or not all(text.split("@")) or len(text) > 254 or not text.isprintable() or " " in text:
        raise invalid("email", "must be an e-mail address")
    return text
