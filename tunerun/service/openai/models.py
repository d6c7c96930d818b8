"""The models of the wire: base models, and tuned models under each of their names."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter

from tunerun.service.core.catalogue import OfferedModel
from tunerun.service.core.credentials import Key
from tunerun.service.core.library import Library
from tunerun.service.core.problems import Code, Json, ServiceError
from tunerun.service.core.records import ModelState, Role, TunedModelRow
from tunerun.service.core.state import State
from tunerun.service.openai import names
from tunerun.service.openai.method import JsonRoute, TuningCaller
from tunerun.service.openai.problems import no_such_model, wrong
from tunerun.service.routes import Caller

BASE_OWNER = "system"
"""`owned_by` of base models, like that of OpenAI's own."""

BASE_CREATED = 0
"""`created` of base models, whose creation time is unknown."""

GEMINI_PREFIX = "tunedModels/"
"""The prefix of a tuned model's name on the Gemini wire."""


@dataclass(frozen=True)
class NamedModel:
    """The model that a name refers to.

    Attributes:
        offered: the base model; None: the tuned model's base model is not offered now.
        row: the tuned model; None: the name refers to the base model itself.
        step: step of the checkpoint; None: the name refers to the tuned model itself.
    """

    offered: OfferedModel | None
    row: TunedModelRow | None = None
    step: int | None = None


class Models:
    """Resolves model names. Every operation checks the caller's permissions.

    Args:
        library: the tuned models, with access control.
        state: the database, to find rows by the start of their keys.
    """

    def __init__(self, library: Library, state: State) -> None:
        self.library = library
        self._state = state

    def find(self, caller: Key, name: str, role: Role = Role.READER) -> NamedModel:
        """Resolve a model name.

        Args:
            caller: the key of the request.
            name: a base model's name, `ft:...`, `ft:...:ckpt-step-N`, or `tunedModels/ID`.
            role: the required role on a tuned model.

        Raises:
            ServiceError: the model does not exist or is not visible to the caller, or the caller lacks the role.
        """
        code_and_step = names.read_model_name(name)
        if code_and_step is not None:
            code, step = code_and_step
            rows_of_sweeps = (model.row for model in self.library.sweep_models.values())
            of_sweep = next((row for row in rows_of_sweeps if names.key_of(row).startswith(code)), None)
            row = self.of_key(caller, code, role) if of_sweep is None else self.library.get(caller, of_sweep.id, role)
            # The code alone identifies the row; a name whose other parts differ from the row's was never issued.
            if row is None or names.model_name(row, step) != name:
                raise no_such_model(name)
            if step is not None and all(epoch.step != step for epoch in self.library.epochs(row)):
                raise no_such_model(name)
            return NamedModel(self.library.catalogue.find(row.base_model), row, step)
        if name.startswith(GEMINI_PREFIX):
            try:
                row = self.library.get(caller, name.removeprefix(GEMINI_PREFIX), role)
            except ServiceError as error:
                if error.code is Code.NOT_FOUND:
                    raise no_such_model(name) from error
                raise
            return NamedModel(self.library.catalogue.find(row.base_model), row)
        offered = self.library.catalogue.offered.get(name)
        if offered is None:
            raise no_such_model(name)
        return NamedModel(offered)

    def of_key(self, caller: Key, beginning: str, role: Role = Role.READER) -> TunedModelRow | None:
        """Return the tuned model whose key has a prefix; None: none that is visible to the caller.

        Raises:
            ServiceError: the caller lacks the role.
        """
        row = self._state.of_key(beginning)
        try:
            return None if row is None else self.library.get(caller, row.id, role)
        except ServiceError as error:
            if error.code is Code.NOT_FOUND:
                return None
            raise

    def all(self, caller: Key) -> list[Json]:
        """Return every model that the caller can call: base models, then tuned models, newest first."""
        tuned = self.library.active(caller)
        return [*map(base_model, self.library.catalogue.offered), *map(tuned_model, tuned)]

    def get(self, caller: Key, name: str) -> Json:
        """Return a model as the wire's JSON, under the requested name.

        Raises:
            ServiceError: the model does not exist, is not visible to the caller, or its job has not succeeded.
        """
        named = self.find(caller, name)
        if named.row is None:
            return base_model(name)
        # A cancelled job's model can be called, but is not offered: OpenAI has none of such a job.
        if named.row.state is not ModelState.ACTIVE and named.step is None:
            raise no_such_model(name)
        return tuned_model(named.row) | {"id": name}

    def delete(self, caller: Key, name: str) -> Json:
        """Delete a tuned model together with its job.

        Raises:
            ServiceError: the name is a base model or a checkpoint, does not exist, or the caller is not the owner.
        """
        named = self.find(caller, name, Role.OWNER)
        if named.row is None:
            raise wrong("model", f"{name} is a base model; only tuned models can be deleted")
        if named.step is not None:
            whole = names.model_name(named.row)
            raise wrong("model", f"{name} is a checkpoint, which is deleted with its tuned model: delete {whole}")
        self.library.delete(caller, named.row.id)
        return {"id": name, "object": "model", "deleted": True}


def base_model(name: str) -> Json:
    """Return a base model as the wire's JSON."""
    return {"id": name, "object": "model", "created": BASE_CREATED, "owned_by": BASE_OWNER}


def tuned_model(row: TunedModelRow) -> Json:
    """Return a tuned model as the wire's JSON."""
    created = int(row.completed_at or row.created_at)
    return {
        "id": names.model_name(row),
        "object": "model",
        "created": created,
        "owned_by": names.ORGANIZATION,
    }


def routes(models: Models) -> APIRouter:
    """Return the routes of models. A name may contain slashes, which arrive decoded.

    They are not in the OpenAPI document: it allows one operation per path, and has the Gemini wire's at these paths.
    """
    router = APIRouter(prefix="/models", route_class=JsonRoute, tags=["models"], include_in_schema=False)

    @router.get("")
    def list_models(caller: Caller) -> Json:
        return {"object": "list", "data": models.all(caller)}  # whole: this list of OpenAI's has no pages

    @router.get("/{model:path}")
    def retrieve_model(model: str, caller: Caller) -> Json:
        return models.get(caller, model)

    @router.delete("/{model:path}")
    def delete_model(model: str, caller: TuningCaller) -> Json:
        return models.delete(caller, model)

    return router
