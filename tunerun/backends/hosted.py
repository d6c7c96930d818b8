"""What backends at a service have in common: config fields, capabilities, failures, and answering in parallel."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Never, Self

from pydantic import Field

from tunerun.backends.base import Capabilities
from tunerun.backends.http import JsonService, ServiceAddress
from tunerun.backends.registry import BackendSection
from tunerun.errors import BackendError, InputError, StatusError
from tunerun.examples import Conversation, Example, Input, as_conversation, behind_examples
from tunerun.generation import GenerateOptions
from tunerun.job import BaseModelRef, Failure, FailureKind, TunedModel
from tunerun.section import VARIABLE


def api_key_env(default: str) -> Any:
    """Return the field `api_key_env` of a section, with the variable that the service's own clients read."""
    return Field(default, pattern=VARIABLE, description="Name of the environment variable that contains the API key.")


class HostedSection(BackendSection):
    """A service that is reached over HTTP; each kind adds its own defaults and fields."""

    base_url: ServiceAddress
    api_key_env: str
    connect_timeout_s: float = Field(10.0, gt=0, description="Maximum wait for a connection, in seconds.")
    read_timeout_s: float = Field(60.0, gt=0, description="Maximum wait for each part of a response, in seconds.")
    max_in_flight: int = Field(
        10,
        ge=1,
        description="Maximum jobs, and maximum prompts, at the service at the same time.",
        json_schema_extra={"unit": "jobs or prompts"},
    )
    poll_interval_s: float = Field(5.0, ge=0, description="Seconds between two polls of the running jobs.")


def hosted_capabilities(section: HostedSection, source: str) -> Capabilities:
    """Return what all services have in common; each kind replaces what it knows better.

    Args:
        section: of the config.
        source: the document that states the service's limits, with its date.
    """
    return Capabilities(
        kind=section.kind,
        address=section.base_url,
        max_input_characters=None,
        max_output_characters=None,
        source=source,
        max_in_flight=section.max_in_flight,
        survives_runner=True,
        is_hosted=True,
        has_prices=True,
        trains_exact_prefixes=False,  # no API promises a seed or the order of the examples
        precision="",
        poll_interval_s=section.poll_interval_s,
        # The service chooses the adapter: the requests have no field for its rank or alpha.
        not_taken=("hyperparameters.adapter_rank", "hyperparameters.adapter_alpha"),
    )


def failure_of(
    message: object, code: str = "", *, otherwise: FailureKind = FailureKind.CRASHED, advice: str = ""
) -> Failure:
    """Return why a job failed, from the service's own words.

    Args:
        message: of the service; None or empty: it gave no reason.
        code: the service's code for the reason; empty: none.
        otherwise: the kind of the failure where neither the message nor the code tells.
        advice: what the user can do, appended to the message; empty: none.
    """
    text = " ".join(str(message or "the service gave no reason").split())
    # `tunerun serve` starts its messages with the kind; no wire has a field for it.
    prefix, _, rest = text.partition(": ")
    if prefix in list(FailureKind):
        return Failure(FailureKind(prefix), rest)
    # The code too: a service may give no message. Not the advice, which is ours.
    kind, words = otherwise, f"{code} {text}".lower()
    if "memory" in words:
        kind = FailureKind.OUT_OF_MEMORY
    elif "diverged" in words or "nan" in words.split():
        kind = FailureKind.DIVERGED
    text = f"{code}: {text}" if code else text
    return Failure(kind, f"{text}; {advice}" if advice else text)


class HostedBackend(ABC):
    """The methods of `Backend` that do not depend on the service's wire; `measures_losses` is False.

    Args:
        kind: of the backend, for messages.
        section: of the config.
        service: where requests go; closed with the backend.
    """

    def __init__(self, kind: str, section: HostedSection, service: JsonService) -> None:
        self._kind = kind
        self._max_in_flight = section.max_in_flight
        self._service = service

    @abstractmethod
    def _wire_name(self, model: BaseModelRef) -> str:
        """Return a base model's name in a request."""

    @abstractmethod
    def _answers(self, name: str, options: GenerateOptions, *, is_tuned: bool) -> Callable[[Conversation], str]:
        """Return a function that sends one conversation to a model; it is called from several threads.

        Args:
            name: the model's name in a request.
            options: of the answers.
            is_tuned: whether it is a tuned model.

        Raises:
            InputError: the service does not support an option.
        """

    def _advice(self, _error: StatusError) -> str:
        """Return what the user can do about a refused prompt, appended to the error; empty: no advice."""
        return ""  # a service overrides it where it can say more than its refusal

    def generate(
        self,
        model: BaseModelRef | TunedModel,
        inputs: Sequence[Input],
        options: GenerateOptions,
        examples: Sequence[Example] = (),
    ) -> list[str]:
        """Send one request for each input, `max_in_flight` at a time; see the Protocol.

        Raises:
            BackendError: a prompt failed, for a reason of the service; names the model and the address.
            InputError: the service does not support an option.
        """
        is_tuned = isinstance(model, TunedModel)
        name = model.location if isinstance(model, TunedModel) else self._wire_name(model)
        answer = self._answers(name, options, is_tuned=is_tuned)
        conversations = [as_conversation(behind_examples(each, examples)) for each in inputs]
        threads = ThreadPoolExecutor(self._max_in_flight)
        try:
            return list(threads.map(answer, conversations))
        except StatusError as error:
            raise BackendError(f"{name} at {self._service.base_url}: {error}{self._advice(error)}") from error
        finally:
            # Not a `with` block, which would wait for the prompts that are still queued after Ctrl-C or an error.
            threads.shutdown(wait=False, cancel_futures=True)

    def losses(
        self, model: BaseModelRef | TunedModel, rows: Sequence[Example], examples: Sequence[Example] = ()
    ) -> list[float]:
        """Refuse, as `choose` does."""
        self._refuse_likelihoods(model, rows, examples)

    def choose(
        self,
        model: BaseModelRef | TunedModel,
        inputs: Sequence[Input],
        choices: Sequence[str],
        examples: Sequence[Example] = (),
    ) -> list[str]:
        """Refuse, because the API does not return how likely a given answer is.

        Raises:
            InputError: always.
        """
        self._refuse_likelihoods(model, inputs, choices, examples)

    def _refuse_likelihoods(self, *_arguments: object) -> Never:
        raise InputError(
            f"backend {self._kind}: the API does not return the likelihood of a given answer; use metrics that need "
            "only answers, or backend=local"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connections; jobs continue at the service."""
        self._service.close()
