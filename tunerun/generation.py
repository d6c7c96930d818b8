"""How a model is asked, and what it answers: options, prompts, answers. Plain and picklable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunerun.examples import Conversation, Example, Input, as_conversation, behind_examples
from tunerun.job import BaseModelRef, TunedModel


@dataclass(frozen=True)
class GenerateOptions:
    """How to generate.

    Attributes:
        max_output_tokens: the most tokens of an answer.
        temperature: 0 is greedy; above it samples with `seed`.
        top_p: when sampling, only the likeliest tokens that together have this probability; 1: all.
        top_k: when sampling, only so many of the likeliest tokens; 0: all.
        stop_sequences: an answer ends before the first place where its text holds one of these.
        logprobs: how many of the likeliest tokens are reported at each place of the answer, besides the one that was
            taken; None: nothing is reported.
        json_schema: a JSON schema, as JSON, that the answer has to satisfy; None: any text.
    """

    max_output_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0
    top_p: float = 1.0
    top_k: int = 0
    stop_sequences: tuple[str, ...] = ()
    logprobs: int | None = None
    json_schema: str | None = None


@dataclass(frozen=True)
class ModelInputs:
    """The inputs for one model, as for `Backend.generate`.

    Attributes:
        examples: few-shot examples that precede each input.
    """

    model: BaseModelRef | TunedModel
    inputs: tuple[Input, ...]
    options: GenerateOptions
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True)
class Prompt:
    """One input and how to answer it.

    Attributes:
        adapter: location of the tuned model that answers (`TunedModel.location`); None: the base model answers.
        examples: earlier turns of the same conversation, before the input; each with all its turns, and without a
            system message of its own.
        system: the system message; empty: none.
    """

    text_input: str
    options: GenerateOptions = GenerateOptions()
    adapter: str | None = None
    examples: tuple[Example, ...] = ()
    system: str = ""

    @property
    def input(self) -> Input:
        """The input with its examples and system message."""
        own = Conversation(self.text_input, self.system) if self.system else self.text_input
        return behind_examples(own, self.examples)


def prompt_of(
    model_input: Input, options: GenerateOptions, adapter: str | None = None, examples: Sequence[Example] = ()
) -> Prompt:
    """Return the prompt of an input with examples before it.

    Args:
        model_input: what the model is asked.
        options, adapter: as in `Prompt`.
        examples: few-shot examples, placed as by `behind_examples`.
    """
    # `Prompt` has one list for both: earlier turns of the input are examples of one turn each.
    whole = as_conversation(behind_examples(model_input, examples))
    earlier = tuple(Example(turn.text_input, turn.output) for turn in whole.earlier)
    return Prompt(whole.text_input, options, adapter, earlier, whole.system)


@dataclass(frozen=True)
class Likelihood:
    """How likely a model is to give an output as its answer.

    Attributes:
        nats: negative log likelihood of all tokens of the output together, in nats.
        tokens: how many these are, with those that the chat format puts around the output and the one that ends it.
    """

    nats: float
    tokens: int


@dataclass(frozen=True)
class TokenScore:
    """A token of an answer, and how likely it was.

    Attributes:
        text: as it is decoded by itself; a part of a character is U+FFFD.
        bytes: its bytes in UTF-8; empty: they are not known.
        logprob: natural logarithm of its probability, before temperature, top_p and top_k.
        likeliest: the likeliest tokens at its place with their logarithms, the likeliest first.
    """

    text: str
    bytes: tuple[int, ...]
    logprob: float
    likeliest: tuple[TokenScore, ...] = ()


@dataclass(frozen=True, slots=True)
class AnswerPart:
    """A further part of an answer that is still being made.

    Attributes:
        scores: of the tokens that are whole with it, where `GenerateOptions.logprobs` asked for them.
    """

    text: str
    scores: tuple[TokenScore, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What a model answered.

    Attributes:
        tokens: how many the text took: without the token that ends it, without a stop sequence's.
        is_cut: whether it ended at `max_output_tokens`, or where the model's context ends, and not by itself.
        scores: of its tokens, where `GenerateOptions.logprobs` asked for them.
    """

    text: str
    tokens: int
    is_cut: bool
    scores: tuple[TokenScore, ...] = ()
