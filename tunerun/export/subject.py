"""The subject of an export: one trial's tuned model with its record."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tunerun.comparison import judge
from tunerun.comparison.judgement import TEST
from tunerun.comparison.results import TrialResult, Verdict
from tunerun.engine import hub, tuned_model
from tunerun.engine.tuned_model import TunedModelRecord
from tunerun.errors import NotFoundError, TunerunError
from tunerun.ledger import JobRecord, TrialRecord
from tunerun.provenance.facts import BaseModelFacts, DataFile
from tunerun.stored import section
from tunerun.template import PromptTemplate

if TYPE_CHECKING:
    from tunerun.record import OpenRecord  # its bundles hold model cards


@dataclass(frozen=True)
class ExportSubject:
    """A trial of a record with the facts that its export needs, each read once.

    Attributes:
        record: of the trial's sweep.
        trial: whose tuned model is exported.
    """

    record: OpenRecord
    trial: TrialRecord

    @cached_property
    def job(self) -> JobRecord | None:
        """The job that tuned it; None: it has no job."""
        return self.record.ledger.job(self.trial.key)

    @property
    def name(self) -> str:
        """`tunedModels/<id>`, or the sweep's id and the trial's number if it has no tuned model."""
        tuned = None if self.job is None else self.job.tuned_model
        return f"{self.record.sweep.id}-{self.trial.number}" if tuned is None else tuned.name

    @property
    def folder(self) -> Path | None:
        """The folder of its adapter; None: it has none, or a service has it."""
        return None if self.job is None or self.job.tuned_model is None else self.job.tuned_model.folder

    @cached_property
    def tuned(self) -> TunedModelRecord | None:
        """The record in its folder, with chat format and base model; None: the folder is missing."""
        if self.folder is None:
            return None
        # A card needs the record alone: the folder may be on another machine, or removed.
        try:
            return tuned_model.read(self.folder)
        except NotFoundError:
            return None

    @cached_property
    def base(self) -> BaseModelFacts:
        """The facts of its base model, without paths of the machine."""
        name = self.trial.settings.model
        identity = "" if self.tuned is None else self.tuned.base_identity
        for facts in self.record.facts.base_models:
            # Also by identity: a sweep over `model.source` has several base models of one name.
            if facts.name == name and identity in ("", facts.identity):
                return facts
        # A sweep of an earlier version has no facts: take them from the trial's config.
        stated = section(self.trial.config, "model")
        return BaseModelFacts(
            name=public_name(name),
            identity=identity or str(self.trial.ingredients.get("model", "")),
            source=public_name(str(stated.get("source", "") or name)),
            revision=stated.get("revision"),
            package=stated.get("package"),
            license=stated.get("license"),
        )

    @property
    def base_on_hub(self) -> str | None:
        """The base model's name on the Hugging Face hub; None: it has none, or none is known."""
        base = self.base
        # A folder or file of the user may have a path that looks like a name on the hub, such as `models/tiny`.
        is_file_of_its_own = base.identity.startswith("folder:") or (
            base.identity.startswith("gguf:") and base.package is None
        )
        is_name = hub.is_name(base.source) and "/" in base.source
        return base.source if is_name and not is_file_of_its_own else None

    @property
    def base_name(self) -> str:
        """The name by which others find the base model: its name on the hub, or else that of its folder or file."""
        return self.base_on_hub or Path(self.base.source).name

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the template's input reads."""
        return tuple(sorted(PromptTemplate(self.trial.settings.template).input_columns))

    def data_file(self, used_for: str) -> DataFile | None:
        """Return the recorded file of a set.

        Args:
            used_for: `training`, `validation` or `test`.

        Returns:
            The file; None: it is not recorded.
        """
        return next((file for file in self.record.facts.data_files if used_for in file.used_for), None)

    @cached_property
    def judged(self) -> tuple[Verdict | None, str]:
        """The sweep's verdict; or None, and why it cannot be computed here, such as a missing metric of the user."""
        try:
            return judge(self.record.ledger, self.record.sweep), ""
        except TunerunError as error:
            return None, str(error)

    @cached_property
    def judged_on_test(self) -> Verdict | None:
        """The verdict on the test set; None: the set was not opened, or the verdict cannot be computed here."""
        if self.judged[0] is None or not self.record.ledger.openings(self.record.sweep.id):
            return None
        return judge(self.record.ledger, self.record.sweep, held_out=TEST)

    def result_in(self, verdict: Verdict) -> TrialResult:
        """Return the trial's result in a verdict of its sweep."""
        return next(result for result in verdict.trials if result.record.number == self.trial.number)


def public_name(name: str) -> str:
    """Return a base model's name without the folders of a path; a name on the hub stays as it is."""
    # A name on the hub has one slash at most, between its owner and its repository.
    is_path = name.startswith(("/", ".", "~")) or "\\" in name or name.endswith(".gguf") or name.count("/") > 1
    return Path(name.replace("\\", "/")).name if is_path else name
