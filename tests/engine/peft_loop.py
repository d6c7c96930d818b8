"""PEFT's own adapters on a base model: the reference that the engine's are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tunerun.engine import layers
from tunerun.engine.network import ADAPTER, LoadedModel, peft_warnings_ignored
from tunerun.job import TuningHyperparameters


@contextmanager
def fresh_adapter(base: LoadedModel, hyperparameters: TuningHyperparameters, seed: int) -> Iterator[Any]:
    """Put a new LoRA adapter on the layers that `layers.with_adapter` names, and take it off at the end.

    It begins as the identity. Its random numbers come from `seed` alone, and torch's own generator is left as it was.

    Yields:
        The PeftModel; only the adapter's parameters learn.
    """
    import peft

    alpha = hyperparameters.adapter_alpha
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=hyperparameters.adapter_rank,
        lora_alpha=int(alpha) if alpha == int(alpha) else alpha,
        lora_dropout=0.0,
        target_modules=layers.with_adapter(base.network, hyperparameters.target_modules),
    )
    with torch.random.fork_rng(devices=[]), peft_warnings_ignored():
        torch.manual_seed(seed)
        adapted = peft.get_peft_model(base.network, config, adapter_name=ADAPTER)
    adapted.eval()  # dropout stays off; gradients flow all the same
    try:
        yield adapted
    finally:
        take_off(base, adapted)


@contextmanager
def learned_adapter(base: LoadedModel, folder: Path) -> Iterator[Any]:
    """Put a copy of a tuned model's adapter on the base model, to learn more, and take it off at the end.

    Yields:
        The PeftModel; only the adapter's parameters learn.

    """
    import peft

    with peft_warnings_ignored():
        adapted = peft.PeftModel.from_pretrained(
            base.network, folder, adapter_name=ADAPTER, is_trainable=True, torch_device=str(base.device)
        )
    adapted.eval()
    try:
        yield adapted
    finally:
        take_off(base, adapted)


def take_off(base: LoadedModel, adapted: Any) -> None:
    """Remove every adapter, so that the base model is as it was loaded."""
    base.network = adapted.unload()
    if hasattr(base.network, "peft_config"):
        del base.network.peft_config
    base.network.requires_grad_(False)


def save_adapter(adapted: Any, source: tuple[str, str | None], folder: Path) -> None:
    """Write an adapter in PEFT's format, with the same bytes for the same adapter.

    Args:
        source: the name and the revision of the base model for `adapter_config.json`.
    """
    config = adapted.peft_config[ADAPTER]
    config.base_model_name_or_path, config.revision = source
    config.target_modules = sorted(config.target_modules)  # PEFT holds a set, in another order in every process
    with peft_warnings_ignored():
        adapted.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's model card, all placeholders
