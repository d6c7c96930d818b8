"""A base model in memory: the device, the network with its tokenizer and chat format, and checks against requests."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer
from torch.utils.checkpoint import checkpoint

from tunerun.engine import base_model, loading, precision, prepared_model, tuned_model
from tunerun.engine.chat_format import ChatFormat, EarlierTurns
from tunerun.engine.settings import DEFAULT, EngineSettings
from tunerun.engine.tuned_model import TunedModelRecord
from tunerun.errors import BaseModelError, InputError
from tunerun.job import BaseModelRef, TuningRequest

if TYPE_CHECKING:
    from tunerun.engine.forms.base import Form

ADAPTER = "default"
"""PEFT's own name of a model's only adapter; its files carry no name then."""


@dataclass
class LoadedModel:
    """A base model in memory, without adapters.

    Attributes:
        identity: the digest or commit of its weights; see `FoundModel.identity`.
        public_name: the name and the revision for other tools: on the hub, or a relative path and None.
        network: the transformers model; frozen and in eval mode, so without dropout.
        tokenizer: without padding and truncation.
        chat: the chat format of an input and its answer.
        device: where the weights are.
        stop_ids: the tokens that end an answer.
        pad_id: the token for padding; its choice changes no result.
        context_tokens: the longest sequence it was made for, or the limit in the config's model section if that is
            lower; None: no stated limit.
        keeps_logits: whether `forward` takes `logits_to_keep`, which computes the logits of the last positions only.
        turns: the chat format of a system message and of earlier turns.
        settings: what the engine was started with.
        number_format: of the frozen weights: `float32` or `bfloat16`.
        base_losses: its validation losses in nats per output token, by the digest of the examples' tokens.
        form: the layout of rows in its passes (`engine.forms`); None: not chosen yet.
    """

    identity: str
    public_name: tuple[str, str | None]
    network: Any
    tokenizer: Tokenizer
    chat: ChatFormat
    device: torch.device
    stop_ids: list[int]
    pad_id: int
    context_tokens: int | None
    keeps_logits: bool
    turns: EarlierTurns
    settings: EngineSettings = DEFAULT
    number_format: str = precision.FLOAT32
    base_losses: dict[str, float] = field(default_factory=dict)
    form: Form | None = None

    def check_planned(self, request: TuningRequest) -> None:
        """Check that a request was planned for these weights, because its key identifies the result of exactly these.

        Raises:
            BaseModelError: the base model was replaced since the plan, or has another number format here.
        """
        if request.precision not in ("", self.number_format):
            raise BaseModelError(
                f"the trial was planned for a base model in {request.precision}, and this engine has it in "
                f"{self.number_format} on {self.device}; set backend.precision to fp32 or bf16, or plan on the machine "
                "that trains"
            )
        if request.base_identity not in (None, self.identity):
            raise BaseModelError(
                f"the base model {request.model.name!r} ({request.model.source}) was replaced since this trial was "
                f"planned: it was {request.base_identity}, it is {self.identity} now; restore it, or run the "
                "command again"
            )


def choose_device(name: str, number: int = 0) -> torch.device:
    """Return the device to compute on, and set torch to deterministic algorithms.

    Args:
        name: cpu, cuda, mps or auto, which is the first of cuda, mps and cpu that is present.
        number: the engine's number among those of this machine, from 0; engines take the GPUs in turn.

    Raises:
        InputError: this machine does not have the device.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    chosen = next(device for device, there in present.items() if there) if name == "auto" else name
    if not present.get(chosen, False):
        there = ", ".join(device for device, is_there in present.items() if is_there)
        raise InputError(f"backend.device={name}: this machine has {there}; set backend.device=auto")
    # On a CPU every operation used here has a deterministic implementation; on other devices a missing one warns.
    torch.use_deterministic_algorithms(True, warn_only=chosen != "cpu")
    # Whatever the environment sets for TF32: float32 results have to be comparable across machines.
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # only slows down: we read no uninitialised memory
    if chosen == "cuda" and number:
        return torch.device(chosen, number % torch.cuda.device_count())
    return torch.device(chosen)


def load(model: BaseModelRef, cache: Path, device: torch.device, settings: EngineSettings = DEFAULT) -> LoadedModel:
    """Load a base model; prepare it first if that has not been done.

    Args:
        model: the config's model section.
        cache: the cache directory of base models.
        device: from `choose_device`.
        settings: number format, quantisation and gradient checkpointing.

    Raises:
        BaseModelError: as `prepared_model.prepare`; or the weights cannot be loaded.
    """
    from transformers import GenerationConfig

    folder = prepared_model.prepare(model, cache)
    found = base_model.find(model, cache)
    what = f"the base model {model.name!r} ({found.origin})"
    number_format = precision.of_engine(settings, device)
    if settings.is_quantised:
        network = loading.load_quantised(what, folder, device)
    else:
        network = loading.load_network(what, folder, number_format=number_format)
        network.to(device)
    if settings.gradient_checkpointing:
        _recompute_layers(what, network)
    tokenizer = Tokenizer.from_file(str(prepared_model.tokenizer_file(found, cache)))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    chat = prepared_model.read_chat_format(found, cache)
    # An answer ends with the chat format's end of turn, which training teaches, or the model's own end-of-text tokens.
    eos = network.generation_config.eos_token_id
    own_stops = list(eos) if isinstance(eos, list) else [] if eos is None else [eos]
    end_of_turn = tokenizer.encode(chat.end, add_special_tokens=False).ids
    stop_ids = list(dict.fromkeys([*end_of_turn[-1:], *own_stops]))
    # Padding: the model's own token, else one that ends an answer, else 0. Some configs name one outside of the
    # vocabulary, and an embedding of it does not exist.
    rows = network.get_input_embeddings().weight.shape[0]
    candidates = (getattr(network.config, "pad_token_id", None), *stop_ids, 0)
    pad_id = next(number for number in candidates if isinstance(number, int) and 0 <= number < rows)
    # With the model's own sampling settings (repetition penalty, top-k), temperature 0 would not give the likeliest
    # token.
    network.generation_config = GenerationConfig()
    return LoadedModel(
        identity=found.identity,
        public_name=found.public_name(model),
        network=network,
        tokenizer=tokenizer,
        chat=chat,
        device=device,
        stop_ids=stop_ids,
        pad_id=pad_id,
        context_tokens=found.context_tokens(model),
        keeps_logits="logits_to_keep" in inspect.signature(network.forward).parameters,
        turns=prepared_model.earlier_turns_or_derived(model, found, cache),
        settings=settings,
        number_format=number_format,
    )


def _recompute_layers(what: str, network: Any) -> None:
    """Make a network keep only the input of each layer for the backward pass, for about a third more computation.

    Args:
        what: the model in words, for errors.
        network: the transformers model.

    Raises:
        BaseModelError: the architecture has no layers that can be recomputed.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    # transformers' own switch works in training mode only, which would turn dropout on; here the network is always in
    # eval mode.
    layers = [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise BaseModelError(
            f"{what} has no layers that can be computed again; set backend.gradient_checkpointing=false, and lower "
            "backend.micro_batch for less memory"
        )

    def recomputed(forward: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
        # Recomputing a layer that appends to a cache would append the same keys twice.
        if not torch.is_grad_enabled() or named.get("past_key_values") is not None:
            return forward(*inputs, **named)
        return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False, **named)

    for layer in layers:
        layer.forward = partial(recomputed, layer.forward)


def check_base(record: TunedModelRecord, base: LoadedModel) -> None:
    """Check that a tuned model belongs to a base model.

    Raises:
        BaseModelError: it was tuned from other weights.
    """
    if record.base_identity != base.identity:
        raise BaseModelError(
            f"{record.tuned_model} was tuned from {record.base_identity}, but the base model found now is "
            f"{base.identity}; they have to be the same; restore the old one, or tune again"
        )


def chat_of(adapter: Path | None, base: LoadedModel) -> tuple[ChatFormat, EarlierTurns]:
    """Return the chat formats that a tuned model was trained in: of the last turn, and of the turns before it.

    Args:
        adapter: the tuned model's folder; None: those of the base model.
        base: the base model.

    Raises:
        NotFoundError: the folder holds no tuned model.
        BaseModelError: it was tuned from another base model.
    """
    if adapter is None:
        return base.chat, base.turns
    record = tuned_model.read(adapter)
    check_base(record, base)
    return record.chat_format, record.earlier_turns or base.turns


@contextmanager
def peft_warnings_ignored() -> Iterator[None]:
    """Ignore warnings of PEFT that do not concern its caller."""
    with warnings.catch_warnings():
        # PEFT 0.21 reads an attribute of transformers 5.23 by its old name.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        # GPT-2's Conv1D stores its weights transposed; PEFT notices, corrects the setting and warns.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False", category=UserWarning)
        # PEFT looks for the base model's config on the hub, where a local model does not exist.
        warnings.filterwarnings("ignore", message="Could not find a config file")
        yield
