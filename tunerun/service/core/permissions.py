"""The permissions of tuned models in the service's database."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tunerun.database import DatabaseFile
from tunerun.service.core.database import ServiceDatabase, marks
from tunerun.service.core.records import Grantee, PermissionRow, Role


class Permissions:
    """The permissions of all tuned models; a tuned model's are deleted together with it.

    Args:
        database: the service's database.
    """

    def __init__(self, database: ServiceDatabase) -> None:
        self._database = database

    def of(self, identifier: str) -> list[PermissionRow]:
        """Return the permissions for a tuned model, oldest first."""
        rows = self._database.rows("SELECT * FROM permission WHERE tuned_model = ? ORDER BY rowid", [identifier])
        return [
            PermissionRow(r["tuned_model"], r["id"], Grantee(r["grantee"]), r["email"], Role(r["role"])) for r in rows
        ]

    def roles(self, identifiers: Sequence[str], email: str) -> dict[str, set[Role]]:
        """Return a user's roles on tuned models by id, including roles granted to everyone."""
        rows = self._database.rows(
            f"SELECT tuned_model, role FROM permission WHERE tuned_model IN ({marks(identifiers)}) "
            "AND (email = ? OR grantee = ?)",
            [*identifiers, email, Grantee.EVERYONE],
        )
        roles: dict[str, set[Role]] = {identifier: set() for identifier in identifiers}
        for row in rows:
            roles[row["tuned_model"]].add(Role(row["role"]))
        return roles

    def grant(self, permission: PermissionRow) -> bool:
        """Add a permission; False: the grantee already has one, or the tuned model was deleted."""
        with self._database.transaction() as file:
            return insert(file, permission) == 1

    def change_role(self, identifier: str, permission: str, role: Role) -> None:
        """Change the role of a permission.

        Args:
            identifier: the id of the tuned model.
            permission: the id of the permission.
            role: the new role.
        """
        self._database.write(
            "UPDATE permission SET role = ? WHERE tuned_model = ? AND id = ?", [role, identifier, permission]
        )

    def revoke(self, identifier: str, permission: str) -> None:
        """Delete a permission."""
        self._database.write("DELETE FROM permission WHERE tuned_model = ? AND id = ?", [identifier, permission])

    def transfer(self, identifier: str, new: PermissionRow) -> None:
        """Make a user the owner; the previous owner becomes a writer."""
        with self._database.transaction() as file:
            file.write(
                "UPDATE permission SET role = ? WHERE tuned_model = ? AND role = ?",
                [Role.WRITER, identifier, Role.OWNER],
            )
            # The new owner may have been a reader or writer, and a user has one permission.
            file.write("DELETE FROM permission WHERE tuned_model = ? AND email = ?", [identifier, new.email])
            insert(file, new)


def insert(file: DatabaseFile, permission: PermissionRow) -> int:
    """Insert a permission inside a transaction, if its tuned model exists; return the number of inserted rows."""
    return file.write(
        "INSERT OR IGNORE INTO permission SELECT id, ?, ?, ?, ?, ? FROM tuned_model WHERE id = ?",
        [permission.id, permission.grantee, permission.email, permission.role, time.time(), permission.tuned_model],
    )
