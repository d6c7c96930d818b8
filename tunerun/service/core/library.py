"""What may be done with tuned models, and by whom.

Decided here, because the API's documents do not say: a tuned model of a tuned model continues that one's adapter; a
writer may cancel; a list leaves out what everyone may read; there are no groups.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic.alias_generators import to_camel

from tunerun.digest import digest
from tunerun.errors import ConfigError
from tunerun.job import Example, Snapshot
from tunerun.service.core.catalogue import Catalogue, OfferedModel
from tunerun.service.core.credentials import Key
from tunerun.service.core.problems import Code, ServiceError, invalid, not_found
from tunerun.service.core.records import EpochRow, Grantee, Listing, ModelState, PermissionRow, Role, TunedModelRow
from tunerun.service.core.state import State
from tunerun.service.core.sweep_models import SweepModel
from tunerun.service.core.tuner import Tuner
from tunerun.service.gemini import wire
from tunerun.service.gemini.tuning_request import check_lengths, check_shown, examples_of, held_out_of, named, row_of

PAGE, MAX_PAGE = 10, 1000
MAX_FILTER_WORDS = 20

_FILTERS = {
    "owner:me": (Role.OWNER, False),
    "writers:me": (Role.WRITER, False),
    "readers:me": (Role.READER, False),
    "readers:everyone": (Role.READER, True),
}
_WORDS = re.compile(r'"[^"]*"|\S+')
_FIELD = re.compile(r"-?[A-Za-z_][\w.]*(:|=|!=|<|>)[^\s]")
"""A restriction as AIP-160 writes one: a field, an operator and a value."""

_CHANGEABLE = ("display_name", "description", "temperature", "top_p", "top_k", "reader_project_numbers")


@dataclass(frozen=True)
class Page:
    """A part of a list, and the token of what follows; empty: nothing does."""

    models: Sequence[TunedModelRow]
    next_token: str


class Library:
    """The tuned models of the service, for those who may see them.

    Args:
        sweep_models: tuned models of sweeps, which everyone may see and ask, and nobody may change.

    Raises:
        ConfigError: some of these have names of the service's own.
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

    # Who may

    def get(self, caller: Key, identifier: str, role: Role = Role.READER) -> TunedModelRow:
        """A tuned model that the caller may use in a role.

        Raises:
            ServiceError: there is none that the caller may see, or the role is missing.
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

    def create(self, caller: Key, identifier: str, asked: wire.TunedModel) -> TunedModelRow:
        """Take a tuning job, and give the tuned model its name.

        Raises:
            ServiceError: something of it is wrong, or the id is taken.
        """
        task = asked.tuning_task or wire.TuningTask()
        examples, held_out = examples_of(task), held_out_of(task)
        base, source = self._base(caller, asked)
        check_lengths(examples, held_out, base)
        row = row_of(asked, task.hyperparameters or wire.Hyperparameters(), len(examples), base.name, source)
        row = named(row, identifier, asked.display_name or "", is_given=bool(identifier))
        owner = PermissionRow(row.id, secrets.token_hex(8), Grantee.USER, caller.owner, Role.OWNER)
        created = None if row.id in self.sweep_models else self._state.create(row, examples, owner, held_out)
        if created is None:
            raise ServiceError(
                Code.ALREADY_EXISTS, f"tunedModels/{row.id} exists already; choose another tunedModelId, or delete it"
            )
        self._tuner.look()
        return created

    def _base(self, caller: Key, asked: wire.TunedModel) -> tuple[OfferedModel, TunedModelRow | None]:
        """The base model, and the tuned model that is started from where there is one."""
        given = asked.tuned_model_source.tuned_model if asked.tuned_model_source else None
        if bool(given) == bool(asked.base_model):
            raise invalid("baseModel", "set either baseModel or tunedModelSource.tunedModel")
        if given:
            source = self.get(caller, given.removeprefix("tunedModels/"))
            if source.state is not ModelState.ACTIVE:
                raise ServiceError(
                    Code.FAILED_PRECONDITION,
                    f"tunedModelSource.tunedModel: {given} is {source.state.value}; it has to be ACTIVE",
                )
            base = self.catalogue.find(source.base_model)
            if base is None:
                raise ServiceError(
                    Code.FAILED_PRECONDITION,
                    f"tunedModelSource.tunedModel: models/{source.base_model}, which {given} was tuned from, is not "
                    "offered any more",
                )
            return base, source
        offered = self.catalogue.find(str(asked.base_model))
        if offered is None or not str(asked.base_model).startswith("models/"):
            names = ", ".join(f"models/{name}" for name in self.catalogue.offered)
            raise ServiceError(
                Code.NOT_FOUND,
                f"baseModel: {asked.base_model!r} cannot be tuned here; there is {names}",
                fields={"baseModel": f"choose {names}"},
            )
        return offered, None

    def page(self, caller: Key, size: int, token: str, text: str) -> Page:
        """Some of the tuned models that the caller may read.

        Args:
            size: at most so many; 0: 10.
            token: of the page before.
            text: the filter.

        Raises:
            ServiceError: size, token or filter is wrong.
        """
        if size < 0:
            raise invalid("pageSize", f"must be 0 or more, not {size}")
        most = min(size or PAGE, MAX_PAGE)
        shown = digest([caller.owner, text])[:8]
        rows = self._listed(_listing(caller, text, _after(token, shown)), most + 1)
        rest = f"{rows[most - 1].number}.{shown}" if len(rows) > most else ""
        return Page(rows[:most], rest)

    def newest(self, caller: Key, size: int, before: int = 0) -> Sequence[TunedModelRow]:
        """The newest tuned models that the caller may read, or the newest before one that was seen, by its number."""
        return self._listed(Listing(caller.owner, newest_first=True, after=before), size)

    def _listed(self, listing: Listing, size: int) -> Sequence[TunedModelRow]:
        """What a list holds, at most `size`: the service's own tuned models and those of sweeps."""
        rows = [one.row for one in self.sweep_models.values() if one.is_in(listing)]
        rows += self._state.tuned_models(listing, size)
        return sorted(rows, key=lambda row: row.number, reverse=listing.newest_first)[:size]

    def own_sources(self, caller: Key, size: int) -> Sequence[TunedModelRow]:
        """The newest tuned models of the caller's own that another one can start from."""
        wanted = Listing(caller.owner, role=Role.OWNER, state=ModelState.ACTIVE, newest_first=True)
        return self._state.tuned_models(wanted, size)

    def creating(self, caller: Key) -> Sequence[TunedModelRow]:
        """All tuned models that the caller may read and that are not finished."""
        return self._state.tuned_models(Listing(caller.owner, state=ModelState.CREATING), -1)

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

    def curve(self, row: TunedModelRow) -> list[Snapshot]:
        """The loss curve of a tuned model."""
        return self.curves([row])[row.key]

    def examples(self, row: TunedModelRow) -> Sequence[Example]:
        """What a tuned model was tuned on."""
        return self._state.examples(row.key)

    def change(self, caller: Key, identifier: str, asked: wire.TunedModel, mask: str) -> TunedModelRow:
        """Change fields of a tuned model: those of the mask, or those that are given.

        Raises:
            ServiceError: a field cannot be changed, or its new value is wrong.
        """
        self.get(caller, identifier, Role.WRITER)
        names = [_snake(name) for name in mask.split(",") if name.strip()]
        for name in names:
            if name not in _CHANGEABLE:
                changeable = ", ".join(to_camel(n) for n in _CHANGEABLE)
                raise invalid("updateMask", f"{name} cannot be changed; {changeable} can")
        chosen = names or [name for name in _CHANGEABLE if getattr(asked, name) is not None]
        values = {name: getattr(asked, name) for name in chosen}
        check_shown(wire.TunedModel(**values))
        for name in ("display_name", "description"):
            if name in values:
                values[name] = values[name] or ""
        if "reader_project_numbers" in values:
            values["reader_projects"] = str(list(values.pop("reader_project_numbers") or ()))
        self._state.change(identifier, values)
        return self.get(caller, identifier)

    def delete(self, caller: Key, identifier: str) -> None:
        """Delete a tuned model; its job ends if it is under way."""
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
        """End the job of a tuned model within a step; one that has ended stays as it is."""
        row = self.get(caller, identifier, Role.WRITER)
        if operation is not None and row.operation != operation:
            raise not_found(f"tunedModels/{identifier}/operations/{operation}")
        self._state.request_cancel(identifier)
        self._tuner.look()

    # Permissions

    def permissions(self, caller: Key, identifier: str) -> list[PermissionRow]:
        """Who may do what with a tuned model; the oldest permission first."""
        self.get(caller, identifier)
        one = self.sweep_models.get(identifier)
        return self._state.permissions(identifier) if one is None else [one.permission]

    def permission(self, caller: Key, identifier: str, permission: str) -> PermissionRow:
        """One of them."""
        found = next((p for p in self.permissions(caller, identifier) if p.id == permission), None)
        if found is None:
            raise not_found(f"tunedModels/{identifier}/permissions/{permission}")
        return found

    def grant(self, caller: Key, identifier: str, asked: wire.Permission) -> PermissionRow:
        """Give one user, or everyone, a permission.

        Raises:
            ServiceError: it says no grantee or no role, or the grantee has a permission already.
        """
        self.get(caller, identifier, Role.WRITER)
        grantee = _grantee(asked)
        role = _role(asked)
        if role is Role.OWNER:
            raise invalid("role", "there is one OWNER; transferOwnership makes another one")
        if grantee is Grantee.EVERYONE and role is not Role.READER:
            raise invalid("role", f"EVERYONE may be READER, not {role.value}")
        email = None if grantee is Grantee.EVERYONE else _email(asked.email_address)
        identity = "everyone" if email is None else secrets.token_hex(8)
        row = PermissionRow(identifier, identity, grantee, email, role)
        if not self._state.grant(row):
            self.get(caller, identifier)  # it may have been deleted meanwhile
            raise ServiceError(
                Code.ALREADY_EXISTS, f"{email or 'EVERYONE'} has a permission for tunedModels/{identifier}; patch it"
            )
        return row

    def change_role(
        self, caller: Key, identifier: str, permission: str, asked: wire.Permission, mask: str
    ) -> PermissionRow:
        """Give a permission another role; nothing else of it can be changed."""
        self.get(caller, identifier, Role.WRITER)
        row = self.permission(caller, identifier, permission)
        if mask.strip() not in ("", "role"):
            raise invalid("updateMask", f"{mask} cannot be changed; role can")
        role = _role(asked)
        if Role.OWNER in (role, row.role):
            raise invalid("role", "there is one OWNER; transferOwnership makes another one")
        if row.grantee is Grantee.EVERYONE and role is not Role.READER:
            raise invalid("role", f"EVERYONE may be READER, not {role.value}")
        self._state.change_role(identifier, permission, role)
        return self.permission(caller, identifier, permission)

    def revoke(self, caller: Key, identifier: str, permission: str) -> None:
        """Take a permission away; the owner's stays."""
        self.get(caller, identifier, Role.WRITER)
        if self.permission(caller, identifier, permission).role is Role.OWNER:
            raise ServiceError(
                Code.FAILED_PRECONDITION, "the owner's permission stays; transferOwnership gives it to another user"
            )
        self._state.revoke(identifier, permission)

    def transfer(self, caller: Key, identifier: str, asked: wire.TransferOwnership) -> None:
        """Make another user the owner of a tuned model; the owner so far becomes a writer."""
        self.get(caller, identifier, Role.OWNER)
        email = _email(asked.email_address)
        if email == caller.owner:
            raise invalid("emailAddress", f"{email} owns it already")
        self._state.transfer(
            identifier, PermissionRow(identifier, secrets.token_hex(8), Grantee.USER, email, Role.OWNER)
        )


def _listing(caller: Key, text: str, after: int) -> Listing:
    role, everyone, words = Role.READER, False, []
    given = _WORDS.findall(text)
    if len(given) > MAX_FILTER_WORDS:
        raise invalid("filter", f"has {len(given):,} words; at most {MAX_FILTER_WORDS} are looked for")
    for word in given:
        if word.lower() in _FILTERS:
            role, everyone = _FILTERS[word.lower()]
        elif _FIELD.match(word):
            known = ", ".join(_FILTERS)
            raise invalid("filter", f'{word[:60]} is unknown; there is {known}, and words; a quoted "a:b" is a word')
        else:
            words.append(word.strip('"'))
    return Listing(caller.owner, tuple(words), role, everyone, after=after)


def _after(token: str, shown: str) -> int:
    if not token:
        return 0
    number, _, of = token.partition(".")
    if not number.isdecimal() or len(number) > 18 or of != shown:
        raise invalid(
            "pageToken", "is not a token of this list; take nextPageToken of the page before, with the same filter"
        )
    return int(number)


def _snake(name: str) -> str:
    return re.sub(r"([A-Z])", lambda m: f"_{m[1].lower()}", name.strip())


def _grantee(asked: wire.Permission) -> Grantee:
    try:
        return Grantee(asked.grantee_type or "")
    except ValueError:
        words = f"must be USER or EVERYONE, not {asked.grantee_type!r}; groups are not known here"
        raise invalid("granteeType", words) from None


def _role(asked: wire.Permission) -> Role:
    try:
        return Role(asked.role or "")
    except ValueError:
        raise invalid("role", f"must be WRITER or READER, not {asked.role!r}") from None


def _email(given: str | None) -> str:
    text = (given or "").strip().lower()
    if text.count("@") != 1 or not all(text.split("@")) or len(text) > 254 or not text.isprintable() or " " in text:
        raise invalid("emailAddress", "must be an e-mail address")
    return text
