"""A row becomes an example: Jinja2, sandboxed and strict.

The same object renders training rows and the inputs of `predict`, so that a tuned model is always asked in the words
it was trained with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError, Undefined, UndefinedError, meta, nodes
from jinja2.exceptions import SecurityError, TemplateRuntimeError
from jinja2.runtime import TemplateReference
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tunerun.errors import TemplateError
from tunerun.job import Example
from tunerun.schema import Template

Row = Mapping[str, Any]

_ROW = "row"
"""Holds the whole row in a template, for columns whose names are no identifiers."""


class PromptTemplate:
    """The two expressions of a `Template`, compiled.

    Args:
        template: the config's template section.

    Raises:
        TemplateError: a syntax error; names the key `template.text_input` or `template.output` and the line.
    """

    def __init__(self, template: Template) -> None:
        self.template = template
        self._environment = ImmutableSandboxedEnvironment(
            undefined=StrictUndefined, keep_trailing_newline=True, finalize=_printable
        )
        # Jinja's own names would stand in for a column that is missing (dict, range), and lipsum and random would give
        # other examples, so another key, each time.
        self._environment.globals.clear()
        del self._environment.filters["random"]
        self._compiled = {}
        self._columns: dict[str, frozenset[str]] = {}
        problems = []
        for part, text in self._parts():
            try:
                self._columns[part] = _columns_of(self._environment.parse(text))
                self._compiled[part] = self._environment.from_string(text)
            except TemplateSyntaxError as error:
                problems.append(f"template.{part}: line {error.lineno}: {error.message}; this is no valid Jinja2")
            except RecursionError:
                problems.append(f"template.{part}: it is nested too deeply; flatten it")
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
                f"template.{part} names {names}, which the row has not; it has {', '.join(map(str, row)) or 'none'}"
            )
        try:
            return self._compiled[part].render({_ROW: row, **row})
        except (UndefinedError, SecurityError, TemplateRuntimeError) as error:
            raise TemplateError(f"template.{part}: {_without_cells(str(error.message), row)}") from error
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError) as error:
            message = _without_cells(str(error), row)
            raise TemplateError(f"template.{part}: {type(error).__name__}: {message}") from error


def _columns_of(tree: nodes.Template) -> frozenset[str]:
    """The columns that a template names: `{{ name }}`, or `{{ row["any name"] }}` where it is no identifier."""
    by_subscript = [
        node.arg.value
        for node in tree.find_all(nodes.Getitem)
        if isinstance(node.node, nodes.Name) and node.node.name == _ROW and isinstance(node.arg, nodes.Const)
    ]
    names = frozenset(meta.find_undeclared_variables(tree))
    only_subscripts = len(by_subscript) == sum(name.name == _ROW for name in tree.find_all(nodes.Name))
    return (names - {_ROW} if only_subscripts else names) | {str(column) for column in by_subscript}


def _printable(value: Any) -> Any:
    """Return what `{{ }}` prints; a method (`{{ cell.items }}` of an object) or `{{ self }}` is none of the row's."""
    if isinstance(value, TemplateReference) or (callable(value) and not isinstance(value, Undefined)):
        raise TemplateRuntimeError("an expression gives a function instead of a value; write cell['name'] for a key")
    if isinstance(value, dict | list | tuple):
        raise TemplateRuntimeError(
            f"an expression gives {'an object' if isinstance(value, dict) else 'a list'} instead of text; write "
            "{{ cell | tojson }} for its JSON, or cell['name'] for a part of it"
        )
    return value


def _without_cells(message: str, row: Row) -> str:
    """Return the message of Jinja or Python without the cells that it quotes; they may hold secrets."""
    for cell in row.values():
        if isinstance(cell, str):
            message = message.replace(repr(cell), "'...'")
    return message
