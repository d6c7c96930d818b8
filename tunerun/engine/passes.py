"""Forward and backward passes of a base model that several adapters share.

Which adapters share a pass is decided by cost (`grouped`) and by memory: a pass that fails is divided in halves.
"""

from __future__ import annotations

import gc
import math
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from tunerun.engine import forms, lora, pass_limits
from tunerun.engine.adapters import MixingError
from tunerun.engine.encoding import EncodedExample
from tunerun.engine.failures import is_out_of_memory
from tunerun.engine.lora import LearningAdapter
from tunerun.engine.network import LoadedModel

RECOVERS_AFTER = 64
"""Calls without an out-of-memory error after which twice as many tokens are tried again.

Our choice: a failed attempt costs one pass, which is then under 2 % of the work."""

_OWN_COST = {"cpu": 48}
"""The fixed cost of a pass by device type, in tokens of its rows; prefix sharing saves computing about half of those.

On a CPU the cost is reading the weights from memory: eight trials of 64 computed tokens cost 1.36 times as much one by
one, four of 140 cost 1.1 times (SmolLM2-135M, one thread), so about 24 computed tokens. Elsewhere see `_LAUNCHED`."""

_LAUNCHED = 2048
"""The fixed cost of a pass on a GPU, in tokens: kernel launches.

5,000 launches of 5 us against 1.6 ms for 110 tokens on an H100: see the experiment engine_speed."""


@dataclass(frozen=True)
class Share:
    """One adapter's part of a pass: the rows whose loss it computes.

    Attributes:
        adapter: the adapter; its gradients are accumulated when the pass learns.
        rows: encoded examples, at least one.
    """

    adapter: LearningAdapter
    rows: Sequence[EncodedExample]

    @property
    def tokens(self) -> int:
        """The approximate length of its sequence in the batch, in tokens; prefix sharing is not subtracted."""
        return sum(map(len, self.rows))

    @property
    def learned(self) -> int:
        """The number of tokens that the loss is summed over."""
        return sum(row.learned for row in self.rows)


@dataclass(frozen=True)
class Computed:
    """The result of a share.

    Attributes:
        nats: the loss summed over its learned tokens, in nats.
        seconds: wall time of the pass, divided among its shares in proportion to their tokens.
        together: the indices of all shares that were in the same pass, its own included.
    """

    nats: float
    seconds: float
    together: tuple[int, ...]


class Passes:
    """Computes shares, several in a pass; a share that fails does not change the results of the others.

    Args:
        base: the base model.
        most: the largest number of shares in a pass.
    """

    def __init__(self, base: LoadedModel, most: int) -> None:
        self._base = base
        self._most = most
        self._limit = pass_limits.most_tokens_together(base.device.type)
        self._most_tokens = self._limit
        self._calls_since = 0

    def compute(self, shares: Sequence[Share], *, learns: bool) -> Iterator[tuple[int, Computed | Exception]]:
        """Compute shares in passes that group shares of similar length.

        Args:
            shares: each with an adapter of its own.
            learns: whether to compute gradients. Each adapter's `.grad` then receives the gradient of its share's mean
                loss per learned token, unless that loss is NaN or infinite.

        Yields:
            The index of each share and its result, or the error that the share causes when it is computed alone. The
            shares of one pass follow each other.
        """
        most = self._most if forms.choose(self._base).takes_packs else 1
        lengths = [share.tokens for share in shares]
        own_cost = _OWN_COST.get(self._base.device.type, _LAUNCHED)
        for group in grouped(lengths, most, self._most_tokens, own_cost):
            yield from self._isolated(shares, group, learns=learns)
        self._calls_since += 1
        # The lack of memory may have been temporary, so the limit grows back to the device's own.
        if self._calls_since % RECOVERS_AFTER == 0:
            self._most_tokens = min(2 * self._most_tokens, self._limit)

    def _isolated(
        self, shares: Sequence[Share], group: Sequence[int], *, learns: bool
    ) -> list[tuple[int, Computed | Exception]]:
        """Compute a pass; if it fails, compute its halves, so that a share that fails alone is identified."""
        try:
            return self._pass(shares, group, learns=learns)
        # Any error: the other shares of a failed pass may well be right, and only halving shows which one is not.
        except Exception as error:  # noqa: BLE001 - isolates a trial; the failure carries the traceback
            for number in group:
                shares[number].adapter.forget_gradients()  # a backward pass that failed may have left some
            if len(group) == 1:
                traceback.clear_frames(error.__traceback__)  # frees the tensors that the frames' locals hold
                return [(group[0], error)]
            lacks_memory = is_out_of_memory(error)
            mixes = isinstance(error, MixingError)
        # Outside the except block on purpose: the traceback that kept the failed pass's tensors alive is gone now.
        middle = len(group) // 2
        if lacks_memory:
            self._most_tokens = max(shares[number].tokens for number in group) * (len(group) - middle)
            self._calls_since = 0
            gc.collect()
            if self._base.device.type == "cuda":
                torch.cuda.empty_cache()
        if mixes:  # a property of the architecture, so no later pass can hold several adapters either
            self._most = 1
        halves = [group[:middle], group[middle:]]
        results = [one for half in halves for one in self._isolated(shares, half, learns=learns)]
        if not lacks_memory and not any(isinstance(computed, Exception) for _number, computed in results):
            self._most = min(self._most, middle)  # every half worked, so the failure came from sharing the pass
        return results

    def _pass(
        self, shares: Sequence[Share], group: Sequence[int], *, learns: bool
    ) -> list[tuple[int, Computed | Exception]]:
        """Compute the losses of a group's shares, and their gradients if `learns`."""
        started = time.perf_counter()
        chosen = [shares[number] for number in group]
        nats = [0.0] * len(chosen)
        micro_batch = self._base.settings.micro_batch
        divided = [parts(self._base, share.rows, members=len(chosen), most_rows=micro_batch) for share in chosen]
        for number in range(max(map(len, divided))):
            # Shares with fewer parts than others leave the later passes, so these are smaller.
            places = [place for place, of_share in enumerate(divided) if len(of_share) > number]
            rows = [[chosen[place].rows[position] for position in divided[place][number]] for place in places]
            within = [chosen[place] for place in places]
            with torch.set_grad_enabled(learns), lora.on(self._base.network, [share.adapter for share in within]):
                losses = forms.choose(self._base).losses(self._base, rows)
                for place, value in zip(places, losses.tolist(), strict=True):
                    nats[place] += value
                finite = torch.isfinite(losses)
                if learns and bool(finite.any()):
                    # Divided by the learned tokens of the whole share, not of this part: so the gradients of the parts
                    # add up to that of the share.
                    means = losses / torch.tensor([share.learned for share in within], device=losses.device)
                    # One backward for all adapters: each loss depends on its own adapter only. A NaN loss is left out
                    # before the sum, or it would reach every gradient.
                    torch.autograd.backward(means[finite].sum())
        seconds = (time.perf_counter() - started) / sum(share.tokens for share in chosen)
        return [
            (number, Computed(value, seconds * share.tokens, tuple(group)))
            for number, value, share in zip(group, nats, chosen, strict=True)
        ]


def parts(
    base: LoadedModel, rows: Sequence[EncodedExample], *, members: int = 1, most_rows: int | None = None
) -> list[list[int]]:
    """Divide rows so that each part is within the limits of a pass, or is a single row.

    Args:
        base: the base model.
        rows: of one trial.
        members: the number of trials that share the pass; more trials get smaller parts.
        most_rows: the most rows of a part; None: limited by tokens and logits only.

    Returns:
        The positions of each part's rows; every row is in exactly one part, and rows that are cheap to compute together
        are in the same one. Parts have similar numbers of rows.
    """
    form = forms.choose(base)
    vocabulary = base.network.get_output_embeddings().weight.shape[0]
    tokens = min(1.0, pass_limits.FULL_MEMBERS / members) * pass_limits.most_tokens(base.device.type)
    logits = pass_limits.LOGITS / members

    def divided(chosen: list[int]) -> list[list[int]]:
        part = [rows[position] for position in chosen]
        needed = max(
            form.size(part) / tokens,
            sum(row.learned for row in part) * vocabulary / logits,
            len(part) / (most_rows or len(part)),
        )
        count = min(math.ceil(needed), len(part))
        if count <= 1:
            return [chosen]
        edges = [len(part) * number // count for number in range(count + 1)]
        return [one for start, stop in pairwise(edges) for one in divided(chosen[start:stop])]

    return divided(form.order(rows)) if rows else []


def grouped(lengths: Sequence[int], most: int, most_tokens: float, own_cost: int) -> list[list[int]]:
    """Divide shares into passes of least total cost.

    A pass costs `own_cost` plus its number of shares times its longest share, because shorter ones are padded. Some
    optimal division puts shares that are neighbours by length into the same pass, so dynamic programming over the
    sorted lengths finds it.

    Args:
        lengths: tokens of each share.
        most: the largest number of shares in a pass.
        most_tokens: the largest size of a pass of several shares, padding included; one share may exceed it.
        own_cost: the fixed cost of a pass, in tokens.

    Returns:
        The indices of the shares of each pass, in ascending order; of equal costs the one with fewer passes.
    """
    order = sorted(range(len(lengths)), key=lambda number: lengths[number])
    # cheapest[n], for the n shortest shares: the cost, the number of passes, and where in `order` the last pass begins.
    cheapest = [(0, 0, 0)]
    for stop in range(1, len(order) + 1):
        longest = lengths[order[stop - 1]]
        starts = [
            start
            for start in range(max(0, stop - most), stop)
            if start == stop - 1 or (stop - start) * longest <= most_tokens
        ]
        cheapest.append(
            min(
                (cheapest[start][0] + own_cost + (stop - start) * longest, cheapest[start][1] + 1, start)
                for start in starts
            )
        )
    groups, stop = [], len(order)
    while stop:
        start = cheapest[stop][2]
        groups.append(sorted(order[start:stop]))
        stop = start
    return sorted(groups)
