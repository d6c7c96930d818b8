"""The baselines `base+k` and `base+k text`: the base model with k training examples before the question.

A tuned model should beat what its base model can do after a few examples. Of the 24 held-out rows of
experiments/next_number, untuned SmolLM2-135M-Instruct has none right without examples, 2 after four training rows as
turns and 1 after fifteen, and none after either as text, with or without a line break after the question and words such
as `Output:` before the parts (greedy; measured 2026-11-26). Which form is better depends on the model, so both are
asked, and count as two. An example that is a conversation is shown with all its turns, without its system message; in
both forms it is before a held-out row's own earlier turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from tunerun import example_json
from tunerun.backends.base import Backend
from tunerun.baselines.base import Baseline, Setting, subject_of
from tunerun.digest import digest
from tunerun.engine.token_counter import TokenCounter
from tunerun.examples import Example, Input, as_conversation
from tunerun.generation import GenerateOptions, ModelInputs
from tunerun.job import BaseModelRef
from tunerun.stored import read_stored, section

KIND = "few_shot"
_BETWEEN = "\n\n"


class ExampleForm(StrEnum):
    """How the examples are put before the question."""

    TURNS = "turns"
    """As earlier turns of the conversation."""
    TEXT = "text"
    """As one text: each input, a line break, its output, an empty line; then the question."""


@dataclass(frozen=True)
class FewShot:
    """The base model with some training examples in the prompt."""

    subject: str
    model: BaseModelRef
    examples: tuple[Example, ...]
    form: ExampleForm
    count: int
    kind = KIND
    measures_losses = True

    @property
    def name(self) -> str:
        """The configured number of examples, and the form if it is not turns."""
        return f"base+{self.count}" + (" text" if self.form is ExampleForm.TEXT else "")

    @property
    def problem(self) -> str | None:
        """Why there are too few examples for the prompt; None: there are enough."""
        if len(self.examples) == self.count:
            return None
        return (
            f"the training set has {len(self.examples)} different examples that are not held out, and "
            f"evaluation.baselines.examples asks for {self.count}"
        )

    def asks(self, inputs: Sequence[Input], options: GenerateOptions) -> ModelInputs:
        """Ask the base model with the examples in the prompt."""
        return ModelInputs(self.model, tuple(self._prompts(inputs)), options, self._turns)

    def read(self, texts: Sequence[str]) -> list[str]:
        """Return the base model's answers after the examples."""
        # In a text it tends to continue with a question of its own: what follows the first empty line is not its
        # answer, unless outputs of examples have empty lines too.
        if self.form is ExampleForm.TURNS or any(_BETWEEN in example.output.strip() for example in self.examples):
            return list(texts)
        return [text.lstrip().partition(_BETWEEN)[0] for text in texts]

    def choose(self, backend: Backend, inputs: Sequence[Input], choices: Sequence[str]) -> list[str]:
        """Let the base model choose after the examples."""
        return backend.choose(self.model, self._prompts(inputs), choices, self._turns)

    def losses(self, backend: Backend, rows: Sequence[Example]) -> list[float]:
        """Measure the base model's losses after the examples."""
        prompts = map(as_conversation, self._prompts([row.input for row in rows]))
        behind = [
            Example(prompt.text_input, row.output, prompt.system, prompt.earlier)
            for prompt, row in zip(prompts, rows, strict=True)
        ]
        return backend.losses(self.model, behind, self._turns)

    def extra_tokens(self, counter: TokenCounter) -> int:
        """Return how many tokens the examples take; see `Baseline.extra_tokens`."""
        # Of an empty question, because the examples are the same before every one.
        (prompt,) = self._prompts([""])
        return counter.count_input(prompt, self._turns) - counter.count_input("")

    def document(self) -> dict[str, Any]:
        """Return the base model, the examples and their form, as JSON values."""
        return {
            "model": self.model.name,
            "base_model": asdict(self.model),
            "examples": [example.document for example in self.examples],
            "form": self.form.value,
            "count": self.count,
        }

    @property
    def _turns(self) -> tuple[Example, ...]:
        return self.examples if self.form is ExampleForm.TURNS else ()

    def _prompts(self, inputs: Sequence[Input]) -> list[Input]:
        if self.form is ExampleForm.TURNS:
            return list(inputs)
        turns = [turn for example in self.examples for turn in example.turns]
        before = "".join(f"{turn.text_input}\n{turn.output}{_BETWEEN}" for turn in turns)
        # At the start of the first message, and so before a conversation's own turns, as examples in the form of turns
        # are.
        prompts: list[Input] = []
        for each in inputs:
            if isinstance(each, str):
                prompts.append(f"{before}{each}")
            elif not each.earlier:
                prompts.append(replace(each, text_input=f"{before}{each.text_input}"))
            else:
                first, *rest = each.earlier
                first = replace(first, text_input=f"{before}{first.text_input}")
                prompts.append(replace(each, earlier=(first, *rest)))
        return prompts


def baselines(setting: Setting) -> list[Baseline]:
    """Return both forms for each count, fewer examples first."""
    made: list[Baseline] = []
    # 0 is the bare base model, which `untuned` makes.
    for count in sorted({count for count in setting.counts if count}):
        examples = tuple(setting.drawn[:count])
        content = digest(list(map(example_json.to_list, examples)))
        for form in ExampleForm:
            # A set that is too small makes the same examples for two counts, which are still two baselines.
            lacking = {} if len(examples) == count else {"count": count}
            subject = subject_of(setting, examples=content, form=form.value, **lacking)
            made.append(FewShot(subject, setting.model, examples, form, count))
    return made


def restored(subject: str, document: Mapping[str, Any]) -> Baseline:
    """Return the baseline that wrote a document."""
    examples = tuple(map(example_json.from_object, document["examples"]))
    model = read_stored(BaseModelRef, section(document, "base_model"))
    return FewShot(subject, model, examples, ExampleForm(document["form"]), document["count"])


def words(document: Mapping[str, Any]) -> str:
    """Return the baseline's name in a sentence: the number of examples, and the form if it is not turns."""
    count = document.get("count", 0)
    form = " as plain text" if document.get("form") == ExampleForm.TEXT else ""
    return f"the base model with {count} {'example' if count == 1 else 'examples'} in the prompt{form}"
