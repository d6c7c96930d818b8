"""`make bench-gpu`: what only a GPU can show, checked and measured, written to `experiments/engine_speed/gpu.json`.

Base models have random weights of a real model's shape, so that nothing is downloaded. Every check is a function of a
`Bench`, so that the tests run them on the CPU with a small shape.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

from tests.benchmarks import sweep_cost
from tunerun.examples import Example
from tunerun.job import BaseModelRef, TuningRequest

OUTPUT = sweep_cost.EXPERIMENTS / "engine_speed" / "gpu.json"

SHAPES: Mapping[str, dict[str, Any]] = {
    "135M": {  # HuggingFaceTB/SmolLM2-135M-Instruct, config.json
        "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True,
    },
    "0.5B": {  # Qwen/Qwen2.5-0.5B-Instruct, config.json
        "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
    },
}  # fmt: skip
GOALS = {"135M": 8.0, "0.5B": 4.0}
"""How much faster a pack of twelve trials is than PEFT one by one, both in bf16 (issue 12)."""

TOGETHER = 12
ROUNDS = 3
BF16_LIMIT = 0.02
"""Relative difference of losses in bf16 and in fp32: bf16 keeps 8 bits of a number."""

ALONE_LIMIT = 1e-5
"""Relative difference of losses in a pack and alone, in the first epoch in fp32."""


@dataclass(frozen=True)
class Bench:
    """What checks run on.

    Attributes:
        folder: for base models and the cache.
        device: as `backend.device`.
        shapes: of base models, by name; the first one is for what is checked and not timed.
        rounds: of timings, after one that warms up.
    """

    folder: Path
    device: str = "cuda"
    shapes: Mapping[str, dict[str, Any]] = field(default_factory=lambda: SHAPES)
    rounds: int = ROUNDS

    @property
    def first(self) -> str:
        """The base model for what is not timed."""
        return next(iter(self.shapes))

    def model(self, name: str) -> BaseModelRef:
        """A base model of a shape, made where it is not there yet: random weights, SmolLM2's tokenizer."""
        folder = self.folder / name
        if not (folder / "config.json").exists():
            import torch
            from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

            from tunerun.engine import prepared_model

            settings = dict(self.shapes[name])
            network = AutoConfig.for_model(settings.pop("model_type"), eos_token_id=2, pad_token_id=2, **settings)
            AutoTokenizer.from_pretrained(
                prepared_model.prepare(sweep_cost.SMOLLM2, self.folder / "cache")
            ).save_pretrained(folder)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                AutoModelForCausalLM.from_config(network, dtype=torch.bfloat16).save_pretrained(folder)
        return BaseModelRef(name=name, source=str(folder))

    def load(self, name: str, **settings: Any) -> Any:
        """Load a base model with engine settings."""
        from tunerun.engine import network
        from tunerun.engine.settings import EngineSettings

        chosen = EngineSettings(self.device, **settings)
        return network.load(self.model(name), self.folder / "cache", network.choose_device(self.device), chosen)

    def examples(self) -> tuple[Example, ...]:
        """The rows of every trial."""
        return sweep_cost.examples("banking77")

    def trials(
        self, name: str, epochs: tuple[int, ...] = (1,), seeds: tuple[int, ...] = (0, 1), **hyperparameters: Any
    ) -> list[TuningRequest]:
        """Trials on a base model: of two rates and of each seed for each number of epochs."""
        model, rows = self.model(name), self.examples()
        return [
            replace(
                request,
                model=model,
                training=rows,
                hyperparameters=replace(request.hyperparameters, **hyperparameters),
            )
            for request in sweep_cost.requests_of("banking77", epochs=epochs, seeds=seeds)
        ]


class _Losses(sweep_cost.Silent):
    """An observer that keeps losses by key."""

    def __init__(self) -> None:
        self.of: dict[str, list[float]] = {}

    def snapshot(self, *reported: Any) -> None:
        request, taken = reported
        self.of.setdefault(request.key, []).append(taken.mean_loss)


def _losses(base: Any, trials: Sequence[TuningRequest], most: int = 1) -> list[float]:
    """Return the losses of all steps of all trials.

    Raises:
        RuntimeError: one failed.
    """
    from tests.engine import training

    observer = _Losses()
    for outcome in training.train(trials, base, observer, most=most):
        if outcome.failure is not None:
            raise RuntimeError(f"{outcome.failure.message}\n{outcome.failure.traceback or ''}")
    return [loss for trial in trials for loss in observer.of[trial.key]]


def _difference(found: Sequence[float], exact: Sequence[float]) -> float:
    return max(abs(a - b) / abs(b) for a, b in zip(found, exact, strict=True))


def _forget() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak_bytes() -> int:
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


Figures = dict[str, float]


def planned_format(bench: Bench) -> Figures:
    """A plan's number format, found without torch, is the engine's."""
    import torch

    from tunerun.engine import network, precision
    from tunerun.engine.settings import EngineSettings

    settings = EngineSettings(bench.device)
    planned, engine = precision.planned(settings), precision.of_engine(settings, network.choose_device(bench.device))
    _check(planned == engine, f"a plan says {planned}, the engine {engine}")
    return {"bfloat16": float(planned == precision.BFLOAT16), "devices": float(torch.cuda.device_count())}


def bf16_against_fp32(bench: Bench) -> Figures:
    """Losses in bf16 are those in fp32 within bf16's rounding."""
    trials = bench.trials(bench.first)[:1]
    exact = _losses(bench.load(bench.first, precision="fp32"), trials)
    difference = _difference(_losses(bench.load(bench.first, precision="bf16"), trials), exact)
    _check(difference <= BF16_LIMIT, f"losses differ by {difference:.1e}, allowed are {BF16_LIMIT:.1e}")
    return {"largest relative difference": difference}


def pack_against_alone(bench: Bench) -> Figures:
    """Losses in a pack are those of each trial alone; TF32, if it were on, would show here."""
    trials, figures = bench.trials(bench.first), {}
    for number_format in ("fp32", "bf16"):
        base = bench.load(bench.first, precision=number_format)
        together, alone = _losses(base, trials, most=TOGETHER), _losses(base, trials)
        figures[f"{number_format}: largest relative difference"] = _difference(together, alone)
        figures[f"{number_format}: again, the same losses"] = float(_losses(base, trials, most=TOGETHER) == together)
    difference = figures["fp32: largest relative difference"]
    _check(difference <= ALONE_LIMIT, f"losses differ by {difference:.1e}, allowed are {ALONE_LIMIT:.1e}")
    return figures


def less_memory(bench: Bench) -> Figures:
    """Checkpointed layers and parts of a batch give the same losses with less memory."""
    trials, figures, losses = bench.trials(bench.first, batch_size=16, epoch_count=3)[:1], {}, {}
    settings: dict[str, dict[str, Any]] = {
        "plain": {}, "checkpointed": {"gradient_checkpointing": True}, "two rows at a time": {"micro_batch": 2}
    }  # fmt: skip
    for name, chosen in settings.items():
        _forget()
        losses[name] = _losses(bench.load(bench.first, precision="fp32", **chosen), trials)
        figures[f"{name}: bytes at the peak"] = float(_peak_bytes())
    for name in settings:
        difference = _difference(losses[name], losses["plain"])
        _check(difference <= ALONE_LIMIT, f"{name}: losses differ by {difference:.1e}")
    return figures


def memory_of_a_pack(bench: Bench) -> Figures:
    """How much more twelve training runs need at the peak than one (goal: at most twice, issue 12)."""
    figures: Figures = {}
    for count in (1, TOGETHER):
        trials = bench.trials(bench.first, seeds=tuple(range(TOGETHER // len(sweep_cost.RATES))))[:count]
        base = bench.load(bench.first, precision="bf16")
        _forget()
        _losses(base, trials, most=count)
        figures[f"{count}: bytes at the peak"] = float(_peak_bytes())
        del base
    return figures


def four_bits(bench: Bench) -> Figures:
    """A base model in 4 bits loads, takes less memory, and its adapter learns."""
    figures: Figures = {}
    losses: dict[str, list[float]] = {}
    for quantization in ("none", "4bit"):
        _forget()
        base = bench.load(bench.first, precision="bf16", quantization=quantization)
        figures[f"{quantization}: bytes of the base model"] = float(_peak_bytes())
        losses[quantization] = _losses(base, bench.trials(bench.first, epoch_count=3)[:1])
        del base
    _check(losses["4bit"][-1] < losses["4bit"][0], "the loss does not fall")
    return figures | {"largest relative difference to bf16": _difference(losses["4bit"], losses["none"])}


def pack_against_peft(bench: Bench) -> Figures:
    """Twelve trials of equal work in a pack, against PEFT one by one, both in bf16; as `sweep_cost`, in seconds."""
    figures: Figures = {}
    for name in bench.shapes:
        _forget()
        figures |= {f"{name}: {what}": value for what, value in _against_peft(bench, name).items()}
        if name in GOALS:
            figures[f"{name}: goal"] = GOALS[name]
    return figures


def _against_peft(bench: Bench, name: str) -> Figures:
    import torch

    from tunerun.engine.pack import Pack

    trials = bench.trials(name, sweep_cost.EPOCHS)
    with ExitStack() as stack:
        ours, theirs = bench.load(name, precision="bf16"), bench.load(name, precision="bf16")
        pack = Pack(ours, sweep_cost.Silent(), most=TOGETHER)
        pack.add(trials)
        steps = -(-len(trials[0].training) // trials[0].hyperparameters.batch_size)

        def epoch_of_the_pack() -> None:
            for _step in range(steps):
                list(pack.step())

        epoch_alone = sweep_cost._peft_epoch(theirs, trials[-1], stack)
        seconds = _in_turns([epoch_of_the_pack, epoch_alone], bench.rounds, torch.cuda.is_available())
    together = seconds[0] * max(sweep_cost.EPOCHS)
    alone = seconds[1] * sum(trial.hyperparameters.epoch_count for trial in trials)
    return {"seconds together": together, "seconds one by one": alone, "ratio": alone / together}


def _in_turns(actions: Sequence[Callable[[], None]], rounds: int, has_cuda: bool) -> list[float]:
    """Return the median seconds of each, after a round that warms up."""
    import torch

    seconds: list[list[float]] = [[] for _action in actions]
    for number in range(rounds + 1):
        for action, kept in zip(actions, seconds, strict=True):
            started = time.perf_counter()
            action()
            if has_cuda:
                torch.cuda.synchronize()
            if number:
                kept.append(time.perf_counter() - started)
    return [statistics.median(kept) for kept in seconds]


class _WrongError(Exception):
    """A figure is beyond its limit."""


def _check(is_right: bool, problem: str) -> None:
    if not is_right:
        raise _WrongError(problem)


CHECKS: tuple[Callable[[Bench], Figures], ...] = (
    planned_format, bf16_against_fp32, pack_against_alone, less_memory, memory_of_a_pack, four_bits, pack_against_peft,
)  # fmt: skip


def run(bench: Bench, checks: Sequence[Callable[[Bench], Figures]] = CHECKS) -> dict[str, Any]:
    """Run checks and return what `gpu.json` holds: the machine, each check's figures, and what went wrong."""
    from tunerun.engine import machine, network

    found: dict[str, Any] = {}
    for check in checks:
        try:
            found[check.__name__] = {"is_right": True, "figures": check(bench)}
        # Any error: a machine with a GPU is rare, and one check that fails must not hide the figures of the others.
        except Exception as error:  # noqa: BLE001 - isolates a check; its traceback is in the figures
            problem = str(error) if isinstance(error, _WrongError) else traceback.format_exc()
            found[check.__name__] = {"is_right": False, "problem": problem}
        _forget()
    place = asdict(machine.trained_on(network.choose_device(bench.device), ""))
    names = ("device", "processor", "driver", "build", "packages")
    return {
        "date": date.today().isoformat(),
        "machine": {name: place[name] for name in names},
        "checks": found,
    }


def main() -> int:
    """Print and write the figures of this machine's GPU; how many checks went wrong."""
    import torch

    if not torch.cuda.is_available():
        sys.stdout.write("bench-gpu: skipped, for this machine has no CUDA device that torch sees\n")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        found = run(Bench(Path(folder)))
    for name, check in found["checks"].items():
        sys.stdout.write(f"{name}: {'right' if check['is_right'] else 'WRONG: ' + check['problem']}\n")
        sys.stdout.writelines(f"  {what}: {value:.4g}\n" for what, value in check.get("figures", {}).items())
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(f"written to {OUTPUT}\n")
    return sum(not check["is_right"] for check in found["checks"].values())


if __name__ == "__main__":
    sys.exit(main())
