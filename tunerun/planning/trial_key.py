"""A trial's key: the content hash of everything that can change its result. Pure: no file is read.

What is added to a key later is in it only where it has another value than trials had before, so that the keys of
earlier versions stay the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from tunerun.backends.base import Capabilities
from tunerun.dataset import LoadedDataset
from tunerun.digest import digest
from tunerun.engine import base_model, chat_template
from tunerun.schema import TrialConfig

KEY_FORMAT = 2
"""Version of what a key hashes; a change of it makes every trial a new one."""


@dataclass(frozen=True)
class TrialKey:
    """What can change a trial's result.

    Attributes:
        ingredients: JSON values.
    """

    ingredients: Mapping[str, Any]

    @cached_property
    def digest(self) -> str:
        """The key, 64 hexadecimal digits."""
        return digest(self.ingredients)

    @classmethod
    def of(
        cls,
        config: TrialConfig,
        place: Capabilities,
        examples: LoadedDataset,
        model_identity: str,
        *,
        round_: int = 0,
    ) -> Self:
        """Return the key of a config.

        The validation set is part of it, because its losses are a job's result: the backend measures them while it
        trains, so a job on other held-out rows has another validation curve, whichever epoch is kept.

        Args:
            place: of its backend.
            examples: after the template.
            model_identity: the base model's content, or at a service its name.
            round_: how often `--fresh` has begun every trial again.
        """
        hyperparameters = config.hyperparameters
        ingredients = {
            "format": KEY_FORMAT,
            "training": examples.training.digest,
            "validation": examples.validation.digest if examples.validation else None,
            "model": model_identity,
            "chat_format": chat_format(place),
            "epoch_count": hyperparameters.epoch_count,
            "batch_size": hyperparameters.batch_size,
            "learning_rate": hyperparameters.effective_learning_rate,
            "adapter_rank": hyperparameters.adapter_rank,
            "adapter_alpha": hyperparameters.adapter_alpha,
            "seed": config.seed,
            "backend": {"kind": place.kind, "address": place.address},
            "precision": place.precision,
        }
        if not place.is_hosted and _has_conversations(examples):
            ingredients["turns"] = base_model.TURNS_VERSION
        if place.quantization:
            ingredients["quantization"] = place.quantization
        if hyperparameters.keep != "last":
            ingredients["keep"] = hyperparameters.keep
        ingredients |= hyperparameters.for_tuning().later
        if round_:
            ingredients["round"] = round_
        return cls(ingredients)


def group_identity(place: Capabilities, examples: LoadedDataset, model_identity: str) -> dict[str, Any]:
    """Return what the subjects of baselines hash: trials that are alike in it are compared with the same baselines."""
    number_format = {"precision": place.precision, "quantization": place.quantization}
    return {
        "model": model_identity,
        "chat_format": chat_format(place),
        "validation": examples.validation.digest if examples.validation else None,
        "backend": {"kind": place.kind, "address": place.address},
        # float32 is what every engine had before there was a choice
        **{name: value for name, value in number_format.items() if value not in ("", "float32")},
    }


def chat_format(place: Capabilities) -> str | None:
    """Return the chat format's part of a key; None: a service's own, which is not known."""
    return None if place.is_hosted else chat_template.IN_KEY


def _has_conversations(examples: LoadedDataset) -> bool:
    """Whether something is trained or validated on more than an input and its output."""
    sets = (examples.training, examples.validation)
    return any(each.has_conversations for each in sets if each is not None)
