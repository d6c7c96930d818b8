"""A row becomes an example: Jinja2, sandboxed, bounded and strict.

The same object renders training rows and the inputs of `predict`, so that a tuned model is always asked in the words
it was trained with.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jinja2
from jinja2 import meta, nodes

from tunerun.errors import TemplateError
from tunerun.job import Example
from tunerun.template.absent import AbsentCellError, CellsOfRow, PrintedError
from tunerun.template.sandbox import BoundedEnvironment

Row = Mapping[str, Any]

_ROW = "row"
"""Holds the whole row in a template, for columns whose names are no identifiers."""

_LONGEST_MESSAGE = 300
_TEXT_FILTERS = frozenset(
    {"capitalize", "center", "d", "default", "e", "escape", "indent", "lower", "replace", "string", "title", "trim"}
    | {"truncate", "upper"}
)
_PRESENCE = frozenset({"defined", "undefined", "none", "string"})
_SINGLE_BRACES = re.compile(r"(?<![{%])\{\s*([^\W\d]\w*)\s*\}(?![}%])")
_SPACED_NAME = re.compile(r"\{\{-?\s*([^\W\d]\w*(?:[ -]+\w+)+)\s*-?\}\}")


class TemplateParts(Protocol):
    """The two expressions as text: the config's section, or what is stored of it."""

    @property
    def text_input(self) -> str:
        """What the model is given."""

    @property
    def output(self) -> str:
        """What it is to answer."""


@dataclass(frozen=True)
class Column:
    """A place in a template where a column's cell is printed as it is."""

    name: str


class PromptTemplate:
    """The two expressions of a `Template`, compiled. For one thread at a time.

    Args:
        template: the config's template section.

    Raises:
        TemplateError: a syntax error, or an expression that names no column; names the key `template.text_input` or
            `template.output` and the line.
    """

    def __init__(self, template: TemplateParts) -> None:
        self.template = template
        environment = BoundedEnvironment()
        self._parts: dict[str, _Part] = {}
        problems: list[str] = []
        for part, text in (("text_input", template.text_input), ("output", template.output)):
            try:
                self._parts[part] = _Part.of(environment, part, text)
            except TemplateError as error:
                problems += error.problems
        if problems:
            raise TemplateError(problems)

    def columns_of(self, part: str) -> frozenset[str]:
        """The columns that `part` (text_input or output) names."""
        return self._parts[part].columns

    @property
    def input_columns(self) -> frozenset[str]:
        """The columns that `text_input` names."""
        return self.columns_of("text_input")

    @property
    def columns(self) -> frozenset[str]:
        """The columns that either expression names."""
        return self.columns_of("text_input") | self.columns_of("output")

    @property
    def uses_row(self) -> bool:
        """Whether an expression uses `row` as a whole, and so may use any column."""
        return any(part.uses_row for part in self._parts.values())

    def printed(self, part: str) -> tuple[str, ...]:
        """The columns that `part` (text_input or output) prints as they are, whatever the row holds."""
        return self._parts[part].printed

    def texts(self, part: str) -> frozenset[str]:
        """The columns of `part` (text_input or output) that are as good as text: printed, perhaps by way of filters
        for text, or only asked whether they are there. A loop or a sum needs more than text."""
        return self._parts[part].texts

    def segments(self, part: str, columns: Collection[str]) -> tuple[str | Column, ...] | None:
        """The template's own text and the columns of `part`, where it is nothing but these and has `columns` to take.

        Rows whose cells are text are then rendered by joining; None: each has to be rendered by itself.
        """
        found = self._parts[part].segments
        if found is None or _ROW in columns:  # a column called `row` is what `row["name"]` takes its part of
            return None
        return found if all(isinstance(each, str) or each.name in columns for each in found) else None

    def used(self, part: str, row: Collection[str]) -> list[str]:
        """The columns of a row that `part` may use: those it names, or all where it uses `row` as a whole."""
        one = self._parts[part]
        return [name for name in row if one.uses_row or name in one.columns]

    def render_input(self, row: Row) -> str:
        """Render what the model is given for a row.

        Raises:
            AbsentCellError: it prints a cell that is null or a column that the row does not have.
            TemplateError: an expression fails, is not allowed, or takes too much work.
        """
        return self._parts["text_input"].render(row)

    def render(self, row: Row) -> Example:
        """Render a row into an example.

        Raises:
            AbsentCellError, TemplateError: as `render_input`.
        """
        return Example(text_input=self.render_part("text_input", row), output=self.render_part("output", row))

    def render_part(self, part: str, row: Row) -> str:
        """Render one of text_input and output, as `render_input`."""
        return self._parts[part].render(row)


@dataclass(frozen=True)
class _Part:
    """One expression: the columns that it names, and how it is rendered."""

    name: str
    columns: frozenset[str]
    uses_row: bool
    printed: tuple[str, ...]
    texts: frozenset[str]
    segments: tuple[str | Column, ...] | None
    function: Callable[[dict[str, Any]], str]

    @classmethod
    def of(cls, environment: BoundedEnvironment, name: str, text: str) -> _Part:
        key = f"template.{name}"
        try:
            tree = environment.parse(text)
            columns, uses_row = _columns_of(tree)
            texts, segments = _texts(tree) & columns, _segments(tree)
            part = cls(name, columns, uses_row, _printed(tree), texts, segments, environment.compiled(tree, text))
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"{key}: line {error.lineno}: {error.message}; {_advice_on_syntax(text)}") from None
        except (RecursionError, MemoryError, SyntaxError):  # the last two are Python's, of the code that Jinja2 writes
            raise TemplateError(f"{key}: it is nested too deeply; flatten it") from None
        except ValueError as error:
            raise TemplateError(f"{key}: {error}; this is not valid Jinja2") from None
        if not columns and not uses_row:
            part.render({})  # what is wrong with an expression says more than that it names no column
            raise TemplateError(f"{key}: names no column, so all rows would give the same; {_advice_on_braces(text)}")
        return part

    def render(self, row: Row) -> str:
        cells = CellsOfRow(row)
        try:
            return self.function({_ROW: cells, **cells})
        except PrintedError as error:
            what = f"prints {error.column!r}, which is null" if error.is_null else self._missing(error.column, row)
            raise AbsentCellError(f"template.{self.name} {what}", error.column, error.is_null, self.name) from None
        except jinja2.TemplateError as error:
            raise TemplateError(f"template.{self.name}: {_one_line(str(error.message), row)}") from error
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, AssertionError) as error:
            message = _one_line(str(error), row)
            raise TemplateError(f"template.{self.name}: {type(error).__name__}: {message}") from error
        except (RecursionError, MemoryError) as error:
            raise TemplateError(f"template.{self.name}: {type(error).__name__}: it calls itself too often") from error

    def _missing(self, column: str, row: Row) -> str:
        return f"names {column!r}, which the row does not have; it has {', '.join(map(str, row)) or 'none'}"


def _advice_on_syntax(text: str) -> str:
    spaced = _SPACED_NAME.search(text)
    if spaced:
        return f'for a column of that name write {{{{ row["{spaced[1]}"] }}}}'
    return "this is not valid Jinja2"


def _advice_on_braces(text: str) -> str:
    single = _SINGLE_BRACES.search(text)
    return f"write {{{{ {single[1]} }}}} in double braces" if single else "name one: {{ column }}"


def _columns_of(tree: nodes.Template) -> tuple[frozenset[str], bool]:
    """The columns that a template names, and whether it uses `row` other than for a column with a constant name.

    A column is `{{ name }}`, or `{{ row["any name"] }}`, `row.name`, `row.get("any name")`.
    """
    of_row = list(_constant_uses_of_row(tree))
    names = frozenset(meta.find_undeclared_variables(tree))
    uses_row = len(of_row) < sum(name.name == _ROW for name in tree.find_all(nodes.Name))
    return (names - {_ROW}) | set(of_row), uses_row and _ROW in names


def _printed(tree: nodes.Template) -> tuple[str, ...]:
    """The columns that the template's own level prints without a filter, a condition or a loop."""
    shown = [node for output in tree.body if isinstance(output, nodes.Output) for node in output.nodes]
    assigned = {name.name for name in tree.find_all(nodes.Name) if name.ctx != "load"}
    names = (column for node in shown if (column := _column(node)) is not None and column not in assigned)
    return tuple(dict.fromkeys(names))


def _texts(tree: nodes.Template) -> frozenset[str]:
    """The columns that nothing but text is needed of."""
    shown = [node for output in tree.find_all(nodes.Output) for node in output.nodes]
    asked = [*(node.test for node in tree.find_all(nodes.If)), *(node.test for node in tree.find_all(nodes.CondExpr))]
    as_text = [node for node in map(_below_filters, (*shown, *asked)) if _column(node) is not None]
    count = Counter(name for node in tree.find_all((nodes.Name, nodes.Getitem)) if (name := _column(node)) is not None)
    found = Counter(_column(node) for node in as_text)
    return frozenset(name for name, times in count.items() if found[name] == times)


def _below_filters(node: nodes.Node) -> nodes.Node:
    """What filters for text, tests of presence and `not` are applied to."""
    is_filter = isinstance(node, nodes.Filter) and node.node is not None and node.name in _TEXT_FILTERS
    is_test = isinstance(node, nodes.Test) and node.name in _PRESENCE
    return _below_filters(node.node) if is_filter or is_test or isinstance(node, nodes.Not) else node  # type: ignore[attr-defined]


def _segments(tree: nodes.Template) -> tuple[str | Column, ...] | None:
    """The pieces of a template that holds nothing but text and columns; None: it holds more."""
    found: list[str | Column] = []
    for output in tree.body:
        for node in output.nodes if isinstance(output, nodes.Output) else [output]:
            if isinstance(node, nodes.TemplateData):
                found.append(node.data)
            elif (name := _column(node)) is not None:
                found.append(Column(name))
            else:
                return None
    return tuple(found)


def _column(node: nodes.Node) -> str | None:
    """The column that an expression is, as `{{ name }}` or `{{ row["any name"] }}`."""
    if isinstance(node, nodes.Name) and node.name != _ROW:
        return node.name
    if isinstance(node, nodes.Getitem) and _is_row(node.node) and isinstance(node.arg, nodes.Const):
        return str(node.arg.value)
    return None


def _is_row(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Name) and node.name == _ROW


def _constant_uses_of_row(tree: nodes.Template) -> Iterator[str]:
    methods: set[int] = set()
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Getattr) and _is_row(call.node.node):
            methods.add(id(call.node))
            if call.node.attr == "get" and call.args and isinstance(call.args[0], nodes.Const):
                yield str(call.args[0].value)
    for item in tree.find_all(nodes.Getitem):
        if (column := _column(item)) is not None:
            yield column
    for attribute in tree.find_all(nodes.Getattr):
        if _is_row(attribute.node) and id(attribute) not in methods:
            yield attribute.attr


def _one_line(message: str, row: Row) -> str:
    """Return a message of Jinja2 or Python without the cells that it quotes (they may hold secrets), on one line."""
    for cell in row.values():
        if isinstance(cell, str):
            message = message.replace(repr(cell), "'...'")
    message = " ".join(message.split())
    return message if len(message) <= _LONGEST_MESSAGE else message[:_LONGEST_MESSAGE] + "..."
