"""Operations on tuned models, with access control.

Our choices where neither API's documents specify the behaviour: tuning a tuned model continues training its adapter; a
writer may cancel; a list omits models that are shared with everyone; groups are not supported.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from tunerun.errors import ConfigError
from tunerun.examples import Example
from tunerun.job import Snapshot
from tunerun.service.core.catalogue import Catalogue
from tunerun.service.core.credentials import Key
from tunerun.service.core.new_model import NewModel, checked_row
from tunerun.service.core.problems import Code, ServiceError, invalid, not_found
from tunerun.service.core.records import EpochRow, Grantee, Listing, ModelState, PermissionRow, Role, TunedModelRow
from tunerun.service.core.state import State
from tunerun.service.core.sweep_models import SweepModel
from tunerun.service.core.tuner import Tuner


class Library:
    """The tuned models of the service. Every operation checks the caller's permissions first.

    Args:
        state: the service's database.
        catalogue: the base models that can be tuned.
        tuner: the job queue, notified of changes.
        sweep_models: tuned models of sweeps; read-only, and visible to every key.

    Raises:
        ConfigError: a sweep's tuned model has the same name as one that the service created.
    """

    def __init__(
        self, state: State, catalogue: Catalogue, tuner: Tuner, sweep_models: Sequence[SweepModel] = ()
    ) -> None:
        self.catalogue = catalogue
        self.sweep_models = {model.row.id: model for model in sweep_models}
        self._state = state
        self._tuner = tuner
        problems = [
            f"tunedModels/{name}: the service has a tuned model of its own of this name; delete that one over the API, "
            "or do not choose this one"
            for name in self.sweep_models
            if state.tuned_model(name) is not None
        ]
        if problems:
            raise ConfigError(problems)

    # Access

    def get(self, caller: Key, identifier: str, role: Role = Role.READER) -> TunedModelRow:
        """Return a tuned model on which the caller has a role.

        Args:
            caller: the key of the request.
            identifier: the id, without `tunedModels/`.
            role: the role that the operation requires.

        Raises:
            ServiceError: the model does not exist or is not visible to the caller (NOT_FOUND), or the caller lacks the
                role (PERMISSION_DENIED).
        """
        if (of_sweep := self.sweep_models.get(identifier)) is not None:
            if role is not Role.READER:
                raise of_sweep.refusal
            return of_sweep.row
        row = self._state.tuned_model(identifier)
        permissions = self._state.permissions.of(identifier)
        own = [p for p in permissions if p.grantee is Grantee.EVERYONE or p.email == caller.owner]
        # A model that the caller may not see is answered like one that does not exist.
        if row is None or not own:
            raise not_found(f"tunedModels/{identifier}")
        if not any(p.role.includes(role) for p in own):
            owner = next((p.email for p in permissions if p.role is Role.OWNER), "its owner")
            raise ServiceError(
                Code.PERMISSION_DENIED,
                f"tunedModels/{identifier}: {caller.owner} is not a {role.value} of it; ask {owner} for a permission",
                reason="IAM_PERMISSION_DENIED",
            )
        return row

    def is_there(self, identifier: str) -> bool:
        """Whether a tuned model exists, by its id; also one that not every caller may see."""
        return identifier in self.sweep_models or self._state.tuned_model(identifier) is not None

    # Tuned models

    def create(self, caller: Key, new: NewModel) -> TunedModelRow:
        """Queue a tuning job, and return the row of its tuned model.

        Args:
            caller: the key of the request; its owner becomes the owner of the tuned model.
            new: the requested job.

        Raises:
            ServiceError: the request is invalid, or the id is taken.
        """
        source = self.get(caller, new.source) if new.source else None
        base = self.catalogue.find(new.base_model if source is None else source.base_model)
        if source is not None and source.state is not ModelState.ACTIVE:
            words = f"tunedModels/{new.source} is {source.state.value}; it has to be ACTIVE"
            raise invalid("source", words, Code.FAILED_PRECONDITION)
        if source is not None and base is None:
            origin = f"models/{source.base_model}, which tunedModels/{new.source} was tuned from,"
            raise invalid("source", f"{origin} is not offered any more", Code.FAILED_PRECONDITION)
        if base is None:
            words = f"{new.base_model!r} cannot be tuned here; there is {', '.join(self.catalogue.offered)}"
            raise invalid("base_model", words, Code.NOT_FOUND)

        row = checked_row(new, base, source)
        owner = PermissionRow(row.id, secrets.token_hex(8), Grantee.USER, caller.owner, Role.OWNER)
        # The insert is the one write of a creation: from then on the job survives a crash, and a repeated request with
        # the same id gets ALREADY_EXISTS. A sweep's model has no row in the database, so its id is checked here.
        created = None if row.id in self.sweep_models else self._state.create(row, new.training, owner, new.validation)
        if created is None:
            raise ServiceError(
                Code.ALREADY_EXISTS, f"tunedModels/{row.id} exists already; choose another id, or delete it"
            )
        self._tuner.look()  # only wakes its thread: what is left to do is in the database
        return created

    def listed(self, listing: Listing, size: int) -> Sequence[TunedModelRow]:
        """Return up to `size` tuned models that match a query: the service's own and those of sweeps."""
        # Both kinds are numbered in one order (`FIRST_NUMBER`), so one page token works for the merged list.
        rows = [model.row for model in self.sweep_models.values() if model.is_in(listing)]
        rows += self._state.tuned_models(listing, size)
        return sorted(rows, key=lambda row: row.number, reverse=listing.newest_first)[:size]

    def newest(self, caller: Key, size: int, before: int = 0) -> Sequence[TunedModelRow]:
        """Return up to `size` tuned models that the caller may read, newest first.

        Args:
            caller: the key of the request.
            size: the most to return.
            before: return models that are older than the one with this number; 0: start with the newest.
        """
        return self.listed(Listing(caller.owner, newest_first=True, after=before), size)

    def own_sources(self, caller: Key, size: int) -> Sequence[TunedModelRow]:
        """Return the caller's own newest tuned models that training can start from."""
        wanted = Listing(caller.owner, role=Role.OWNER, state=ModelState.ACTIVE, newest_first=True)
        return self._state.tuned_models(wanted, size)

    def creating(self, caller: Key) -> Sequence[TunedModelRow]:
        """Return all tuned models that the caller may read and whose jobs have not ended."""
        return self._state.tuned_models(Listing(caller.owner, state=ModelState.CREATING), -1)

    def jobs(
        self,
        caller: Key,
        size: int,
        noted: str,
        after: int = 0,
        metadata: Mapping[str, str] | None = MappingProxyType({}),
    ) -> Sequence[TunedModelRow]:
        """Return the jobs of one wire that the caller may read, newest first.

        Args:
            caller: the key of the request.
            size: the most to return; negative: all.
            noted: the key in `TunedModelRow.notes` that only this wire writes.
            after: the number of the last row of the previous page; 0: this is the first page.
            metadata: exact pairs to match; None: only jobs without metadata.
        """
        wanted = Listing(caller.owner, newest_first=True, after=after, noted=noted, metadata=metadata)
        return self._state.tuned_models(wanted, size)

    def active(self, caller: Key) -> Sequence[TunedModelRow]:
        """Return all finished tuned models that the caller may call: those of sweeps first, then newest first."""
        wanted = Listing(caller.owner, state=ModelState.ACTIVE, newest_first=True)
        return [*(model.row for model in self.sweep_models.values()), *self._state.tuned_models(wanted, -1)]

    def epochs(self, row: TunedModelRow) -> Sequence[EpochRow]:
        """Return the state of a tuned model's job after each epoch, by epoch."""
        return [] if row.id in self.sweep_models else self._state.epochs(row.key)

    def roles(self, caller: Key, rows: Sequence[TunedModelRow]) -> dict[str, set[Role]]:
        """Return the caller's roles on tuned models, by id."""
        return self._state.permissions.roles([row.id for row in rows], caller.owner)

    def curves(self, rows: Sequence[TunedModelRow]) -> dict[str, list[Snapshot]]:
        """Return the loss curves of tuned models, by key."""
        curves = self._state.snapshots([row.key for row in rows if row.id not in self.sweep_models])
        for row in rows:
            if row.id in self.sweep_models:
                curves[row.key] = [*self.sweep_models[row.id].curve]
        return curves

    def steps(self, row: TunedModelRow, before: int, size: int) -> Sequence[Snapshot]:
        """Return a part of a loss curve, newest first; only for jobs of this service, not of sweeps.

        Args:
            row: the tuned model.
            before: return only earlier steps than this one.
            size: the most steps to return.
        """
        return self._state.steps(row.key, before, size)

    def curve(self, row: TunedModelRow) -> list[Snapshot]:
        """Return the loss curve of a tuned model."""
        return self.curves([row])[row.key]

    def examples(self, row: TunedModelRow) -> Sequence[Example]:
        """Return the training examples of a tuned model."""
        return self._state.examples(row.key)

    def change(self, caller: Key, identifier: str, values: Mapping[str, Any]) -> TunedModelRow:
        """Update the display fields and generation defaults of a tuned model, and return its row.

        Args:
            caller: the key of the request, which has to be a writer's.
            identifier: the id, without `tunedModels/`.
            values: new values of `display_name`, `description`, `temperature`, `top_p`, `top_k`, `reader_projects` or
                `metadata`, already validated by the wire.
        """
        self.get(caller, identifier, Role.WRITER)
        self._state.change(identifier, values)
        return self.get(caller, identifier)

    def delete(self, caller: Key, identifier: str) -> None:
        """Delete a tuned model; a running or waiting job of it is cancelled.

        Raises:
            ServiceError: the caller is not its owner, or see `get`.
        """
        self.get(caller, identifier, Role.OWNER)
        # Its row is deleted first, so that it answers no more; the queue then stops its job and removes its folder.
        self._state.delete(identifier)
        self._tuner.look()

    # Operations

    def of_operation(self, caller: Key, identifier: str, operation: str) -> TunedModelRow:
        """Return the tuned model that an operation creates.

        Args:
            caller: the key of the request.
            identifier: the id, without `tunedModels/`.
            operation: the last part of the operation's name.

        Raises:
            ServiceError: the tuned model has no such operation, or see `get`.
        """
        row = self.get(caller, identifier)
        if row.operation != operation:
            raise not_found(f"tunedModels/{identifier}/operations/{operation}")
        return row

    def cancel(self, caller: Key, identifier: str, operation: str | None = None) -> None:
        """Cancel the job of a tuned model; it ends within one step. No effect on a job that has ended.

        Args:
            caller: the key of the request.
            identifier: the id, without `tunedModels/`.
            operation: the last part of the name of the operation that has to be the job's; None: not checked.
        """
        row = self.get(caller, identifier, Role.WRITER)
        if operation not in (None, row.operation):
            raise not_found(f"tunedModels/{identifier}/operations/{operation}")
        self._state.request_cancel(identifier)
        self._tuner.look()

    def pause(self, caller: Key, identifier: str) -> TunedModelRow:
        """Pause the job of a tuned model until it is resumed. Its engine is free within one step; its curve is kept.

        Raises:
            ServiceError: the job has ended, or is being cancelled.
        """
        return self._set_paused(caller, identifier, is_paused=True)

    def resume(self, caller: Key, identifier: str) -> TunedModelRow:
        """Queue a paused job again; it continues from the step at which it was paused.

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
                Code.FAILED_PRECONDITION, f"tunedModels/{identifier}: its job {words}, so it cannot be {done}"
            )
        self._state.set_paused(identifier, is_paused=is_paused)
        self._tuner.look()
        return self.get(caller, identifier)

    # Permissions

    def permissions(self, caller: Key, identifier: str) -> list[PermissionRow]:
        """Return the permissions for a tuned model, oldest first."""
        self.get(caller, identifier)
        of_sweep = self.sweep_models.get(identifier)
        return self._state.permissions.of(identifier) if of_sweep is None else [of_sweep.permission]

    def permission(self, caller: Key, identifier: str, permission: str) -> PermissionRow:
        """Return one permission for a tuned model, by its id.

        Raises:
            ServiceError: the permission does not exist, or see `get`.
        """
        row = next((p for p in self.permissions(caller, identifier) if p.id == permission), None)
        if row is None:
            raise not_found(f"tunedModels/{identifier}/permissions/{permission}")
        return row

    def grant(self, caller: Key, identifier: str, grantee: Grantee, email: str | None, role: Role) -> PermissionRow:
        """Grant a permission to one user or to everyone.

        Args:
            caller: the key of the request, which has to be a writer's.
            identifier: the id of the tuned model, without `tunedModels/`.
            grantee: the kind of grantee.
            email: the user's address; ignored for EVERYONE.
            role: the role.

        Raises:
            ServiceError: the role cannot be granted, or the grantee already has a permission.
        """
        self.get(caller, identifier, Role.WRITER)
        _check_role(grantee, role)
        email = None if grantee is Grantee.EVERYONE else _email(email)
        # A fixed id for everyone: SQLite's UNIQUE takes two rows without an e-mail address for different ones.
        identity = "everyone" if email is None else secrets.token_hex(8)
        row = PermissionRow(identifier, identity, grantee, email, role)
        if not self._state.permissions.grant(row):
            self.get(caller, identifier)  # it may have been deleted meanwhile
            raise ServiceError(
                Code.ALREADY_EXISTS,
                f"{email or 'EVERYONE'} has a permission for tunedModels/{identifier}; change its role",
            )
        return row

    def change_role(self, caller: Key, identifier: str, permission: str, role: Role) -> PermissionRow:
        """Change the role of a permission, its only mutable field.

        Args:
            caller: the key of the request, which has to be a writer's.
            identifier: the id of the tuned model, without `tunedModels/`.
            permission: the id of the permission.
            role: the new role.

        Raises:
            ServiceError: the role cannot be granted, it is the owner's permission, or see `permission`.
        """
        self.get(caller, identifier, Role.WRITER)
        row = self.permission(caller, identifier, permission)
        # The owner's role is refused like one that is to be granted: a model without an owner could not be deleted.
        _check_role(row.grantee, Role.OWNER if row.role is Role.OWNER else role)
        self._state.permissions.change_role(identifier, permission, role)
        return replace(row, role=role)

    def revoke(self, caller: Key, identifier: str, permission: str) -> None:
        """Revoke a permission.

        Raises:
            ServiceError: it is the owner's permission, or see `permission`.
        """
        self.get(caller, identifier, Role.WRITER)
        if self.permission(caller, identifier, permission).role is Role.OWNER:
            raise ServiceError(
                Code.FAILED_PRECONDITION,
                "the owner's permission stays; a transfer of the ownership gives it to another user",
            )
        self._state.permissions.revoke(identifier, permission)

    def transfer(self, caller: Key, identifier: str, address: str | None) -> None:
        """Transfer ownership of a tuned model; the previous owner becomes a writer.

        Args:
            caller: the key of the request, which has to be the owner's.
            identifier: the id, without `tunedModels/`.
            address: e-mail address of the new owner.

        Raises:
            ServiceError: the address is invalid or the caller's own, or see `get`.
        """
        self.get(caller, identifier, Role.OWNER)
        email = _email(address)
        if email == caller.owner:
            raise invalid("email", f"{email} already owns it")
        self._state.permissions.transfer(
            identifier, PermissionRow(identifier, secrets.token_hex(8), Grantee.USER, email, Role.OWNER)
        )


def _check_role(grantee: Grantee, role: Role) -> None:
    """Refuse a role that cannot be granted."""
    if role is Role.OWNER:
        raise invalid("role", "OWNER cannot be granted; use transferOwnership to change the owner")
    if grantee is Grantee.EVERYONE and role is not Role.READER:
        raise invalid("role", f"EVERYONE may be READER, not {role.value}")


def _email(address: str | None) -> str:
    # In lower case, as the owners of keys are, with which it is compared; 254 characters are RFC 5321's limit.
    text = (address or "").strip().lower()
    if text.count("@") != 1 or not all(text.split("@")) or len(text) > 254 or not text.isprintable() or " " in text:
        raise invalid("email", "must be an e-mail address")
    return text
