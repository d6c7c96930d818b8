"""One training run, shared by all trials that differ only in which of its epochs they take.

With a constant learning rate, and an order of examples that depends on (seed, epoch) alone, a trial of 3 epochs is bit
for bit the first 3 epochs of a trial of 10. So both are trained once, and each gets its tuned model when its own last
epoch ends. The same holds for trials that keep the best epoch or the mean of the last epochs.

The loop itself is `Pack.step`, because runs share passes. A run has what happens before and after a pass:

    next_share     the batch of the next step
    take_step      the optimiser's step and the snapshot
    end_epoch      validation losses, checkpoints, tuned models of the requests that end, the state to resume from
"""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError

from tunerun.engine import forms, lora, machine, passes, resuming
from tunerun.engine.encoding import EncodedExample, encode_examples
from tunerun.engine.epoch_adapters import EpochAdapters
from tunerun.engine.failures import CancelledJobError, DivergedError
from tunerun.engine.lora import LearningAdapter
from tunerun.engine.network import LoadedModel
from tunerun.engine.observer import Observer, Trained, TrainingOutcome
from tunerun.engine.optimisation import Optimiser
from tunerun.engine.passes import Computed, Share
from tunerun.engine.resuming import TrainingState
from tunerun.errors import InputError
from tunerun.job import EpochLoss, JobState, Snapshot, TuningHyperparameters, TuningRequest, in_common


class TrainingRun:
    """The training of requests with an equal `in_common` part, one step at a time.

    A step consists of `next_share`, whose gradient the caller computes in a pass, and `take_step`. After the last step
    of an epoch, the caller measures the validation losses of `adapters_to_validate` and passes them to `end_epoch`.

    Args:
        requests: at least one.
        base: their base model; no adapter is attached to it between two steps.
        observer: receives progress.
        states: the folder in which to save the state for resuming in another process; None: do not save it.

    Attributes:
        requests: the requests that have not ended.
        adapter: the adapter in training.
        form: the layout of rows in a pass.

    Raises:
        InputError: the requests cannot be trained.
        CancelledJobError: all requests were cancelled while the base model's loss was measured.
    """

    def __init__(
        self, requests: Sequence[TuningRequest], base: LoadedModel, observer: Observer, states: Path | None = None
    ) -> None:
        first = requests[0]
        self.requests = list(requests)
        self._base = base
        self._observer = observer
        self._seed = first.seed
        self._settings: TuningHyperparameters = first.hyperparameters
        self._training = _encoded(first, base, "training")
        self._validation = _encoded(first, base, "validation")
        if not self._training:
            raise InputError("the request holds no training examples; at least one is needed; check dataset.path")
        if any(request.hyperparameters.keeps_best for request in requests) and not self._validation:
            raise InputError(
                "hyperparameters.keep: best needs held-out examples; set dataset.validation, or keep the last"
            )
        self._steps_per_epoch = math.ceil(len(self._training) / self._settings.batch_size)
        self.form = forms.choose(base)
        self._metrics = {"validation/base_loss": self._base_loss()} if self._validation else {}
        self.adapter = lora.adapter_of(first, base)
        steps = self._steps_per_epoch * self._settings.epoch_count
        self._optimiser = Optimiser(self.adapter.parameters(), self._settings, steps)
        self._epochs = EpochAdapters(self.adapter, [request.hyperparameters for request in requests])
        self._snapshots: list[Snapshot] = []
        self._order: tuple[int, list[int]] = (0, [])  # the current epoch, and the order of its examples
        self._seconds = 0.0
        self._packed_with: set[str] = set()
        self._without_state: set[str] = set()  # keys of requests for which `state_not_kept` was called
        # By key, whether every epoch is kept. Holds all requests that may still get a tuned model from this run,
        # including paused ones and those that a resumed state serves but that were not submitted again yet.
        self._unfinished = {request.key: request.keeps_epochs for request in requests}
        self._served = list(requests)  # also requests that have ended, but not cancelled ones
        self._state = states and resuming.state_folder(states, in_common(first), base.identity, self.form.name)
        if self._state is not None:
            self._resume(self._state)

    # A step

    def next_share(self) -> Share:
        """Return the adapter and the batch of the next step; the same until `take_step` is called."""
        epoch, place = divmod(len(self._snapshots), self._steps_per_epoch)
        if self._order[0] != epoch + 1:
            self._order = (epoch + 1, epoch_order(self._seed, epoch + 1, len(self._training)))
        size = self._settings.batch_size
        positions = self._order[1][place * size : (place + 1) * size]  # the last batch of an epoch may be smaller
        return Share(self.adapter, [self._training[position] for position in positions])

    def take_step(self, share: Share, computed: Computed, together: Sequence[TrainingRun]) -> None:
        """Take an optimiser step with the gradients that a pass left in the adapter.

        Args:
            share: the share that was computed.
            computed: its result.
            together: all runs in the pass, for `Trained.packed_with`.

        Raises:
            DivergedError: the loss, or at the end of an epoch the adapter, is NaN or infinite.
        """
        started = time.perf_counter()
        self._packed_with.update(request.key for run in together if run is not self for request in run.requests)
        step = len(self._snapshots) + 1
        epoch = (step - 1) // self._steps_per_epoch + 1
        # The mean over the batch's learned tokens, not over its rows, which is what transformers' models compute for a
        # batch. The gradients are those of this mean too, however many parts the batch was divided into.
        loss = computed.nats / share.learned
        # Before the step, because a loss that is not finite has left no gradients; see `Passes.compute`.
        _check_loss(loss, f"the loss of step {step} (epoch {epoch})")

        self._optimiser.step()

        snapshot = Snapshot(step=step, epoch=epoch, mean_loss=loss, compute_time=time.time())
        self._snapshots.append(snapshot)
        self._seconds += computed.seconds + time.perf_counter() - started
        for request in self.requests:
            self._observer.snapshot(request, snapshot)
        if self.has_ended_epoch:
            # Only here: the loss of the next step shows a broken adapter too, but an epoch's last step has none before
            # its adapter is saved.
            if not self.adapter.is_finite():
                raise DivergedError(
                    f"the adapter holds NaN or infinity after step {step} (epoch {epoch}); it has to be finite; "
                    "lower hyperparameters.learning_rate"
                )
            self._epochs.end_epoch()

    # The end of an epoch

    @property
    def has_ended_epoch(self) -> bool:
        """Whether the last step was the last one of an epoch."""
        return bool(self._snapshots) and len(self._snapshots) % self._steps_per_epoch == 0

    @property
    def is_wanted(self) -> bool:
        """Whether at least one request was not cancelled."""
        return not all(self._observer.is_cancelled(request) for request in self.requests)

    def adapters_to_validate(self) -> dict[int, LearningAdapter]:
        """Return the adapters whose validation loss is due after this epoch.

        Returns:
            By `average_last`: the mean of the adapters of the last so many epochs. Empty without validation examples.
        """
        if not self._validation:
            return {}
        spans = {request.hyperparameters.average_last for request in self.requests}
        if self._unfinished.keys() - {request.key for request in self.requests}:
            spans.update(self._epochs.losses)  # a request that comes back needs its losses of every epoch; see `takes`
        return {epochs: self._epochs.mean(epochs) for epochs in sorted(spans)}

    def validation_batches(self) -> Iterator[list[EncodedExample]]:
        """Yield the validation examples in batches of the size of a pass."""
        for positions in passes.parts(self._base, self._validation):
            yield [self._validation[position] for position in positions]

    def end_epoch(self, nats: Mapping[int, float]) -> Iterator[TrainingOutcome]:
        """End an epoch: report validation losses, save adapters, end the requests whose last epoch it was.

        Args:
            nats: for each adapter of `adapters_to_validate` the summed loss of all validation examples, in nats.

        Yields:
            The requests that end with this epoch.

        Raises:
            DivergedError: a loss is NaN or infinite.
        """
        last = self._snapshots[-1]
        learned = sum(example.learned for example in self._validation)
        for value in nats.values():
            _check_loss(value / learned, f"the validation loss after epoch {last.epoch}")
        self._epochs.measured({epochs: EpochLoss(last.epoch, value / learned) for epochs, value in nats.items()})
        for request in self.requests if nats else ():
            self._observer.validated(request, self._epochs.losses[request.hyperparameters.average_last][-1])

        for request in list(self.requests):
            if request.hyperparameters.epoch_count == last.epoch:
                yield self._finish(request)
            elif request.keeps_epochs:
                adapter = self._epochs.mean(request.hyperparameters.average_last)
                self._observer.kept(request, replace(self._trained(request, JobState.RUNNING), adapter=adapter))

        # After the checkpoints: a state must not say that epochs are kept whose files a killed process did not write.
        if self.requests:
            self._keep_state()

    def _finish(self, request: TuningRequest) -> TrainingOutcome:
        """End a request whose last epoch has ended."""
        chosen = request.hyperparameters
        metrics = self._metrics | {
            "train/seconds": self._seconds,
            "train/peak_bytes": float(machine.peak_bytes(self._base.device)),
            "tokens/train": float(sum(map(len, self._training)) * chosen.epoch_count),
        }
        if losses := self._epochs.losses[chosen.average_last]:
            metrics["validation/loss"] = losses[-1].loss
        if chosen.keeps_best and self._epochs.best is not None:
            best = self._epochs.best
            metrics |= {"validation/loss": best.loss, "train/kept_epoch": float(best.epoch)}
        trained = replace(self._trained(request, JobState.SUCCEEDED, metrics), adapter=self._epochs.of(chosen))
        self._observer.trained(request, trained)
        # Only after the tuned model is on the disk: until then a killed process has to be able to resume.
        self._forget(request)
        return TrainingOutcome(request, JobState.SUCCEEDED, metrics, trained=trained)

    def _trained(self, request: TuningRequest, state: JobState, metrics: dict[str, float] | None = None) -> Trained:
        longest = max(self._served, key=lambda one: one.hyperparameters.epoch_count)
        return Trained(
            adapter=self.adapter,
            snapshots=tuple(self._snapshots),
            validation=tuple(self._epochs.losses[request.hyperparameters.average_last]),
            metrics=metrics if metrics is not None else dict(self._metrics),
            state=state,
            form=self.form.name,
            training_run="" if longest.key == request.key else longest.key,
            packed_with=tuple(sorted(self._packed_with)),
        )

    # Requests that come and go between two steps

    def takes(self, request: TuningRequest) -> bool:
        """Whether the run can serve one more request, as if the request had been there from the first step.

        Its `in_common` part has to be equal, its last epoch has to be still to come, and everything it needs of the
        finished epochs (losses, averages, kept adapters) has to exist.
        """
        done = len(self._snapshots) // self._steps_per_epoch
        misses_nothing = done == 0 or (
            self._epochs.serves(request.hyperparameters)
            and len(self._epochs.losses[request.hyperparameters.average_last]) == (done if self._validation else 0)
            and (not request.keeps_epochs or self._unfinished.get(request.key, False))
        )
        is_in_time = request.hyperparameters.epoch_count > done
        return is_in_time and misses_nothing and in_common(request) == in_common(self.requests[0])

    def add(self, request: TuningRequest) -> None:
        """Serve one more request, for which `takes` is true, and report the progress so far to its observer."""
        self.requests.append(request)
        self._unfinished[request.key] = request.keeps_epochs
        self._served.append(request)
        self._report_past(request)

    def _report_past(self, request: TuningRequest) -> None:
        for snapshot in self._snapshots:
            self._observer.snapshot(request, snapshot)
        for loss in self._epochs.losses[request.hyperparameters.average_last]:
            self._observer.validated(request, loss)
        count = self._steps_per_epoch
        if request.keeps_epochs and len(self._snapshots) >= count:
            self._observer.kept_before(request, self._snapshots[count - 1 :: count])

    def leave_cancelled(self, *, keep: bool) -> Iterator[TrainingOutcome]:
        """Stop serving the requests that were cancelled.

        Args:
            keep: whether to save the adapter of a cancelled request as a tuned model. A paused request never saves one;
                its state for resuming is kept instead.

        Yields:
            An outcome for each cancelled request.
        """
        for request in [one for one in self.requests if self._observer.is_cancelled(one)]:
            trained = None
            if self._observer.is_paused(request):
                self.requests.remove(request)
                self._keep_state()
                if self.requests:  # the others train on, and epochs from now on are not saved for the paused one
                    self._unfinished[request.key] = False
            else:
                trained = self._trained(request, JobState.CANCELLED) if keep and self._snapshots else None
                self._forget(request)
                self._served.remove(request)
                if trained is not None:
                    self._observer.trained(request, trained)
            yield TrainingOutcome(request, JobState.CANCELLED, trained=trained)

    def drop(self, *, is_cancelled: bool) -> list[TuningRequest]:
        """End every request and return them all.

        Args:
            is_cancelled: whether they end by cancellation. Then the last saved state is kept if any of them is paused;
                otherwise it is removed.
        """
        requests, self.requests = self.requests, []
        is_needed = is_cancelled and any(map(self._observer.is_paused, requests))
        if self._state is not None and not is_needed:
            resuming.remove(self._state)
        return requests

    def _forget(self, request: TuningRequest) -> None:
        """Stop serving a request; remove the saved state if no other request needs it."""
        self.requests.remove(request)
        self._unfinished.pop(request.key, None)
        if self._state is None:
            return
        if not self._unfinished:
            resuming.remove(self._state)
        elif not self.requests:  # only paused requests are left, and no later epoch end will update the state
            self._keep_state()

    # To continue in another process

    def _keep_state(self) -> None:
        """Save everything from which another process takes the next step with the same bits.

        There is no random generator to save: the order of examples depends on (seed, epoch), A's numbers were drawn
        before the first step, and the network is in eval mode, so it has no dropout.
        """
        if self._state is None:
            return
        parts = {
            "adapter": self.adapter.named(),
            "optimiser": self._optimiser.state(),
            "epochs": self._epochs.state(),
        }
        tensors = {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
        state = TrainingState(
            requests=self._unfinished,
            snapshots=tuple(self._snapshots),
            losses={epochs: tuple(losses) for epochs, losses in self._epochs.losses.items()},
            best=self._epochs.best,
            seconds=self._seconds,
            packed_with=tuple(sorted(self._packed_with)),
        )
        # A full disk must not end a job that could finish: without a state it only starts again if it is killed.
        try:
            resuming.write(self._state, state, tensors)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            for request in [one for one in self.requests if one.key not in self._without_state]:
                self._without_state.add(request.key)
                self._observer.state_not_kept(request, reason)

    def _resume(self, folder: Path) -> None:
        """Restore the state that an earlier process saved, if it can serve every request."""
        saved = resuming.read(folder, self._base.device)
        if saved is None:
            return
        state, tensors = saved
        fewest = min(request.hyperparameters.epoch_count for request in self.requests)
        is_known = all(
            key in state.requests and state.requests[key] >= keeps_epochs
            for key, keeps_epochs in self._unfinished.items()
        )
        # A request that the state does not know may need epochs that were not kept, and one whose last epoch is behind
        # it would never end. Then the run starts from the beginning, which is slower but always right.
        if not is_known or len(state.snapshots) // self._steps_per_epoch >= fewest:
            return
        # Into the tensors that exist already: the optimiser and `EpochAdapters` refer to them.
        self.adapter.restore([tensors[f"adapter.{name}"] for name in self.adapter.named()])
        self._optimiser.load_state(_beginning_with("optimiser.", tensors))
        self._epochs.load_state(_beginning_with("epochs.", tensors), state.losses, state.best)
        self._snapshots = list(state.snapshots)
        self._seconds = state.seconds
        self._packed_with = set(state.packed_with)
        self._unfinished = state.requests | self._unfinished
        for request in self.requests:
            self._report_past(request)

    # The base model's loss on held-out examples

    @torch.no_grad()
    def _base_loss(self) -> float:
        """Return the base model's own validation loss in nats per token, measured once for equal examples."""
        # Kept with the base model, because the runs of a sweep usually have the same validation examples.
        content = [(example.prompt, example.target, example.earlier) for example in self._validation]
        digest = hashlib.sha256(repr(content).encode()).hexdigest()
        if digest not in self._base.base_losses:
            total = 0.0
            for rows in self.validation_batches():
                if not self.is_wanted:
                    raise CancelledJobError
                total += float(self.form.losses(self._base, [rows])[0])
            self._base.base_losses[digest] = total / sum(example.learned for example in self._validation)
        return self._base.base_losses[digest]


def _beginning_with(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def epoch_order(seed: int, epoch: int, count: int) -> list[int]:
    """Return the order of an epoch's examples, which depends on the arguments only.

    Args:
        seed: the trial's seed.
        epoch: from 1.
        count: the number of training examples.

    Returns:
        A permutation of the positions 0 to `count` - 1.
    """
    # `random` uses all bits of a string seed and not its `hash()`, so the order is the same in every process.
    order = list(range(count))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order


def _encoded(request: TuningRequest, base: LoadedModel, part: str) -> list[EncodedExample]:
    encoded = encode_examples(base.tokenizer, base.chat, getattr(request, part), base.turns)
    limit = base.context_tokens
    too_long = [number for number, example in enumerate(encoded, start=1) if limit is not None and len(example) > limit]
    if too_long:
        longest = max(len(encoded[number - 1]) for number in too_long)
        raise InputError(
            f"{len(too_long)} of {len(encoded)} {part} examples are longer than the base model's {limit} tokens "
            f"(first: number {too_long[0]}; longest: {longest} tokens); "
            "shorten or drop them, or choose another base model"
        )
    return encoded


def _check_loss(loss: float, what: str) -> None:
    if not math.isfinite(loss):
        raise DivergedError(f"{what} is {loss}; it has to be finite; lower hyperparameters.learning_rate")
