"""A row becomes an example: Jinja2, sandboxed and strict.

The same object renders training rows and the inputs of `predict`, so that a tuned model is always asked in the words
it was trained with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError, UndefinedError, meta
from jinja2.exceptions import SecurityError, TemplateRuntimeError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tunerun.errors import TemplateError
from tunerun.job import Example
from tunerun.schema import Template

Row = Mapping[str, Any]


class PromptTemplate:
    """The two expressions of a `Template`, compiled.

    Args:
        template: the config's template section.

    Raises:
        TemplateError: a syntax error; names the key `template.text_input` or `template.output` and the line.
    """

    def __init__(self, template: Template) -> None:
        self.template = template
        self._environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
        self._compiled = {}
        self._columns: dict[str, frozenset[str]] = {}
        problems = []
        for part, text in self._parts():
            try:
                self._columns[part] = frozenset(meta.find_undeclared_variables(self._environment.parse(text)))
                self._compiled[part] = self._environment.from_string(text)
            except TemplateSyntaxError as error:
                problems.append(f"template.{part}: line {error.lineno}: {error.message}; this is no valid Jinja2")
        if problems:
            raise TemplateError(problems)

    def _parts(self) -> tuple[tuple[str, str], ...]:
        return (("text_input", self.template.text_input), ("output", self.template.output))

    @property
    def input_columns(self) -> frozenset[str]:
        """The columns that `text_input` names."""
        return self._columns["text_input"]

    @property
    def columns(self) -> frozenset[str]:
        """The columns that either expression names."""
        return self._columns["text_input"] | self._columns["output"]

    def render_input(self, row: Row) -> str:
        """Render what the model is given for a row.

        Raises:
            TemplateError: the row lacks a column the template names, or an expression fails or is not allowed.
        """
        return self._render("text_input", row)

    def render(self, row: Row) -> Example:
        """Render a row into an example.

        Raises:
            TemplateError: as `render_input`.
        """
        return Example(text_input=self._render("text_input", row), output=self._render("output", row))

    def _render(self, part: str, row: Row) -> str:
        missing = sorted(self._columns[part] - row.keys())
        if missing:
            names = ", ".join(repr(name) for name in missing)
            raise TemplateError(
                f"template.{part} names {names}, which the row has not; its columns: {', '.join(map(str, row)) or 'none'}"
            )
        try:
            return self._compiled[part].render(row)
        except (UndefinedError, SecurityError, TemplateRuntimeError) as error:
            raise TemplateError(f"template.{part}: {error.message}") from error
        except (TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise TemplateError(f"template.{part}: {type(error).__name__}: {error}") from error
