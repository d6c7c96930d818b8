"""The form of a tuning job: converted into a request of the Gemini API, whose errors are shown beside the fields."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel

from tunerun.service.core.problems import Code, ServiceError, invalid
from tunerun.service.gemini import wire
from tunerun.service.gemini.dialect import field_name
from tunerun.service.page.uploads import Table

LABELS = {
    "input_column": "Column of the input",
    "output_column": "Column of the output",
    "base": "Base model",
    "display_name": "Display name",
    "identifier": "Id",
    "epoch_count": "Epochs",
    "batch_size": "Batch size",
    "learning_rate": "Learning rate",
    "learning_rate_multiplier": "Learning rate multiplier",
}
"""The fields of the form, in its order, and their labels."""

_OF_WIRE = {
    "displayName": "display_name",
    "tunedModelId": "identifier",
    "baseModel": "base",
    "tunedModelSource.tunedModel": "base",
    "tuningTask.hyperparameters.epochCount": "epoch_count",
    "tuningTask.hyperparameters.batchSize": "batch_size",
    "tuningTask.hyperparameters.learningRate": "learning_rate",
    "tuningTask.hyperparameters.learningRateMultiplier": "learning_rate_multiplier",
} | {name: name for name in LABELS}

_EXAMPLE = re.compile(r"tuningTask\.trainingData\.examples\.examples\[(\d+)\](?:\.(textInput|output))?")

_NOT_A_NUMBER = {"int_parsing": "must be a whole number", "float_parsing": "must be a number"}
"""Our messages for pydantic's types of errors."""


class TuningForm(BaseModel):
    """The submitted values as texts; empty: the default."""

    # Texts, also the numbers: an invalid one is shown again beside its problem.
    input_column: str = ""
    output_column: str = ""
    base: str = ""
    display_name: str = ""
    identifier: str = ""
    epoch_count: str = ""
    batch_size: str = ""
    learning_rate: str = ""
    learning_rate_multiplier: str = ""

    def with_columns_of(self, table: Table) -> TuningForm:
        """Return the form with the column names as the file has them: browsers change the line breaks in them."""
        # HTML forms send every line break as CR LF.
        names = {"\n".join(name.splitlines()): name for name in table.columns}
        sent = {name: "\n".join(getattr(self, name).splitlines()) for name in ("input_column", "output_column")}
        return self.model_copy(update={name: names.get(text, text) for name, text in sent.items()})

    def request(self, table: Table) -> wire.GeminiTunedModel:
        """Return the equivalent request of the Gemini API, whose limits and defaults apply to the form.

        Raises:
            ServiceError: a column does not exist, or values are not numbers; names every such field.
        """
        for name in ("input_column", "output_column"):
            if getattr(self, name) not in table.columns:
                raise invalid(name, "is not a column of the file; choose one")
        if self.input_column == self.output_column:
            raise invalid("output_column", "is the column of the input too; choose another one")

        numbers = ("epoch_count", "batch_size", "learning_rate", "learning_rate_multiplier")
        try:
            settings = wire.GeminiHyperparameters.model_validate({n: getattr(self, n).strip() or None for n in numbers})
        except ValidationError as error:
            problems = {
                f"tuningTask.hyperparameters.{to_camel(str(problem['loc'][0]))}": _NOT_A_NUMBER.get(
                    problem["type"], str(problem["msg"])
                )
                for problem in error.errors()
            }
            raise ServiceError(Code.INVALID_ARGUMENT, "a hyperparameter is invalid", fields=problems) from error

        examples = wire.TuningExamples(examples=table.examples(self.input_column, self.output_column))
        is_tuned = self.base.startswith("tunedModels/")
        return wire.GeminiTunedModel(
            base_model=None if is_tuned else self.base,
            tuned_model_source=wire.TunedModelSource(tuned_model=self.base) if is_tuned else None,
            display_name=self.display_name.strip(),
            tuning_task=wire.TuningTask(
                training_data=wire.Dataset(examples=examples),
                hyperparameters=settings,
            ),
        )


@dataclass(frozen=True)
class Problems:
    """The problems of a submitted form.

    Attributes:
        lines: shown above the form; pairs of the field that the problem is about, or None, and its text.
        fields: the texts shown beside the fields, by field.
    """

    lines: list[tuple[str | None, str]] = field(default_factory=list)
    fields: Mapping[str, str] = field(default_factory=dict)


def problems_of(error: ServiceError, form: TuningForm, table: Table) -> Problems:
    """Translate the error of a request into the labels of the form and the lines of the file.

    Args:
        error: from `TuningForm.request`, or from creating the job.
        form: the submitted form.
        table: the file.
    """
    lines: list[tuple[str | None, str]] = []
    fields: dict[str, str] = {}
    if error.code is Code.ALREADY_EXISTS:
        problems = {"identifier": "is taken; choose another one, or delete the tuned model that has it"}
    else:
        problems = {**error.renamed(field_name).fields}
        if not problems:
            lines.append((None, error.message))

    columns = {"textInput": repr(form.input_column), "output": repr(form.output_column)}
    for path, text in problems.items():
        name = _OF_WIRE.get(path)
        if name is not None:
            fields[name] = text
            lines.append((name, f"{LABELS[name]}: {text}"))
        elif (example := _EXAMPLE.fullmatch(path)) is not None:
            # Without a field, the two cells are too long together for the base model.
            cell = columns.get(example[2] or "", "the row")
            lines.append((None, f"{table.rows[int(example[1])].place}: {cell} {text}"))
        else:
            lines.append((None, f"{table.name}: {text}"))
    # The message counts all problems but the first; `fields` has the first `MAX_PROBLEMS` of them.
    others = re.search(r"and ([\d,]+) more$", error.message)
    unlisted = 0 if others is None else int(others[1].replace(",", "")) + 1 - len(lines)
    if unlisted > 0:
        lines.append((None, f"and {unlisted:,} more"))
    return Problems(lines, fields)
