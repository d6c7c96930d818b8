"""Passes of a base model that several adapters share: as many at once as pays, and as fits into memory."""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from tunerun.engine import forms, lora, pass_limits
from tunerun.engine.adapters import MixingError
from tunerun.engine.encoding import EncodedExample
from tunerun.engine.failures import is_out_of_memory
from tunerun.engine.lora import LearningAdapter
from tunerun.engine.network import LoadedModel

RECOVERS_AFTER = 64
"""Calls without lack of memory after which twice as much is tried again. Our choice: the failed try, which costs a
pass, is then under 2 % of the work."""

_OWN_COST = {"cpu": 48}
"""What a pass costs whatever is in it, in tokens of its rows, of which a shared prefix leaves about half to compute.

On a CPU it reads the weights from memory: eight trials of 64 computed tokens cost 1.36 times as much one by one, four
of 140 1.1 times (SmolLM2-135M, one thread), so about 24. Elsewhere it is launched: see `_LAUNCHED`."""

_LAUNCHED = 2048
"""5,000 launches of 5 us against 1.6 ms for 110 tokens on an H100: see the experiment engine_speed."""


@dataclass(frozen=True)
class Share:
    """What one adapter computes in a pass: the loss of some rows."""

    adapter: LearningAdapter
    rows: Sequence[EncodedExample]

    @property
    def tokens(self) -> int:
        """How long its place of the batch is, about."""
        return sum(map(len, self.rows))

    @property
    def learned(self) -> int:
        """Over how many tokens the loss is."""
        return sum(row.learned for row in self.rows)


@dataclass(frozen=True)
class Computed:
    """What came of a share.

    Attributes:
        nats: the summed loss of its learned tokens.
        seconds: its part of the pass, by its tokens.
        together: the numbers of all shares of the pass.
    """

    nats: float
    seconds: float
    together: tuple[int, ...]


class Passes:
    """Computes shares, several in a pass; one that fails leaves the others as they would be without it.

    Args:
        most: shares in a pass.
    """

    def __init__(self, base: LoadedModel, most: int) -> None:
        self._base = base
        self._most = most
        self._limit = pass_limits.most_tokens_together(base.device.type)
        self._most_tokens = self._limit
        self._calls_since = 0

    def compute(self, shares: Sequence[Share], *, learns: bool) -> Iterator[tuple[int, Computed | Exception]]:
        """Compute shares in passes of about equally long ones.

        Args:
            learns: whether the mean loss per learned token of each share leaves its gradient in its adapter. It does
                not where the loss is not finite.

        Yields:
            The number of each share, and what came of it; those of a pass together.
        """
        most = self._most if forms.choose(self._base).takes_packs else 1
        lengths = [share.tokens for share in shares]
        own_cost = _OWN_COST.get(self._base.device.type, _LAUNCHED)
        for group in grouped(lengths, most, self._most_tokens, own_cost):
            yield from self._isolated(shares, group, learns=learns)
        self._calls_since += 1
        if self._calls_since % RECOVERS_AFTER == 0:
            self._most_tokens = min(2 * self._most_tokens, self._limit)

    def _isolated(
        self, shares: Sequence[Share], group: Sequence[int], *, learns: bool
    ) -> list[tuple[int, Computed | Exception]]:
        """Compute a pass; where it fails, its halves, so that what fails alone is found."""
        try:
            return self._pass(shares, group, learns=learns)
        # Any error: whatever fails a pass, its other shares are right alone, and only halving shows which one it is.
        except Exception as error:  # noqa: BLE001 - isolates a trial; the failure carries the traceback
            for number in group:
                shares[number].adapter.forget_gradients()
            if len(group) == 1:
                traceback.clear_frames(error.__traceback__)  # they hold what the pass had computed
                return [(group[0], error)]
            lacks_memory = is_out_of_memory(error)
            mixes = isinstance(error, MixingError)
        # Here the error is gone, and with it the values of the failed pass that its traceback held.
        middle = len(group) // 2
        if lacks_memory:
            self._most_tokens = max(shares[number].tokens for number in group) * (len(group) - middle)
            self._calls_since = 0
            _free(self._base.device)
        if mixes:
            self._most = 1
        halves = [group[:middle], group[middle:]]
        found = [one for half in halves for one in self._isolated(shares, half, learns=learns)]
        if not lacks_memory and not any(isinstance(done, Exception) for _number, done in found):
            self._most = min(self._most, middle)  # it fails together alone, whatever the reason is
        return found

    def _pass(
        self, shares: Sequence[Share], group: Sequence[int], *, learns: bool
    ) -> list[tuple[int, Computed | Exception]]:
        started = time.perf_counter()
        chosen = [shares[number] for number in group]
        values = [0.0] * len(chosen)
        for places, rows in _parts(self._base, [share.rows for share in chosen]):
            within = [chosen[place] for place in places]
            with torch.set_grad_enabled(learns), lora.on(self._base.network, [share.adapter for share in within]):
                nats = forms.choose(self._base).losses(self._base, rows)
                for place, value in zip(places, nats.tolist(), strict=True):
                    values[place] += value
                finite = torch.isfinite(nats)
                if learns and bool(finite.any()):
                    # Over all learned tokens of the share: gradients of its parts add up to that of the whole.
                    means = nats / torch.tensor([share.learned for share in within], device=nats.device)
                    torch.autograd.backward(means[finite].sum())
        seconds = (time.perf_counter() - started) / sum(share.tokens for share in chosen)
        return [
            (number, Computed(value, seconds * share.tokens, tuple(group)))
            for number, value, share in zip(group, values, chosen, strict=True)
        ]


def _parts(
    base: LoadedModel, members: Sequence[Sequence[EncodedExample]]
) -> Iterator[tuple[list[int], list[list[EncodedExample]]]]:
    """Yield which members have rows in each part of a pass, and these rows."""
    most = base.settings.micro_batch
    divided = [forms.parts(base, rows, members=len(members), most_rows=most) for rows in members]
    for number in range(max(map(len, divided))):
        places = [place for place, parts in enumerate(divided) if len(parts) > number]
        yield places, [[members[place][position] for position in divided[place][number]] for place in places]


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def grouped(lengths: Sequence[int], most: int, most_tokens: float, own_cost: int) -> list[list[int]]:
    """Put shares into passes so that all passes together cost least: each costs its longest share for every share.

    Args:
        most: shares in a pass.
        most_tokens: of a pass of several shares, filled up.
        own_cost: of every pass, in tokens.

    Returns:
        The numbers of the shares of each pass, in their order; equal costs give fewer passes.
    """
    order = sorted(range(len(lengths)), key=lambda number: lengths[number])
    # For the first so many shares by length: what their passes cost, how many they are, where the last one begins.
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
