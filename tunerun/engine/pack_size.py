"""How many training runs share a pass: the configured number, or with `auto` as many as fit into memory."""

from __future__ import annotations

from tunerun.engine import machine, memory, model_facts, pass_limits
from tunerun.engine.encoding import encode_examples
from tunerun.engine.memory import Workload
from tunerun.engine.network import LoadedModel
from tunerun.job import TuningRequest


def of(base: LoadedModel, request: TuningRequest) -> int:
    """Return how many training runs like that of a request can share a pass, at least one.

    Args:
        base: the base model, on its device and with its settings.
        request: a typical request; memory is estimated for a batch of its longest examples.
    """
    device, packing = base.device.type, base.settings.packing
    most = pass_limits.most_members(packing, device)
    shape = model_facts.shape_of(base.network.config.to_dict())
    available = machine.obtainable_bytes(base.device, base.settings.engines)
    if packing != "auto" or shape is None or available is None or not request.training:
        return most
    rows = min(request.hyperparameters.batch_size, base.settings.micro_batch or request.hyperparameters.batch_size)
    # Longest by characters: tokenising all examples twice would take as long as an epoch of a small model.
    longest = sorted(request.training, key=lambda example: len(example.text_input) + len(example.output))[-rows:]
    encoded = encode_examples(base.tokenizer, base.chat, longest, base.turns)
    work = Workload(
        number_format=base.number_format,
        is_quantised=base.settings.is_quantised,
        device=device,
        adapter_rank=request.hyperparameters.adapter_rank,
        rows=rows,
        tokens=max(map(len, encoded)),
        learned=max(example.learned for example in encoded),
        gradient_checkpointing=base.settings.gradient_checkpointing,
    )
    return max(1, memory.members_that_fit(shape, work, available, most))
