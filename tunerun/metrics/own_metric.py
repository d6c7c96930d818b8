"""A user's own metric: a function in a file that `evaluation.metrics` names."""

from __future__ import annotations

import ast
import hashlib
import math
import numbers
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tunerun.errors import ConfigError, MetricError
from tunerun.metrics.base import RANGES, Asks, FloatArray, Unit, column_of

_UNITS = {"share": Unit.SHARE, "hundred": Unit.HUNDRED, "number": Unit.NUMBER}


class OwnOptions(BaseModel):
    """The options of a user's own metric in YAML."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=60, description="What it is called.")
    python: str = Field(description="File and function, such as metrics.py:score; relative as dataset.path.")
    higher_is_better: bool = Field(True, description="Its direction.")
    unit: Literal["share", "hundred", "number"] = Field(
        "share", description="share: 0 to 1, shown as a percentage; hundred: 0 to 100; number: any."
    )

    @field_validator("python")
    @classmethod
    def _names_both(cls, value: str) -> str:
        file, _, function = value.rpartition(":")
        if not file or not function.isidentifier():
            raise ValueError("must be a file and a function in it, such as metrics.py:score")
        return value


@dataclass(frozen=True)
class CodeFile:
    """A file whose code a metric runs.

    Attributes:
        metric: its name. python: the file and the function, as `file:function`.
        sha256: of the file's bytes, in hexadecimal digits.
    """

    metric: str
    python: str
    sha256: str

    @property
    def path(self) -> Path:
        """The path of the file with the code."""
        return Path(self.python.rpartition(":")[0])


@dataclass(frozen=True)
class OwnMetric:
    """A metric that calls a user's function with the expected text and the answer, one row at a time.

    The file is run when rows are scored and not before, as a module of its own: it can import what is installed, and
    not its neighbours, whose content would be in no record.
    """

    name: str
    python: str
    higher_is_better: bool
    unit: Unit
    asks: Asks = Asks.ANSWERS
    is_corpus: bool = False
    packages: tuple[str, ...] = ()

    @classmethod
    def of(cls, options: OwnOptions) -> OwnMetric:
        """Make the metric from its options."""
        return cls(options.name, options.python, options.higher_is_better, _UNITS[options.unit])

    @property
    def path(self) -> Path:
        """The path of the file with the code."""
        return Path(self.python.rpartition(":")[0])

    def rows(self, expected: Sequence[str], answers: Sequence[str]) -> FloatArray:
        """Return the score of each row, [rows, 1].

        Raises:
            ConfigError: the file cannot be run; names file and line.
            MetricError: the function fails, or returns what is not a score; names file, line and row.
        """
        score = self.load()
        scores = [
            self._scored(score, right, answer, row)
            for row, (right, answer) in enumerate(zip(expected, answers, strict=True), start=1)
        ]
        return column_of(scores)

    def value(self, means: FloatArray) -> FloatArray:
        """Return the mean score."""
        return means[..., 0]

    def file(self) -> CodeFile:
        """Return the file with its current digest, checked without running it.

        Raises:
            ConfigError: it is missing, is not Python, or does not define the function.
        """
        source, function = self._source(), self.python.rpartition(":")[2]
        try:
            tree = ast.parse(source, str(self.path))
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None)
            place = f"{self.path}:{line}" if line else str(self.path)
            raise ConfigError(f"{place}: is not Python: {getattr(error, 'msg', error)}") from error
        # Read from the syntax tree: a plan checks that the function exists, and must not run a user's code for that.
        defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        if function not in defined:
            raise ConfigError(
                f"evaluation.metrics.{self.name}: {self.path} defines no function {function}; "
                + (f"it has {', '.join(defined)}" if defined else f"write def {function}(expected, answer): ...")
            )
        return CodeFile(self.name, self.python, hashlib.sha256(source).hexdigest())

    def _source(self) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise ConfigError(f"evaluation.metrics.{self.name}: {self.path}: {error.strerror or error}") from error

    def load(self) -> Callable[[str, str], Any]:
        """Run the file and return its function.

        Raises:
            ConfigError: the file cannot be run; names file and line.
        """
        source, function = self._source(), self.python.rpartition(":")[2]
        # Named after its content, so that two metrics with files of one name do not share a module.
        module = ModuleType(f"tunerun_metric_{hashlib.sha256(source).hexdigest()[:12]}")
        module.__file__ = str(self.path)
        sys.modules[module.__name__] = module  # dataclasses look up their module there
        try:
            exec(compile(source, str(self.path), "exec"), module.__dict__)  # noqa: S102 - what the user asked for
            score: Callable[[str, str], Any] = getattr(module, function)
        except (Exception, SystemExit) as error:
            place, text = self._failure(error)
            raise ConfigError(f"evaluation.metrics.{self.name}: {place}: {text}") from error
        return score

    def _scored(self, score: Callable[[str, str], Any], expected: str, answer: str, row: int) -> float:
        try:
            value = score(expected, answer)
        except (Exception, SystemExit) as error:  # a call of exit() would end the whole run
            place, text = self._failure(error)
            raise MetricError(f"evaluation.metrics.{self.name}: {place}: held-out row {row}: {text}") from error
        import numpy as np

        # NumPy's bool is not a `numbers.Real`, unlike its numbers.
        number = float(value) if isinstance(value, numbers.Real | np.bool_) else math.nan
        largest = RANGES.get(self.unit, math.inf)
        if math.isfinite(number) and (self.unit is Unit.NUMBER or 0 <= number <= largest):
            return number
        # The type and not the text of any other value, which may be pages long or contain private data.
        result = f"{number:g}" if isinstance(value, numbers.Real) else f"a {type(value).__name__}"
        allowed = "a finite number, true or false"
        if math.isfinite(number):
            allowed = f"from 0 to {largest:g} with this unit; set unit: number for any"
        raise MetricError(
            f"evaluation.metrics.{self.name}: {self.python}: held-out row {row}: returned {result}; "
            f"a score is {allowed}"
        )

    def _failure(self, error: BaseException) -> tuple[str, str]:
        """Where in the user's file an error happened, as file:line, and its class with the first line of its text."""
        text = str(error).strip().split("\n")[0]
        description = f"{type(error).__name__}: {text}" if text else type(error).__name__
        if isinstance(error, SyntaxError) and error.filename == str(self.path):
            return f"{self.path}:{error.lineno}", description
        # The last line of the user's own file: the error may have been raised in a library that it calls.
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(self.path)]
        return f"{self.path}:{lines[-1]}" if lines else self.python, description


def code_files(metrics: Sequence[object]) -> list[CodeFile]:
    """Return the files whose code these metrics run, with their current digests; nothing is run.

    Raises:
        ConfigError: all problems with them, one line each.
    """
    files: list[CodeFile] = []
    problems: list[str] = []
    for metric in metrics:
        if isinstance(metric, OwnMetric):
            try:
                files.append(metric.file())
            except ConfigError as error:
                problems.extend(error.problems)
    if problems:
        raise ConfigError(problems)
    return files


def load_code(metrics: Iterable[object]) -> None:
    """Run the files of the user's own metrics once, so that errors are found before anything is trained.

    Raises:
        ConfigError: files that cannot be run, one line each.
    """
    problems: list[str] = []
    for metric in metrics:
        if isinstance(metric, OwnMetric):
            try:
                metric.load()
            except ConfigError as error:
                problems.extend(error.problems)
    if problems:
        raise ConfigError(problems)


def difference(metric: OwnMetric, frozen: Mapping[str, Any]) -> str | None:
    """Return how a metric's file has changed since a sweep was frozen; None: not changed, or not recorded."""
    recorded = frozen.get(metric.name)
    before = recorded.get("sha256") if isinstance(recorded, Mapping) else None
    if before is None:
        return None
    if not metric.path.is_file():
        return f"{metric.path} is gone"
    now = hashlib.sha256(metric.path.read_bytes()).hexdigest()
    return None if now == before else f"{metric.path} has changed (sha256 {before[:12]} then, {now[:12]} now)"
