"""Renders a row into an example: Jinja2, sandboxed, with a limit on work, and strict about missing cells.

The same object renders training rows and the inputs of `predict`, so that a tuned model gets prompts of the form that
it was trained with.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jinja2
from jinja2 import meta, nodes

from tunerun.errors import TemplateError
from tunerun.examples import Conversation, Example, Input, Turn
from tunerun.template.absent_cells import AbsentCellError, CellsOfRow, PrintedError
from tunerun.template.sandbox import BoundedEnvironment

Row = Mapping[str, Any]

_ROW = "row"
"""Holds the whole row in a template, for columns whose names are not identifiers."""

_LONGEST_MESSAGE = 300
"""Most characters of a message of Jinja2 or Python that an error quotes. Ours: it stays a few lines in a terminal."""

_TEXT_FILTERS = frozenset(
    {"capitalize", "center", "d", "default", "e", "escape", "indent", "lower", "replace", "string", "title", "trim"}
    | {"truncate", "upper"}
)
"""Filters for text: a column that passes only through these may be given as text, whatever its type was."""

_PRESENCE = frozenset({"defined", "undefined", "none", "string"})
"""Tests of whether a cell is there, and whether it is text."""

_SINGLE_BRACES = re.compile(r"(?<![{%])\{\s*([^\W\d]\w*)\s*\}(?![}%])")
_SPACED_NAME = re.compile(r"\{\{-?\s*([^\W\d]\w*(?:[ -]+\w+)+)\s*-?\}\}")


TEXT_INPUT, OUTPUT, SYSTEM = "text_input", "output", "system"
"""The expressions of a template, and the columns that a conversation provides for its turns and system message."""


class TemplateParts(Protocol):
    """The expressions as text: the config's section, or what is stored of it."""

    @property
    def text_input(self) -> str:
        """The model's input."""

    @property
    def output(self) -> str:
        """The expected answer."""

    @property
    def system(self) -> str | None:
        """The system message; None: that of the row's own conversation, if it has one."""


@dataclass(frozen=True)
class PrintedColumn:
    """A place in a template where a column's cell is printed as it is."""

    name: str


class PromptTemplate:
    """The expressions of a `Template`, compiled. One thread may use it at a time.

    A row that is a conversation is rendered turn by turn: `text_input` and `output` see each turn's messages under
    their own names, and the row's other columns unchanged.

    Args:
        template: the config's template section.

    Raises:
        TemplateError: a syntax error, or a text_input or an output that names no column; names the key, such as
            `template.text_input`, and the line.
    """

    def __init__(self, template: TemplateParts) -> None:
        self.template = template
        # One environment for all parts: it counts the work of one rendering at a time.
        environment = BoundedEnvironment()
        self._parts: dict[str, _Part] = {}
        problems: list[str] = []
        for part, text in ((TEXT_INPUT, template.text_input), (OUTPUT, template.output), (SYSTEM, template.system)):
            try:
                if text is not None:
                    self._parts[part] = _Part.of(environment, part, text)
            except TemplateError as error:
                problems += error.problems
        if problems:
            raise TemplateError(problems)

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of its expressions: text_input, output, and system if the template has one."""
        return tuple(self._parts)

    def columns_of(self, part: str) -> frozenset[str]:
        """Return the columns that an expression (text_input, output or system) names; none if the template lacks it."""
        return self._parts[part].columns if part in self._parts else frozenset()

    @property
    def input_columns(self) -> frozenset[str]:
        """The columns that `text_input` and `system` name."""
        return self.columns_of(TEXT_INPUT) | self.columns_of(SYSTEM)

    @property
    def columns(self) -> frozenset[str]:
        """The columns that any expression names."""
        return self.input_columns | self.columns_of(OUTPUT)

    @property
    def sends_own_system(self) -> bool:
        """Whether the system message of a row's conversation is sent unchanged, because no expression names it."""
        return SYSTEM not in self._parts and SYSTEM not in self.columns_of(TEXT_INPUT)

    @property
    def uses_row(self) -> bool:
        """Whether an expression uses `row` as a whole, so that it may use any column."""
        return any(part.uses_row for part in self._parts.values())

    def printed(self, part: str) -> tuple[str, ...]:
        """Return the columns that an expression always prints, without a filter or a condition."""
        return self._parts[part].printed

    def texts(self, part: str) -> frozenset[str]:
        """Return the columns of an expression whose cells may be given as text.

        They are printed, perhaps through filters for text, or tested for presence; a loop or a sum needs more.
        """
        return self._parts[part].texts

    def segments(self, part: str, columns: Collection[str]) -> tuple[str | PrintedColumn, ...] | None:
        """Return the pieces of an expression that consists of text and columns alone.

        Args:
            part: text_input, output or system.
            columns: those that the rows have.

        Returns:
            Rows whose cells are text can be rendered by joining the pieces. None: Jinja2 has to render each row.
        """
        segments = self._parts[part].segments
        if segments is None or _ROW in columns:  # `row["name"]` then reads from the column called `row`
            return None
        return segments if all(isinstance(each, str) or each.name in columns for each in segments) else None

    def used(self, part: str, row: Collection[str]) -> list[str]:
        """Return the columns of a row that an expression may use: those it names, or all if it uses `row` itself."""
        one = self._parts[part]
        return [name for name in row if one.uses_row or name in one.columns]

    def render_input(self, row: Row, conversation: Conversation | None = None) -> Input:
        """Render the model's input for a row.

        Args:
            row: its columns; of a conversation, `text_input` is the last message of the user.
            conversation: the messages before that, as they were read.

        Returns:
            A text, or a conversation if there is a system message or an earlier turn.

        Raises:
            AbsentCellError: it prints a cell that is null or a column that the row does not have.
            TemplateError: an expression fails, is not allowed, or takes too much work; or `output` cannot render the
                answers of earlier turns because it does not name the column `output`.
        """
        text = self._parts[TEXT_INPUT].render(row)
        system, earlier = self._system(row, conversation), self._earlier(row, conversation)
        return Conversation(text, system, earlier) if system or earlier else text

    def render(self, row: Row, conversation: Conversation | None = None) -> Example:
        """Render a row into an example.

        Args:
            row, conversation: as `render_input`; `output` is the last answer.

        Raises:
            AbsentCellError, TemplateError: as `render_input`.
        """
        return Example(
            text_input=self.render_part(TEXT_INPUT, row),
            output=self.render_part(OUTPUT, row),
            system=self._system(row, conversation),
            earlier=self._earlier(row, conversation),
        )

    def render_part(self, part: str, row: Row) -> str:
        """Render one of its expressions; raises as `render_input`."""
        return self._parts[part].render(row)

    def _system(self, row: Row, conversation: Conversation | None) -> str:
        if SYSTEM in self._parts:
            return system_or_none(self.render_part(SYSTEM, row))
        return conversation.system if conversation is not None and self.sends_own_system else ""

    def _earlier(self, row: Row, conversation: Conversation | None) -> tuple[Turn, ...]:
        if conversation is None or not conversation.earlier:
            return ()
        self.check_turns()
        turns: list[Turn] = []
        for turn in conversation.earlier:
            cells = {**row, TEXT_INPUT: turn.text_input, OUTPUT: turn.output}
            turns.append(Turn(self.render_part(TEXT_INPUT, cells), self.render_part(OUTPUT, cells), turn.is_learned))
        return tuple(turns)

    def check_turns(self) -> None:
        """Raise if conversations of several turns cannot be rendered.

        Raises:
            TemplateError: an expression does not name the column of its own name, so that all turns would be the same.
        """
        problems = [
            f"template.{part}: does not name {{{{ {part} }}}}, so that all turns of a conversation would be the same; "
            "name it, or use rows of one turn"
            for part in (TEXT_INPUT, OUTPUT)
            if part not in self.columns_of(part)
        ]
        if problems:
            raise TemplateError(problems)


@dataclass(frozen=True)
class _Part:
    """One expression: the columns that it names, and how it is rendered."""

    name: str
    columns: frozenset[str]
    uses_row: bool
    printed: tuple[str, ...]
    texts: frozenset[str]
    segments: tuple[str | PrintedColumn, ...] | None
    function: Callable[[dict[str, Any]], str]

    @classmethod
    def of(cls, environment: BoundedEnvironment, name: str, text: str) -> _Part:
        """Compile an expression; raises as `PromptTemplate`."""
        key = f"template.{name}"
        try:
            tree = environment.parse(text)
            columns, uses_row = _columns_of(tree)
            texts, segments = _texts(tree) & columns, _segments(tree)
            # Last, because `compiled` changes the tree.
            part = cls(name, columns, uses_row, _printed(tree), texts, segments, environment.compiled(tree, text))
        except jinja2.TemplateSyntaxError as error:
            # Such as {{ customer name }}, for a column of that name.
            spaced = _SPACED_NAME.search(text)
            advice = "this is not valid Jinja2"
            if spaced:
                advice = f'for a column of that name write {{{{ row["{spaced[1]}"] }}}}'
            raise TemplateError(f"{key}: line {error.lineno}: {error.message}; {advice}") from None
        except (RecursionError, MemoryError, SyntaxError):  # the last two are Python's, of the code that Jinja2 writes
            raise TemplateError(f"{key}: it is nested too deeply; flatten it") from None
        except ValueError as error:
            raise TemplateError(f"{key}: {error}; this is not valid Jinja2") from None
        if not columns and not uses_row and name != SYSTEM:  # one system message for all rows is the common case
            part.render({})  # what is wrong with an expression says more than that it names no column
            single = _SINGLE_BRACES.search(text)
            advice = f"write {{{{ {single[1]} }}}} in double braces" if single else "name one: {{ column }}"
            raise TemplateError(f"{key}: names no column, so all rows would give the same; {advice}")
        return part

    def render(self, row: Row) -> str:
        """Return the text for a row; raises as `PromptTemplate.render_input`."""
        cells = CellsOfRow(row)
        try:
            return self.function({_ROW: cells, **cells})  # a column called `row` hides the row
        except PrintedError as error:
            what = f"prints {error.column!r}, which is null"
            if not error.is_null:
                columns = ", ".join(map(str, row)) or "none"
                what = f"names {error.column!r}, which the row does not have; it has {columns}"
            raise AbsentCellError(f"template.{self.name} {what}", error.column, error.is_null, self.name) from None
        except jinja2.TemplateError as error:
            raise TemplateError(f"template.{self.name}: {_one_line(str(error.message), row)}") from error
        # What Jinja2's filters and Python's methods raise for arguments that they cannot take; `truncate` asserts.
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, AssertionError) as error:
            message = _one_line(str(error), row)
            raise TemplateError(f"template.{self.name}: {type(error).__name__}: {message}") from error
        except (RecursionError, MemoryError) as error:
            raise TemplateError(f"template.{self.name}: {type(error).__name__}: it calls itself too often") from error


def system_or_none(text: str) -> str:
    """Return a rendered system message; empty if it is blank, which means that there is none."""
    return text if text.strip() else ""


def _columns_of(tree: nodes.Template) -> tuple[frozenset[str], bool]:
    """Return the columns that a template names, and whether it uses `row` other than for one with a constant name.

    A column is `{{ name }}`, or `{{ row["any name"] }}`, `row.name`, `row.get("any name")`.
    """
    of_row: list[str] = []
    methods: set[int] = set()  # by id: nodes of Jinja2 are equal where they read alike
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Getattr) and _is_row(call.node.node):
            methods.add(id(call.node))
            if call.node.attr == "get" and call.args and isinstance(call.args[0], nodes.Const):
                of_row.append(str(call.args[0].value))
    of_row += [column for item in tree.find_all(nodes.Getitem) if (column := _column(item)) is not None]
    for attribute in tree.find_all(nodes.Getattr):
        if _is_row(attribute.node) and id(attribute) not in methods:
            of_row.append(attribute.attr)

    names = frozenset(meta.find_undeclared_variables(tree))
    # Each use that names a constant column has one `row` in it; where there are more, `row` is used as a whole.
    uses_row = len(of_row) < sum(name.name == _ROW for name in tree.find_all(nodes.Name))
    return (names - {_ROW}) | set(of_row), uses_row and _ROW in names


def _printed(tree: nodes.Template) -> tuple[str, ...]:
    """Return the columns that a template prints at its top level, without a filter, a condition or a loop."""
    printed = [node for output in tree.body if isinstance(output, nodes.Output) for node in output.nodes]
    # A name that `set` or a loop assigns is not the column of that name.
    assigned = {name.name for name in tree.find_all(nodes.Name) if name.ctx != "load"}
    names = (column for node in printed if (column := _column(node)) is not None and column not in assigned)
    return tuple(dict.fromkeys(names))


def _texts(tree: nodes.Template) -> frozenset[str]:
    """Return the columns whose cells may be given as text, because all uses of them print or test them."""
    printed = [node for output in tree.find_all(nodes.Output) for node in output.nodes]
    tested = [*(node.test for node in tree.find_all(nodes.If)), *(node.test for node in tree.find_all(nodes.CondExpr))]
    as_text = [node for node in map(_below_filters, (*printed, *tested)) if _column(node) is not None]
    count = Counter(name for node in tree.find_all((nodes.Name, nodes.Getitem)) if (name := _column(node)) is not None)
    count_as_text = Counter(_column(node) for node in as_text)
    return frozenset(name for name, times in count.items() if count_as_text[name] == times)


def _below_filters(node: nodes.Node) -> nodes.Node:
    """Return what filters for text, tests of presence and `not` are applied to."""
    is_filter = isinstance(node, nodes.Filter) and node.node is not None and node.name in _TEXT_FILTERS
    is_test = isinstance(node, nodes.Test) and node.name in _PRESENCE
    return _below_filters(node.node) if is_filter or is_test or isinstance(node, nodes.Not) else node  # type: ignore[attr-defined]


def _segments(tree: nodes.Template) -> tuple[str | PrintedColumn, ...] | None:
    """Return the pieces of a template that consists of text and columns alone; None: it has more."""
    segments: list[str | PrintedColumn] = []
    for output in tree.body:
        for node in output.nodes if isinstance(output, nodes.Output) else [output]:
            if isinstance(node, nodes.TemplateData):
                segments.append(node.data)
            elif (name := _column(node)) is not None:
                segments.append(PrintedColumn(name))
            else:
                return None
    return tuple(segments)


def _column(node: nodes.Node) -> str | None:
    """Return the column that an expression reads, as `{{ name }}` or `{{ row["any name"] }}`; None: it is not one."""
    if isinstance(node, nodes.Name) and node.name != _ROW:
        return node.name
    if isinstance(node, nodes.Getitem) and _is_row(node.node) and isinstance(node.arg, nodes.Const):
        return str(node.arg.value)
    return None


def _is_row(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Name) and node.name == _ROW


def _one_line(message: str, row: Row) -> str:
    """Return a message of Jinja2 or Python on one line, without the cells that it quotes: they may hold secrets."""
    for cell in row.values():
        if isinstance(cell, str):
            message = message.replace(repr(cell), "'...'")
    message = " ".join(message.split())
    return message if len(message) <= _LONGEST_MESSAGE else message[:_LONGEST_MESSAGE] + "..."
