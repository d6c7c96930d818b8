"""A conversation with a tuned model or its base model; messages are rendered with the template of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tunerun.errors import InputError
from tunerun.examples import Conversation, Example, Input, Turn, as_conversation
from tunerun.prediction import OpenModel
from tunerun.template import PromptTemplate
from tunerun.template.prompt_template import SYSTEM, TEXT_INPUT


class Chat:
    """Answers messages one after another and remembers them until it is reset.

    A message is a cell of the one column of the template's `text_input` that `columns` does not give. The system
    message is what the template makes of it; without one of the user's, that of training where all rows had the same.

    Args:
        model: what answers.
        system: a system message; None: that of training.
        columns: cells of the template's other columns, the same for every message.
        is_base: whether the base model answers, instead of the tuned model.
        training: the examples it was trained on; empty: unknown.

    Raises:
        InputError: the template leaves no column for the message, or has no place for the system message.
    """

    def __init__(
        self,
        model: OpenModel,
        *,
        system: str | None = None,
        columns: Mapping[str, str] | None = None,
        is_base: bool = False,
        training: Sequence[Example] = (),
    ) -> None:
        self._model = model
        self._is_base = is_base
        self._columns = dict(columns or {})
        self._message = _column_of_message(model.template, self._columns)
        self._turns: tuple[Turn, ...] = ()
        self.warnings: list[str] = []
        self._system = self._chosen_system(system, training)
        if training and not any(example.earlier for example in training):
            self.warnings.append("training had rows of one turn; what is answered after the first was not learned")

    def _chosen_system(self, given: str | None, training: Sequence[Example]) -> str:
        template = self._model.template
        if not template.sends_own_system:
            if given is not None and SYSTEM not in template.input_columns:
                raise InputError(
                    "--system: template.system says the system message of this model and does not name {{ system }}, "
                    "so another one cannot be sent; omit it"
                )
            return given or ""
        trained = sorted({example.system for example in training})
        if given is None and len(trained) == 1:
            return trained[0]
        if trained and given is not None and given not in trained:
            none = "training had none" if trained == [""] else "it is not one of training's"
            self.warnings.append(f"system message: {none}, so that answers to it were not learned")
        if given is None and trained:
            self.warnings.append(
                f"system message: training had {len(trained):,} different ones and none is sent; give one with --system"
            )
        return given or ""

    @property
    def name(self) -> str:
        """The name of the model that answers, for messages."""
        return f"the base model of {self._model.name}" if self._is_base else self._model.name

    def say(self, message: str) -> str:
        """Send a message after the earlier ones, and return the answer.

        Raises:
            TemplateError: the template cannot be rendered with the columns that were given.
            InputError: the conversation is too long for the base model's context; the message is forgotten.
            BackendError: the model cannot be called.
        """
        template, row = self._model.template, {**self._columns, self._message: message}
        if SYSTEM in template.input_columns:
            row.setdefault(SYSTEM, self._system)
        asked: Input = template.render_input(row, Conversation(message, self._system))
        if self._turns:
            asked = replace(as_conversation(asked), earlier=self._turns)
        (answer,) = self._model.answers([asked], is_base=self._is_base)
        self._turns = (*self._turns, Turn(as_conversation(asked).text_input, answer))
        return answer

    def reset(self) -> None:
        """Forget what was said; the system message stays."""
        self._turns = ()


def _column_of_message(template: PromptTemplate, given: Mapping[str, str]) -> str:
    columns = template.columns_of(TEXT_INPUT) - {SYSTEM}
    left = sorted(columns - given.keys())
    if len(left) == 1:
        return left[0]
    if not left:
        raise InputError("--chat: COLUMN=VALUE gives every column of template.text_input; omit the message's own")
    names = ", ".join(map(repr, left))
    raise InputError(f"--chat: template.text_input reads {names}; give all but the message's as COLUMN=VALUE")
