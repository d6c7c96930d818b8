"""All differences between two records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tunerun.comparison import labels
from tunerun.errors import InputError
from tunerun.record.difference.configs import config_section, reasons
from tunerun.record.difference.environments import base_model_section, environment_section
from tunerun.record.difference.pairs import Pairing, paired
from tunerun.record.difference.results import results_section
from tunerun.record.difference.rows import rows_section
from tunerun.record.difference.sections import DifferenceSection, listed
from tunerun.record.difference.texts import code_section, files_section, template_section
from tunerun.record.sources import OpenRecord


@dataclass(frozen=True)
class RecordDifference:
    """The differences between two trials, or between two sweeps.

    Attributes:
        a, b: descriptions of the two records.
        sections: in display order, including those without a difference.
        pairing: which trials were compared.
        because: why keys of paired trials differ; empty if no key differs, or no record says why.
    """

    a: str
    b: str
    sections: tuple[DifferenceSection, ...]
    pairing: Pairing
    because: tuple[str, ...]

    @property
    def key_sentence(self) -> str:
        """Which of the differences are in the key, in one sentence."""
        pairs = self.pairing.pairs
        different = sum(not pair.has_one_key for pair in pairs)
        if not pairs:
            return "no trial of the one has a partner in the other, so no keys are compared"
        if not different:
            return "the keys are the same"
        few = different < len(pairs)
        which = f"the keys of {different} of {len(pairs)} trials differ" if few else "the keys differ"
        return f"{which} because of: {', '.join(self.because)}" if self.because else f"{which}; no record says why"

    def to_json(self) -> dict[str, Any]:
        """The difference as `diff --json` prints it."""
        pairs = self.pairing.pairs
        return {
            "a": self.a,
            "b": self.b,
            "pairs": [{"a": pair.a.number, "b": pair.b.number, "same_key": pair.has_one_key} for pair in pairs],
            "only_a": [trial.number for trial in self.pairing.only_a],
            "only_b": [trial.number for trial in self.pairing.only_b],
            "sections": {section.title: section.to_json() for section in self.sections},
            "key": {"same": all(pair.has_one_key for pair in pairs), "because": list(self.because)},
            "sentence": self.key_sentence,
        }


def difference(a: OpenRecord, b: OpenRecord) -> RecordDifference:
    """Compare two trials, or two sweeps trial by trial.

    A sweep with one trial can be compared with a trial.

    Args:
        a, b: the two records.

    Raises:
        InputError: one is a trial, and the other a sweep with several.
    """
    # Otherwise `paired` would choose with which of the sweep's trials it is compared.
    for one, other in ((a, b), (b, a)):
        if one.number is not None and other.number is None and len(other.trials) > 1:
            raise InputError(
                f"{one.origin} is one trial, and {other.origin} has {len(other.trials)}: compare a sweep with a sweep, "
                "or a trial with a trial, by tuned models' names or MLflow run ids; `tunerun status --json` shows them"
            )
    pairing = paired(a.trials, b.trials)
    pairs = pairing.pairs
    is_sweep = a.number is None and b.number is None
    unpaired = []
    for side, trials in (("A", pairing.only_a), ("B", pairing.only_b)):
        texts = ((trial.number, labels.label(trial.overrides)) for trial in trials)
        names = [f"trial {number} ({text})" if text else f"trial {number}" for number, text in texts]
        unpaired += [f"only in {side}: {listed(names)}"] if names else []
    sections = (
        *([DifferenceSection("trials", lines=tuple(unpaired))] if is_sweep else []),
        config_section(pairs),
        rows_section(a.ledger, b.ledger, pairs),
        template_section(pairs),
        base_model_section(a, b, pairs),
        files_section(a, b),
        code_section(a, b),
        environment_section(a, b, pairs),
        results_section(a, b, pairs, is_sweep=is_sweep),
    )
    return RecordDifference(a.origin, b.origin, sections, pairing, reasons(pairs))
