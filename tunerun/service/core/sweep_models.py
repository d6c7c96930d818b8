"""Tuned models of sweeps that the service answers with: chosen when it starts, read-only, in their own template.

They stay where their sweep has put them, and are asked like the service's own: in the batches of their base model, by
the place of their adapter. Every key may see and ask them, because the operator chose them for the service.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tunerun.engine import tuned_model
from tunerun.job import Snapshot
from tunerun.service.core.columns import ColumnTemplate
from tunerun.service.core.problems import Code, ServiceError
from tunerun.service.core.records import Grantee, Listing, PermissionRow, Role, Serving, TunedModelRow

FIRST_NUMBER = 10**15
"""In the order of creation they follow all that the service makes itself, so a page of the newest begins with them."""

REMEDY = "it is a sweep's: its operator can train it again, and start the service again"


@dataclass(frozen=True)
class SweepModel:
    """A tuned model of a sweep.

    Attributes:
        row: as the service's own are; its `folder` is the adapter's whole path.
        curve: its loss curve.
        trial: which it is, such as `trial 2 of the sweep support-1a2b3c4d`.
        template: renders what clients send.
        max_output_tokens: of an answer by default, as when its sweep measured it.
        weights: SHA-256 of the adapter as it was made; None: as its folder says.
        cache: where digests of large files are remembered.
    """

    row: TunedModelRow
    curve: tuple[Snapshot, ...]
    trial: str
    template: ColumnTemplate
    max_output_tokens: int
    weights: str | None
    cache: Path

    @property
    def serving(self) -> Serving:
        """What its answers are given with by default."""
        return replace(self.row.serving, max_output_tokens=self.max_output_tokens)

    @property
    def permission(self) -> PermissionRow:
        """The only one: everyone is a reader of it."""
        return PermissionRow(self.row.id, "everyone", Grantee.EVERYONE, None, Role.READER)

    @property
    def refusal(self) -> ServiceError:
        """What who wants to change it is answered."""
        return ServiceError(
            Code.FAILED_PRECONDITION,
            f"tunedModels/{self.row.id}: is {self.trial}, which this service shows and answers with; it cannot be "
            "changed, deleted, cancelled or shared here",
        )

    def fault(self) -> str | None:
        """What is missing or has changed of it since it was made; None: nothing."""
        return tuned_model.fault(Path(self.row.folder), self.weights, self.cache)

    def is_in(self, listing: Listing) -> bool:
        """Whether a list holds it; everyone is a reader of it, and no user is more than that."""
        text = f"{self.row.display_name} {self.row.description}".casefold()
        number, after = self.row.number, listing.after
        return (
            listing.role is Role.READER
            and not (listing.metadata or listing.noted)
            and listing.state in (None, self.row.state)
            and all(word.casefold() in text for word in listing.words)
            and (not after or (number < after if listing.newest_first else number > after))
        )
