"""Answers of a base model or of a tuned model: batched, with a key-value cache, in the chat format of training."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from tunerun.engine import tuned_model
from tunerun.engine.chat import ChatFormat
from tunerun.engine.encoding import batches_by_length, encode_texts
from tunerun.engine.network import LoadedModel, check_base, peft_warnings_ignored, take_off
from tunerun.errors import InputError
from tunerun.job import Answer, GenerateOptions

ROWS = 16
"""Inputs answered at once. Our choice, not measured: more rows need more memory for their cache."""

ADAPTERS_KEPT = 4
"""Tuned models that stay in memory; one of SmolLM2-135M at rank 8 is 10 MB."""


class Generation:
    """Generates with one base model; keeps the adapters it was last asked for, until `release`.

    Training needs the base model bare: `release` comes before it.
    """

    def __init__(self, base: LoadedModel) -> None:
        self._base = base
        self._adapted: Any = None
        self._names: OrderedDict[tuple[str, int], str] = OrderedDict()
        self._count = 0

    def answer(
        self,
        adapter: Path | None,
        inputs: Sequence[str],
        options: GenerateOptions,
        on_text: Callable[[str], None] | None = None,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> list[Answer]:
        """Answer inputs, in order.

        Args:
            adapter: a tuned model's folder; None: the base model.
            on_text: given each further part of the answer as it comes; for one input alone.
            is_cancelled: asked after each token; answers end there once it says so.

        Raises:
            NotFoundError: the folder holds no tuned model.
            BaseModelError: the tuned model belongs to another base model.
            InputError: an input leaves no room for an answer.
        """
        chat = self._base.chat if adapter is None else self._record_of(adapter)
        prompts = encode_texts(self._base.tokenizer, [chat.prompt(text) for text in inputs])
        self._check_lengths(prompts)
        found: dict[int, Answer] = {}
        with self._network(adapter) as network, torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            for positions in batches_by_length([len(prompt) for prompt in prompts], ROWS):
                batch = [prompts[position] for position in positions]
                found.update(
                    zip(positions, self._answer_batch(network, batch, options, on_text, is_cancelled), strict=True)
                )
        return [found[position] for position in range(len(prompts))]

    def _record_of(self, adapter: Path) -> ChatFormat:
        record = tuned_model.read(adapter)
        check_base(record, self._base)
        return record.chat_format

    def _check_lengths(self, prompts: list[list[int]]) -> None:
        limit = self._base.context_tokens
        too_long = [number for number, prompt in enumerate(prompts, 1) if limit is not None and len(prompt) >= limit]
        if too_long:
            raise InputError(
                f"{len(too_long)} of {len(prompts)} inputs leave no room for an answer in the base model's {limit} "
                f"tokens (first: number {too_long[0]}); shorten them, or choose another base model"
            )

    @torch.no_grad()
    def _answer_batch(
        self,
        network: Any,
        prompts: list[list[int]],
        options: GenerateOptions,
        on_text: Callable[[str], None] | None,
        is_cancelled: Callable[[], bool],
    ) -> list[Answer]:
        from transformers import GenerationConfig, StoppingCriteriaList

        base, longest = self._base, max(map(len, prompts))
        tokens = torch.tensor([[base.pad_id] * (longest - len(ids)) + ids for ids in prompts], device=base.device)
        mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts], device=base.device)
        room = options.max_output_tokens if base.context_tokens is None else base.context_tokens - longest
        most = min(options.max_output_tokens, room)
        sampling: dict[str, Any] = {"do_sample": False}
        if options.temperature > 0:
            sampling = {
                "do_sample": True,
                "temperature": options.temperature,
                "top_k": options.top_k,
                "top_p": options.top_p,
            }
        config = GenerationConfig(
            max_new_tokens=most,
            eos_token_id=base.stop_ids or None,
            pad_token_id=base.pad_id,
            use_cache=True,
            **sampling,
        )
        streamer = None if on_text is None else _Streamer(self._text, on_text)
        generated = network.generate(
            input_ids=tokens,
            attention_mask=mask,
            generation_config=config,
            streamer=streamer,
            stopping_criteria=StoppingCriteriaList([_all_rows(is_cancelled)]),
        )
        return [self._answered(ids, most) for ids in generated[:, longest:].tolist()]

    def _answered(self, ids: list[int], most: int) -> Answer:
        end = self._end(ids)
        return Answer(self._text(ids), tokens=end, is_cut=end == most)

    def _end(self, ids: list[int]) -> int:
        """Where the first token stands that ends an answer; what is behind it is padding."""
        return next((position for position, token in enumerate(ids) if token in self._base.stop_ids), len(ids))

    def _text(self, ids: list[int]) -> str:
        return self._base.tokenizer.decode(ids[: self._end(ids)], skip_special_tokens=True)

    @contextmanager
    def _network(self, adapter: Path | None) -> Iterator[Any]:
        if adapter is None:
            with nullcontext() if self._adapted is None else self._adapted.disable_adapter():
                yield self._base.network if self._adapted is None else self._adapted
            return
        self._adapted_with(adapter)
        yield self._adapted

    def _adapted_with(self, adapter: Path) -> None:
        """Make a folder's adapter the active one, loading it if it is not in memory."""
        import peft

        # A folder that was tuned anew under the same name is another adapter.
        known = (str(adapter), (adapter / "adapter_model.safetensors").stat().st_mtime_ns)
        if known in self._names:
            self._names.move_to_end(known)
        else:
            name = f"adapter_{self._count}"
            self._count += 1
            device = str(self._base.device)
            with peft_warnings_ignored():
                if self._adapted is None:
                    self._adapted = peft.PeftModel.from_pretrained(
                        self._base.network, adapter, adapter_name=name, torch_device=device
                    )
                else:
                    self._adapted.load_adapter(adapter, adapter_name=name, torch_device=device)
            self._names[known] = name
        self._adapted.set_adapter(self._names[known])
        while len(self._names) > ADAPTERS_KEPT:
            self._adapted.delete_adapter(self._names.popitem(last=False)[1])

    def release(self) -> None:
        """Take every adapter off the base model."""
        if self._adapted is not None:
            take_off(self._base, self._adapted)
            self._adapted = None
            self._names.clear()


def _all_rows(is_over: Callable[[], bool]) -> Callable[..., torch.Tensor]:
    """What transformers' `generate` asks after each token: which rows are over."""

    def rows(tokens: torch.Tensor, _scores: torch.Tensor, **_more: object) -> torch.Tensor:
        return torch.full((tokens.shape[0],), is_over(), dtype=torch.bool, device=tokens.device)

    return rows


class _Streamer:
    """What transformers' `generate` hands its tokens to, as they come: passes on the text that is sure to stay.

    Args:
        text: decodes tokens.
        on_text: given each further part.
    """

    def __init__(self, text: Callable[[list[int]], str], on_text: Callable[[str], None]) -> None:
        self._text = text
        self._on_text = on_text
        self._ids: list[int] = []
        self._sent = 0
        self._is_prompt = True

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt, and then one token after the other."""
        if self._is_prompt:
            self._is_prompt = False
            return
        self._ids += value.flatten().tolist()
        text = self._text(self._ids)
        if not text.endswith("\ufffd"):  # a character of which some bytes are still to come
            self._send(text)

    def end(self) -> None:
        """Pass on the rest."""
        self._send(self._text(self._ids))

    def _send(self, text: str) -> None:
        if len(text) > self._sent:
            self._on_text(text[self._sent :])
            self._sent = len(text)
