"""A conversation with a tuned model or its base model; messages are rendered with the template of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tunerun.errors import InputError
from tunerun.examples import Conversation, Example, Input, Turn, as_conversation
from tunerun.prediction import OpenModel
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
        # Not `system`: `say` fills it in, from --system or from training.
        free = sorted(model.template.columns_of(TEXT_INPUT) - {SYSTEM} - self._columns.keys())
        if not free:
            raise InputError("--chat: COLUMN=VALUE gives every column of template.text_input; omit the message's own")
        if len(free) > 1:
            names = ", ".join(map(repr, free))
            raise InputError(f"--chat: template.text_input reads {names}; give all but the message's as COLUMN=VALUE")
        (self._message,) = free
        self._turns: tuple[Turn, ...] = ()
        self.warnings: list[str] = []
        self._system = self._chosen_system(system, training)
        if training and not any(example.earlier for example in training):
            self.warnings.append("training had rows of one turn; what is answered after the first was not learned")

    def _chosen_system(self, system: str | None, training: Sequence[Example]) -> str:
        """Return the system message to send: the user's, else the one of training if all rows had the same."""
        template = self._model.template
        if not template.sends_own_system:
            # The template makes it. The user's counts only where the template names it.
            if system is not None and SYSTEM not in template.input_columns:
                raise InputError(
                    "--system: template.system says the system message of this model and does not name {{ system }}, "
                    "so another one cannot be sent; omit it"
                )
            return system or ""
        trained = sorted({example.system for example in training})
        if system is None and len(trained) == 1:
            return trained[0]
        if trained and system is not None and system not in trained:
            none = "training had none" if trained == [""] else "it is not one of training's"
            self.warnings.append(f"system message: {none}, so that answers to it were not learned")
        if system is None and trained:
            self.warnings.append(
                f"system message: training had {len(trained):,} different ones and none is sent; give one with --system"
            )
        return system or ""

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
        rendered: Input = template.render_input(row, Conversation(message, self._system))
        if self._turns:
            rendered = replace(as_conversation(rendered), earlier=self._turns)
        (answer,) = self._model.answers([rendered], is_base=self._is_base)
        # The turn has the rendered message, as training's earlier turns have; kept only after it was answered.
        self._turns = (*self._turns, Turn(as_conversation(rendered).text_input, answer))
        return answer

    def reset(self) -> None:
        """Forget what was said; the system message stays."""
        self._turns = ()
