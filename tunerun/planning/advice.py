"""A note if no trial of a sweep is near the learning rate that is advised for its base model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from tunerun.planning.trial import Trial

NEAR = 3.0
"""Factor within which two learning rates are near each other. Our choice: rates are usually tried in steps of about 3
(1e-4, 3e-4, 1e-3), so a sweep around the advised rate includes one within this factor."""


def notes_on_rates(trials: Sequence[Trial]) -> Iterator[str]:
    """Yield a note for each base model with an advised learning rate that none of its trials is near.

    One near trial is enough: a sweep that includes the advised rate explores around it on purpose.
    """
    rates: defaultdict[str, list[float]] = defaultdict(list)
    advised = {}
    for trial in trials:
        model = trial.config.model
        if model.advised_learning_rate is not None and trial.capabilities.takes_learning_rate:
            rates[model.name].append(trial.config.hyperparameters.effective_learning_rate)
            advised[model.name] = model.advised_learning_rate
    for name, advice in advised.items():
        if any(1 / NEAR <= rate / advice.value <= NEAR for rate in rates[name]):
            continue
        swept = ", ".join(f"{rate:g}" for rate in sorted(set(rates[name])))
        yield (
            f"hyperparameters.learning_rate: {swept}, and {advice.value:g} is advised for {name} ({advice.source}); "
            f"set hyperparameters.learning_rate={advice.value:g}, or sweep around it"
        )
