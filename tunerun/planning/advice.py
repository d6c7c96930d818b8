"""What is advised of a base model's learning rate, where no trial of a sweep is near it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from tunerun.planning.trial import Trial

NEAR = 3.0
"""How many times apart two learning rates may be and still be near. Our choice: rates are tried in steps of about 3
(1e-4, 3e-4, 1e-3), so a sweep around the advised one has one within this."""


def notes_on_rates(trials: Sequence[Trial]) -> Iterator[str]:
    """Say of each base model with an advised learning rate that no trial of it is near, and how to set it.

    A sweep that has one trial near it explores, and gets no note.
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
        given = ", ".join(f"{rate:g}" for rate in sorted(set(rates[name])))
        yield (
            f"hyperparameters.learning_rate: {given}, and {advice.value:g} is advised for {name} ({advice.source}); "
            f"set hyperparameters.learning_rate={advice.value:g}, or sweep around it"
        )
