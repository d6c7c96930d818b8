"""Tuned models of sweeps that the service offers: chosen at its start, read-only, with their own prompt template.

They stay in their sweep's folders, and answer like the service's own models, in the batches of their base model. Every
key may see and call them, because the operator chose them for the service.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tunerun.engine import tuned_model
from tunerun.job import Snapshot
from tunerun.service.core.column_template import ColumnTemplate
from tunerun.service.core.problems import Code, ServiceError
from tunerun.service.core.records import Grantee, Listing, PermissionRow, Role, Serving, TunedModelRow

FIRST_NUMBER = 10**15
"""First sequence number of sweeps' models: above the service's own, so that lists of the newest start with them."""

REMEDY = "it is a sweep's: its operator can train it again, and start the service again"


@dataclass(frozen=True)
class SweepModel:
    """A tuned model of a sweep.

    Attributes:
        row: a row like those of the service's own models, except that `folder` is the adapter's full path.
        curve: its loss curve.
        trial: its origin in words, such as `trial 2 of the sweep support-1a2b3c4d`.
        template: renders clients' prompts.
        serving: default generation options of its answers: those with which its sweep measured it.
        weights: SHA-256 of the adapter when it was made; None: the digest in its folder is used.
        cache: directory in which digests of large files are cached.
    """

    row: TunedModelRow
    curve: tuple[Snapshot, ...]
    trial: str
    template: ColumnTemplate
    serving: Serving
    weights: str | None
    cache: Path

    @property
    def permission(self) -> PermissionRow:
        """Its only permission: everyone is a reader."""
        return PermissionRow(self.row.id, "everyone", Grantee.EVERYONE, None, Role.READER)

    @property
    def refusal(self) -> ServiceError:
        """The error for requests that would change it."""
        return ServiceError(
            Code.FAILED_PRECONDITION,
            f"tunedModels/{self.row.id}: is {self.trial}, which is read-only in this service; it cannot be "
            "changed, deleted, cancelled or shared here",
        )

    def fault(self) -> str | None:
        """Return which of its files is missing or has changed since it was made; None: none."""
        return tuned_model.fault(Path(self.row.folder), self.weights, self.cache)

    def is_in(self, listing: Listing) -> bool:
        """Whether it matches a query; every user is a reader of it, and has no higher role."""
        text = f"{self.row.display_name} {self.row.description}".casefold()
        number, after = self.row.number, listing.after
        return (
            listing.role is Role.READER
            and not (listing.metadata or listing.noted)  # a sweep's model has neither: no wire has created it
            and listing.state in (None, self.row.state)
            and all(word.casefold() in text for word in listing.words)
            and (not after or (number < after if listing.newest_first else number > after))
        )
