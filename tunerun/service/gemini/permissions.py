"""The methods of permissions: who else may use a tuned model."""

from __future__ import annotations

from fastapi import APIRouter

from tunerun.service.core.library import Library
from tunerun.service.core.problems import Json, invalid
from tunerun.service.core.records import Grantee, Role
from tunerun.service.gemini import responses, wire
from tunerun.service.gemini.lists import PageSize, PageToken, page_size_of, position
from tunerun.service.gemini.method import GeminiRoute, Mask, TuningCaller


def routes(library: Library) -> APIRouter:
    """Return the routes of the permissions of tuned models."""
    router = APIRouter(prefix="/tunedModels/{tuned_model}/permissions", route_class=GeminiRoute)

    @router.post("")
    def create_permission(tuned_model: str, body: wire.Permission, caller: TuningCaller) -> Json:
        try:
            grantee = Grantee(body.grantee_type or "")
        except ValueError:
            words = f"must be USER or EVERYONE, not {body.grantee_type!r}; groups are not supported"
            raise invalid("granteeType", words) from None
        return responses.permission(library.grant(caller, tuned_model, grantee, body.email_address, _role_of(body)))

    @router.get("")
    def list_permissions(
        tuned_model: str, caller: TuningCaller, page_size: PageSize = 0, page_token: PageToken = ""
    ) -> Json:
        rows = library.permissions(caller, tuned_model)
        start, size = position(page_token, len(rows)), page_size_of(page_size)
        next_token = str(start + size) if start + size < len(rows) else ""
        page = [responses.permission(row) for row in rows[start : start + size]]
        return responses.message(permissions=page, next_page_token=next_token)

    @router.get("/{permission}")
    def get_permission(tuned_model: str, permission: str, caller: TuningCaller) -> Json:
        return responses.permission(library.permission(caller, tuned_model, permission))

    @router.patch("/{permission}")
    def patch_permission(
        tuned_model: str, permission: str, body: wire.Permission, caller: TuningCaller, update_mask: Mask = ""
    ) -> Json:
        if update_mask.strip() not in ("", "role"):  # the API accepts no other field
            raise invalid("updateMask", f"{update_mask} cannot be changed; role can")
        return responses.permission(library.change_role(caller, tuned_model, permission, _role_of(body)))

    @router.delete("/{permission}")
    def delete_permission(tuned_model: str, permission: str, caller: TuningCaller) -> Json:
        library.revoke(caller, tuned_model, permission)
        return {}

    return router


def _role_of(body: wire.Permission) -> Role:
    try:
        return Role(body.role or "")
    except ValueError:
        raise invalid("role", f"must be WRITER or READER, not {body.role!r}") from None
