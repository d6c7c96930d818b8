"""The form of a tuning job: converted into a request of the API, whose errors are shown beside the fields."""

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

_OTHERWISE = "otherwise"
"""The key of a problem that is not about a field of the form."""


class TuningForm(BaseModel):
    """The submitted values as texts; empty: the default."""

    input_column: str = ""
    output_column: str = ""
    base: str = ""
    display_name: str = ""
    identifier: str = ""
    epoch_count: str = ""
    batch_size: str = ""
    learning_rate: str = ""
    learning_rate_multiplier: str = ""

    def of(self, table: Table) -> TuningForm:
        """The same with the names of columns as the file has them; a form changes the line breaks in them."""
        names = {"\n".join(name.splitlines()): name for name in table.columns}
        posted = {name: "\n".join(getattr(self, name).splitlines()) for name in ("input_column", "output_column")}
        return self.model_copy(update={name: names.get(text, text) for name, text in posted.items()})

    def asked(self, table: Table) -> wire.GeminiTunedModel:
        """Return the equivalent request of the API.

        Raises:
            ServiceError: a column does not exist, or a value is not a number; names every such field.
        """
        self._check_columns(table)
        numbers = ("epoch_count", "batch_size", "learning_rate", "learning_rate_multiplier")
        try:
            settings = wire.GeminiHyperparameters.model_validate({n: getattr(self, n).strip() or None for n in numbers})
        except ValidationError as error:
            raise _misread(error) from error
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

    def _check_columns(self, table: Table) -> None:
        for name in ("input_column", "output_column"):
            if getattr(self, name) not in table.columns:
                raise invalid(name, "is not a column of the file; choose one")
        if self.input_column == self.output_column:
            raise invalid("output_column", "is the column of the input too; choose another one")


@dataclass(frozen=True)
class Problems:
    """The problems of a submitted form.

    Attributes:
        lines: to show above it, by the labels of the fields; each with the field it is about, or None.
        fields: the text beside each field.
    """

    lines: list[tuple[str | None, str]] = field(default_factory=list)
    fields: Mapping[str, str] = field(default_factory=dict)


def problems_of(error: ServiceError, form: TuningForm, table: Table) -> Problems:
    """Translate the error of a request into the labels of the form and the lines of the file."""
    lines: list[tuple[str | None, str]] = []
    fields: dict[str, str] = {}
    error = error.renamed(field_name)
    for path, text in _fields(error).items():
        name = _OF_WIRE.get(path)
        example = _EXAMPLE.fullmatch(path)
        if name is not None:
            fields[name] = text
            lines.append((name, f"{LABELS[name]}: {text}"))
        elif example is not None:
            lines.append((None, f"{_cell(example, form, table)} {text}"))
        else:
            lines.append((None, text if path == _OTHERWISE else f"{table.name}: {text}"))
    more = re.search(r"and (\d+) more$", error.message)
    if more is not None and int(more[1]) >= len(lines):
        lines.append((None, f"and {int(more[1]) + 1 - len(lines):,} more"))
    return Problems(lines, fields)


def _fields(error: ServiceError) -> Mapping[str, str]:
    if error.code is Code.ALREADY_EXISTS:
        return {"identifier": "is taken; choose another one, or delete the tuned model that has it"}
    return error.fields or {_OTHERWISE: error.message}


def _cell(example: re.Match[str], form: TuningForm, table: Table) -> str:
    """Where in the file a bad cell is, or a row whose two cells are too long together."""
    columns = {"textInput": repr(form.input_column), "output": repr(form.output_column), None: "the row"}
    return f"{table.rows[int(example[1])].place}: {columns[example[2]]}"


_NOT_READ = {"int_parsing": "must be a whole number", "float_parsing": "must be a number"}


def _misread(error: ValidationError) -> ServiceError:
    where = "tuningTask.hyperparameters"
    fields = {
        f"{where}.{to_camel(str(problem['loc'][0]))}": _NOT_READ.get(problem["type"], str(problem["msg"]))
        for problem in error.errors()
    }
    return ServiceError(Code.INVALID_ARGUMENT, "a hyperparameter cannot be used", fields=fields)
