"""A trial's key: the content hash of everything that can change its result. Pure: no file is read.

An ingredient that a later version adds is hashed only if its value differs from what all earlier trials had, so that
existing keys do not change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from tunerun.backends.base import Capabilities
from tunerun.dataset import LoadedDataset
from tunerun.digest import digest
from tunerun.engine import chat_template
from tunerun.engine.chat_format import TURNS_VERSION
from tunerun.schema import TrialConfig

KEY_FORMAT = 2
"""Version of what a key hashes; raising it changes every key, so that every trial would train again."""


@dataclass(frozen=True)
class TrialKey:
    """Everything that can change a trial's result.

    Attributes:
        ingredients: JSON values by name.
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
        capabilities: Capabilities,
        examples: LoadedDataset,
        model_identity: str,
        *,
        round_: int = 0,
    ) -> Self:
        """Return the key of a config.

        Args:
            config: of the trial.
            capabilities: of its backend.
            examples: its examples, rendered by the template.
            model_identity: digest of the base model's content, or for a hosted model its name.
            round_: number of times that `--fresh` restarted every trial.
        """
        hyperparameters = config.hyperparameters
        ingredients = {
            "format": KEY_FORMAT,
            "training": examples.training.digest,
            # Validation losses are part of a job's result: the backend measures them during training, so a job with
            # other held-out rows has another validation curve, whichever epoch is kept.
            "validation": examples.validation.digest if examples.validation else None,
            # Content, not a name: a folder whose files were replaced is another base model.
            "model": model_identity,
            "chat_format": chat_format(capabilities),
            "epoch_count": hyperparameters.epoch_count,
            "batch_size": hyperparameters.batch_size,
            # A multiplier is the learning rate that it gives, so both ways of writing it have one key.
            "learning_rate": hyperparameters.effective_learning_rate,
            "adapter_rank": hyperparameters.adapter_rank,
            "adapter_alpha": hyperparameters.adapter_alpha,
            "seed": config.seed,
            # Services may tune a model of one name differently; settings such as packing change no result.
            "backend": {"kind": capabilities.kind, "address": capabilities.address},
            "precision": capabilities.precision,
        }
        # Each of the following is absent where it has the value that all trials had before it existed.
        sets = (examples.training, examples.validation)
        if not capabilities.is_hosted and any(each.has_conversations for each in sets if each is not None):
            ingredients["turns"] = TURNS_VERSION
        if capabilities.quantization:
            ingredients["quantization"] = capabilities.quantization
        if hyperparameters.keep != "last":
            ingredients["keep"] = hyperparameters.keep
        ingredients |= hyperparameters.for_tuning().later
        if round_:
            ingredients["round"] = round_
        return cls(ingredients)


def group_identity(capabilities: Capabilities, examples: LoadedDataset, model_identity: str) -> dict[str, Any]:
    """Return what the subjects of baselines hash: trials for which it is equal are compared with the same baselines.

    Args:
        capabilities: of the trial's backend.
        examples: the trial's examples.
        model_identity: as in `TrialKey.of`.
    """
    number_format = {"precision": capabilities.precision, "quantization": capabilities.quantization}
    return {
        "model": model_identity,
        "chat_format": chat_format(capabilities),
        "validation": examples.validation.digest if examples.validation else None,
        "backend": {"kind": capabilities.kind, "address": capabilities.address},
        # float32 was the only format of early versions; omitting it keeps the subjects of their baselines
        **{name: value for name, value in number_format.items() if value not in ("", "float32")},
    }


def chat_format(capabilities: Capabilities) -> str | None:
    """Return the chat format's part of a key; None: the service's own format, which is not known."""
    return None if capabilities.is_hosted else chat_template.IN_KEY
