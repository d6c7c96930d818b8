"""What runs when MLflow loads a tuned model: rows in, answers out, as `tunerun predict` gives them.

The engine is a process of its own here too, started by the first row: a crash ends an answer and not the server, and
requests of several threads wait for each other.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from tunerun.backends import stored_section
from tunerun.engine import base_model, tuned_model
from tunerun.engine.base_model import cache_folder
from tunerun.errors import BaseModelError, InputError, NotFoundError, TemplateError
from tunerun.job import BaseModelRef, TunedModel
from tunerun.prediction import CallableModel, OpenModel, opened
from tunerun.template import PromptTemplate
from tunerun.tracking.packaged.record import BASE_MODEL, MODEL, TUNED_MODEL, PackagedModel

PLACE_VARIABLE = "TUNERUN_BASE_MODEL"
"""The environment variable that says where the base model is: a folder, a GGUF file, or a name on the hub."""

_logger = logging.getLogger(__name__)


class TunedText(PythonModel):  # type: ignore[misc]  # mlflow has no types
    """Answers rows with a tuned model and its template."""

    def load_context(self, context: PythonModelContext) -> None:
        """Find the base model and check that it is the one of the tuned model; the engine starts with the first row.

        Raises:
            NotFoundError: the adapter is not as it was stored.
            BaseModelError: the base model is not on this machine, or is another one.
            MissingPackageError: the extra `local` is not installed.
        """
        artifacts = {name: Path(path) for name, path in context.artifacts.items()}
        logs = TemporaryDirectory(prefix="tunerun-")
        self._model = open_packaged(artifacts, Path(logs.name))
        self._closing = weakref.finalize(self, _close, self._model, logs)

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002 - MLflow calls it so
        model_input: pandas.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> list[str]:
        """Answer rows, in order.

        Args:
            context: not used.
            model_input: a data frame, or rows as mappings; a missing column, None and NaN are the same to the template.
            params: `max_output_tokens`.

        Raises:
            MlflowException: a row cannot be rendered or is too long; or the engine failed, for a reason in the log.
        """
        try:
            most = (params or {}).get("max_output_tokens")
            if most is not None and most < 1:
                raise TemplateError(f"max_output_tokens={most}: a whole number of at least 1")
            rows = rows_of(model_input)
            return self._model.many(rows, max_output_tokens=None if most is None else int(most))
        # `from None`, and words alone: `mlflow models serve` answers with the whole traceback, which has paths of this
        # machine and may have prompts (3.17.2).
        except TemplateError as error:
            raise MlflowException.invalid_parameter_value("\n".join(error.problems)) from None
        except Exception as error:
            if type(error) is InputError:  # an input is too long; its subclasses are about this machine
                raise MlflowException.invalid_parameter_value(str(error)) from None
            _logger.exception("the tuned model could not answer")
            raise MlflowException("the tuned model could not answer; the log of this process says why") from None


def open_packaged(artifacts: Mapping[str, Path], runs: Path) -> OpenModel:
    """Open the tuned model of a package.

    Args:
        artifacts: by their names in `packaged.record`.
        runs: where the engine writes its log.

    Raises:
        NotFoundError, BaseModelError, MissingPackageError: as `TunedText.load_context`.
    """
    folder = artifacts[TUNED_MODEL]
    if (problem := tuned_model.fault(folder)) is not None:
        raise NotFoundError(f"the tuned model is not as it was stored: {problem}; load it again, or promote it again")
    record = tuned_model.read(folder)
    packaged = PackagedModel.read(artifacts[MODEL].read_text(encoding="utf-8"))
    finished = tuned_model.read_finished(folder)
    trained_on = None if finished is None else finished.trained_on
    cache = cache_folder(None)
    model = _base_model(record.base_model, record.base_identity, artifacts.get(BASE_MODEL), cache)
    callable_model = CallableModel(
        tuned_model=TunedModel(record.tuned_model, model, str(folder), record.weights),
        template=PromptTemplate(packaged.template),
        backend=stored_section(packaged.backend, "" if trained_on is None else trained_on.precision),
        generation=packaged.generation,
        seed=packaged.generation.seed,
        cache=str(cache),
    )
    return opened(callable_model, runs)


def _base_model(model: BaseModelRef, identity: str, copy: Path | None, cache: Path) -> BaseModelRef:
    """Find the base model: in the package, where the user says, by its package or name, or where it last was here."""
    own_place = os.environ.get(PLACE_VARIABLE, "").strip()
    remembered = base_model.place_of(identity, cache)
    if copy is not None or own_place:
        places = [replace(model, source=own_place if copy is None else str(copy), package=None)]
    else:
        elsewhere = [] if remembered is None else [replace(model, source=str(remembered), package=None)]
        places = [model, *elsewhere]
    problems: list[str] = []
    for place in places:
        try:
            candidate = base_model.find(place, cache)
        except InputError as error:  # also a variable of the environment that is not set here
            problems.extend(error.problems)
            continue
        if candidate.identity == identity:
            return place
        problems.append(
            f"the base model found ({candidate.origin}) is {candidate.identity}, the tuned model's is {identity}"
        )
    advice = f"set {PLACE_VARIABLE} to its folder, GGUF file or hub name, or promote with --with-base"
    raise BaseModelError([*problems, advice])


def rows_of(model_input: Any) -> Sequence[Mapping[str, Any]]:
    """Return the rows of a data frame, of mappings or of a mapping of columns, the forms that MLflow passes.

    A cell that pandas calls missing is None.
    """
    if isinstance(model_input, Mapping):
        is_columns = all(isinstance(cells, list) for cells in model_input.values())
        model_input = pandas.DataFrame(model_input) if is_columns else [model_input]
    if not isinstance(model_input, pandas.DataFrame):
        return list(model_input)
    cells = model_input.astype(object)
    return [
        {str(name): cell for name, cell in row.items()} for row in cells.where(cells.notna(), None).to_dict("records")
    ]


def _close(model: OpenModel, logs: TemporaryDirectory[str]) -> None:
    model.close()
    logs.cleanup()
