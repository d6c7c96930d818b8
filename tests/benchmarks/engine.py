"""How fast the engine trains, against a plain loop with PEFT and torch on the same batch in the same process."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.sweep_cost import SMOLLM2, examples

ROWS = 12
"""Rows of each kind that steps are timed on, two steps each."""


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
    from tunerun.job import TuningHyperparameters

    settings = TuningHyperparameters()
    device = network.choose_device("cpu")
    ours = network.load(SMOLLM2, cache, device)
    started = time.perf_counter()
    theirs = network.load(SMOLLM2, cache, device)
    torch.set_num_threads(1)  # others' threads would count while they wait for each other
    lines = [f"engine: loading SmolLM2-135M from the cache: {time.perf_counter() - started:.2f} s"]
    started = time.process_time()
    form = forms.choose(ours)
    lines.append(f"engine: trying which form is right: {time.process_time() - started:.2f} s ({form.name})")
    for name in ("banking77", "next_number"):
        encoded = encoding.encode_examples(ours.tokenizer, ours.chat, examples(name))
        batches = [encoded[start : start + settings.batch_size] for start in range(0, ROWS, settings.batch_size)]
        adapter = lora.fresh(ours, settings, 0)
        optimiser = torch.optim.AdamW(adapter.parameters(), lr=settings.effective_learning_rate, fused=True)

        def step(rows: list[Any], adapter: Any = adapter, optimiser: Any = optimiser) -> None:
            with lora.on(ours.network, [adapter]):
                loss = form.losses(ours, [rows])[0] / sum(row.learned for row in rows)
                torch.autograd.backward(loss)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

        with peft_loop.fresh_adapter(theirs, settings, 0) as plain:
            plain_step = _plain_step(plain, ours.pad_id, settings.effective_learning_rate)
            ours_s, plain_s = _alternate(step, plain_step, batches)
        lines += [
            f"engine: a training step of {settings.batch_size} rows of {name}: {ours_s:.3f} s of CPU time",
            f"engine: the same with plain PEFT and torch: {plain_s:.3f} s, ratio {ours_s / plain_s:.2f}",
        ]
    return lines


def _alternate(
    ours: Callable[[list[Any]], None], plain: Callable[[list[Any]], None], batches: list[list[Any]]
) -> tuple[float, float]:
    """Return the mean CPU seconds of each, taken in turns so that a busy machine slows both."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for number, rows in enumerate([batches[0], *batches, *batches]):
        for step, kept in zip((ours, plain), seconds, strict=True):
            started = time.process_time()
            step(rows)
            if number > 0:  # the first one warms up
                kept.append(time.process_time() - started)
    return statistics.mean(seconds[0]), statistics.mean(seconds[1])


def _plain_step(adapted: Any, pad_id: int, learning_rate: float) -> Callable[[list[Any]], None]:
    """Return a step as tutorials write it: labels of -100 on prompts and padding, the model's own loss."""
    import torch

    optimiser = torch.optim.AdamW([one for one in adapted.parameters() if one.requires_grad], lr=learning_rate)

    def step(encoded: list[Any]) -> None:
        longest = max(len(one) for one in encoded)
        ids = [one.prompt + one.target + [pad_id] * (longest - len(one)) for one in encoded]
        labels = [[-100] * len(one.prompt) + one.target + [-100] * (longest - len(one)) for one in encoded]
        mask = [[1] * len(one) + [0] * (longest - len(one)) for one in encoded]
        tokens, answers, attention = torch.tensor(ids), torch.tensor(labels), torch.tensor(mask)
        loss = adapted(input_ids=tokens, labels=answers, attention_mask=attention).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step
