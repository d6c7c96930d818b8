"""Names of runs and params: short enough for MLflow's tables, and sortable.

The run column of MLflow's page cuts names after about 20 characters (3.18.0).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from tunerun import dotted_keys
from tunerun.job import Scalar
from tunerun.replicates import SEED

LABELS = {
    "learning_rate": "lr",
    "learning_rate_multiplier": "lrm",
    "epoch_count": "ep",
    "batch_size": "bs",
    "adapter_rank": "r",
    "adapter_alpha": "a",
    "template": "tpl",
    "dataset": "data",
    "limit": "n",
}
"""The short labels of run names, by the last part of a key that says something; other keys are their own label."""

_SAYS_NOTHING = frozenset({"name", "path", "source", "kind"})
_MAX_VALUE_CHARACTERS = 12
_PLAIN = re.compile(r"[\w./:+-]+")
_DEFAULT_KEYS = ("hyperparameters.learning_rate", "hyperparameters.epoch_count")


def run_name(
    number: int, trials: int, varied: Sequence[str], overrides: Mapping[str, Scalar], config: Mapping[str, Any]
) -> str:
    """Return the name of a trial's run, such as `t05 lr=0.0001 ep=5`: its number, then the varied keys.

    Args:
        number: of the trial.
        trials: how many trials the sweep has; numbers are padded to its width.
        varied: dotted keys; if nothing varies, learning rate and epochs are shown.
        overrides: of the trial, by dotted key.
        config: of the trial, for keys that it does not override.
    """
    # The varied keys: MLflow's own names, such as `dapper-slug-248`, say nothing. The number first, so that names sort.
    return " ".join([padded("t", number, trials), *_values(varied, overrides, config)])


def point_name(
    number: int, points: int, varied: Sequence[str], overrides: Mapping[str, Scalar], config: Mapping[str, Any]
) -> str:
    """Return the name of a point, such as `p5 lr=0.0001 ep=5`: what its trials share, so without the seed.

    Args:
        number: of the point.
        points: how many points the sweep has; numbers are padded to its width.
        varied: as for `run_name`.
        overrides: of one of its trials, by dotted key.
        config: of that trial.
    """
    swept = [key for key in varied if key != SEED]
    return " ".join([padded("p", number, points), *_values(swept, overrides, config)])


def padded(letter: str, number: int, count: int) -> str:
    """Return a letter and a number, padded so that names sort.

    Args:
        letter: the first character of the name.
        number: from 0.
        count: how many numbers there are; the largest one gives the width.
    """
    return letter + str(number).zfill(len(str(max(count - 1, 0))))


def _values(varied: Sequence[str], overrides: Mapping[str, Scalar], config: Mapping[str, Any]) -> list[str]:
    return [
        f"{label(key)}={short_value(value)}"
        for key in varied or _DEFAULT_KEYS
        if (value := value_of(key, overrides, config)) is not None
    ]


PARAMS = (
    "epoch_count",
    "batch_size",
    "learning_rate",
    "adapter_rank",
    "adapter_alpha",
    "template",
    "model",
    "dataset",
    "backend",
    "seed",
    "examples",
)
"""The params that every trial has; what a sweep varies besides is a param under its dotted key."""

_PARAM_OF_LABEL = {"model": "model", "data": "dataset", "tpl": "template"}


def param_name(key: str) -> str:
    """Return the name of the param that shows a dotted key."""
    last = key.rpartition(".")[2]
    return last if last in PARAMS else _PARAM_OF_LABEL.get(label(key), key)


def label(key: str) -> str:
    """Return the label of a dotted key in run names."""
    parts = key.split(".")
    while len(parts) > 1 and parts[-1] in _SAYS_NOTHING:
        parts.pop()
    return LABELS.get(parts[-1], parts[-1])


def value_of(key: str, overrides: Mapping[str, Scalar], config: Mapping[str, Any]) -> Scalar:
    """Return a trial's value of a dotted key: its override, else its config's value.

    Args:
        key: dotted.
        overrides: of the trial, by dotted key.
        config: of the trial.

    Returns:
        None: the value is null, a list or a section, or the config does not have the key.
    """
    if key in overrides:
        return overrides[key]
    value = dotted_keys.get(config, key)
    return value if isinstance(value, str | int | float | bool) else None


def short_value(value: Scalar) -> str:
    """Return a value in at most 12 characters: numbers in their shortest form, paths without folder and ending."""
    if isinstance(value, float):
        return re.sub(r"e([+-])0*", lambda m: "e-" if m[1] == "-" else "e", f"{value:g}")
    text = override_value(value) if not isinstance(value, str) else value
    if "/" in text:
        text = PurePath(text).stem
    return text if len(text) <= _MAX_VALUE_CHARACTERS else text[: _MAX_VALUE_CHARACTERS - 1] + "…"


def override_line(key: str, value: Scalar) -> str:
    """Return an override as it can be typed on the command line, in Hydra's grammar."""
    return f"{key}={override_value(value)}"


def override_value(value: Scalar) -> str:
    """Return a value in Hydra's grammar: null, true, false, a number, a plain word or a quoted string."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str) or _PLAIN.fullmatch(value):
        return str(value)
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def metric_key(name: str) -> str:
    """Return a metric's name without characters that MLflow refuses: `hit@3` becomes `hit_at_3`."""
    # Allowed are letters, digits, `_ - . space : /`; refused among others `@ [ ] = ,` (3.18.0).
    return re.sub(r"[^\w.:/ -]", "_", name.replace("@", "_at_"))
