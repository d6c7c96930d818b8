"""Permissions of the API, read as the core's types."""

from __future__ import annotations

from tunerun.service.core.problems import invalid
from tunerun.service.core.records import Grantee, Role
from tunerun.service.gemini import wire


def read_grantee(asked: wire.Permission) -> Grantee:
    """Read the grantee of a permission.

    Raises:
        ServiceError: the grantee is missing, or is a group.
    """
    try:
        return Grantee(asked.grantee_type or "")
    except ValueError:
        words = f"must be USER or EVERYONE, not {asked.grantee_type!r}; groups are not supported"
        raise invalid("granteeType", words) from None


def read_role(asked: wire.Permission) -> Role:
    """Read the role of a permission.

    Raises:
        ServiceError: the role is missing, or cannot be granted.
    """
    try:
        return Role(asked.role or "")
    except ValueError:
        raise invalid("role", f"must be WRITER or READER, not {asked.role!r}") from None


def check_mask(mask: str) -> None:
    """Refuse a mask with anything but the role.

    Raises:
        ServiceError: the mask names something else.
    """
    if mask.strip() not in ("", "role"):
        raise invalid("updateMask", f"{mask} cannot be changed; role can")
