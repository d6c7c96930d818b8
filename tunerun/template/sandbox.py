"""A Jinja2 sandbox that also limits how much work a template may do.

Jinja2's own sandbox keeps a template away from Python's internals, but lets `{{ [1] * 10**10 }}` fill the memory. Here
each operation is charged for before it is done, and a template that has used up its work is refused.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from string import Formatter
from types import BuiltinMethodType, MethodType
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateRuntimeError
from jinja2.runtime import Context, LoopContext, TemplateReference
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.visitor import NodeTransformer

from tunerun.template.absent_cells import Absent, is_null
from tunerun.template.json_text import to_json

MOST_WORK = 20_000_000
"""Characters that rendering one row may read and write, all operations together. Ours: a training file of the Gemini
API has 4 MB in all, and 20 million take less than a second (measured 2026-11-26)."""

_LEAST_WORK = 100
"""Least charge for a turn of a loop or a call, in characters: it takes as much time as some hundred of them."""

MOST_BITS = 10_000
"""Largest whole number, in bits: 3,000 digits. Python refuses to print one of more than 4,300."""

_CONCATENATED, _MEASURED, _COUNTED = "~", "[]", "for"
"""Filters that only `_Charging` writes: no template can name them."""

_DIGITS = re.compile(r"\d+")
_RUNS = re.compile(r"\S+|\s+")

_REFUSED_METHODS = frozenset({"encode", "translate", "maketrans"})
"""Methods of texts: bytes cannot be printed, and a translation may write a text of any length for each character."""

_METHODS_OF_OTHERS = frozenset(
    {"get", "items", "keys", "values", "count", "index", "isoformat", "strftime", "date", "time"}
)
"""Methods of mappings, lists and dates; what others would cost is unknown, such as `to_bytes` of a number."""


class TooMuchWorkError(TemplateRuntimeError):
    """A template does more than `MOST_WORK`."""


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """A sandbox with a limit on work, for one thread at a time."""

    # Without this, Jinja2 compiles operators to Python's and never calls `call_binop`.
    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self) -> None:
        # Not optimised: Jinja2 would evaluate constant expressions when it compiles them, before any row is rendered.
        super().__init__(undefined=Absent, keep_trailing_newline=True, finalize=self._printable, optimized=False)
        # Jinja's own names would replace a column that is missing (dict, range), and lipsum and random would give
        # other examples, so another key, each time.
        self.globals.clear()
        del self.filters["random"]
        self.filters["tojson"] = to_json
        self.tests["none"] = lambda value: value is None or (isinstance(value, Absent) and value.is_null)
        self.tests = {name: self._bounded_test(function) for name, function in self.tests.items()}
        self.filters = {name: self._bounded(name, function) for name, function in self.filters.items()}
        self.filters |= {_CONCATENATED: self._concatenated, _MEASURED: self._measured, _COUNTED: self._counted}
        self._left = MOST_WORK
        self._turn = _LEAST_WORK

    def compiled(self, tree: nodes.Template, source: str) -> Callable[[dict[str, Any]], str]:
        """Return a function that renders the template for the names of a row; `tree` is changed.

        Raises:
            TemplateSyntaxError: Jinja2 cannot compile it. SyntaxError, RecursionError, MemoryError: Python cannot.
        """
        self._left = MOST_WORK
        template = self.from_string(_Charging().visit(tree))

        def render(names: dict[str, Any]) -> str:
            # A turn of a loop, or a call, prints at most the template's own text besides what is charged elsewhere.
            self._left, self._turn = MOST_WORK, _LEAST_WORK + len(source)
            return template.render(names)

        return render

    def charge(self, work: int) -> None:
        """Take work from what is left of the template.

        Raises:
            TooMuchWorkError: it is used up.
        """
        self._left -= work
        if self._left < 0:
            raise TooMuchWorkError(
                f"it would read and write more than {MOST_WORK:,} characters for one row; make it do less"
            )

    def measure(self, value: Any) -> int:
        """Return about how many characters a value has when it is printed; the walk through it is charged for."""
        if isinstance(value, str):
            return len(value)
        if isinstance(value, Mapping):
            return self._measure_all(item for pair in value.items() for item in pair)
        if isinstance(value, list | tuple | set | frozenset):
            return self._measure_all(value)
        return 8 if not isinstance(value, int) else 8 + value.bit_length() // 3  # a decimal digit has 3.3 bits

    def _measure_all(self, values: Iterable[Any]) -> int:
        total = 2
        for value in values:
            self.charge(8)
            total += 2 + self.measure(value)
        return total

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Do a binary operation, unless its result would be too large.

        Raises:
            TooMuchWorkError: a number of more than `MOST_BITS`, or more characters than the template has left.
        """
        if isinstance(left, int) and isinstance(right, int):
            bits = (left.bit_length(), right.bit_length())
            growth = {"**": bits[0] * max(right, 1), "*": sum(bits)}.get(operator, 0)
            if max(*bits, growth) > MOST_BITS:
                raise TooMuchWorkError(f"a number would have more than {MOST_BITS:,} bits; use a smaller one")
        elif operator == "%" and isinstance(left, str):
            self._charge_format(left, right)
        elif operator == "*" and isinstance(left, int) != isinstance(right, int):
            sequence, count = (right, left) if isinstance(left, int) else (left, right)
            if hasattr(sequence, "__len__") and not isinstance(sequence, Absent):
                self.charge(len(sequence) * max(count, 0))
        elif operator == "+":
            self.charge(sum(len(side) for side in (left, right) if isinstance(side, str | list | tuple)))
        return super().call_binop(context, operator, left, right)

    def _charge_format(self, form: str, values: Any) -> None:
        """Charge for `form % values` at its longest: each conversion with the longest of the values."""
        if "*" in form:  # the width would be one of the values
            raise TooMuchWorkError("a width of * in a format is not allowed; write the number")
        every = values.values() if isinstance(values, Mapping) else values if isinstance(values, tuple) else (values,)
        longest = max((self.measure(value) for value in every), default=0)
        self.charge(len(form) + form.count("%") * longest + _widths(form))

    def call(self, context: Context, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a macro, or a method whose work is known to be bounded."""
        self.charge(self._turn)  # also what bounds a macro that calls itself twice
        owner = getattr(function, "__self__", None)
        if isinstance(function, LoopContext):  # `loop(items)` of a recursive loop
            args = tuple(map(self._counted, args))
        elif isinstance(function, BuiltinMethodType | MethodType) and not isinstance(owner, LoopContext):
            self._check_method(owner, function.__name__, args, kwargs)
        result = super().call(context, function, *args, **kwargs)
        self.charge(self.measure(result))
        return result

    def _check_method(self, owner: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if name in _REFUSED_METHODS if isinstance(owner, str) else name not in _METHODS_OF_OTHERS:
            raise SecurityError(f"the method {name!r} of {type(owner).__name__!r} is not offered; use a filter")
        if not isinstance(owner, str):
            return
        arguments = [*args, *kwargs.values()]
        self.charge(len(owner) + self.measure(arguments))
        if name in ("center", "ljust", "rjust", "zfill", "expandtabs"):
            spaces = max((number for number in arguments if isinstance(number, int)), default=8)
            self.charge(max(spaces, 0) * (owner.count("\t") if name == "expandtabs" else 1))
        elif name == "replace":
            self._charge_replace(owner, *map(str, arguments[:2]))
        elif name == "join" and args:  # what has no length may be endless, and is refused
            self.charge(len(owner) * len(args[0]) if hasattr(args[0], "__len__") else self._left + 1)

    def _charge_replace(self, text: str, old: str, new: str) -> None:
        self.charge((text.count(old) + 1) * len(new) + len(text))

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return an attribute or a key; null is absent, as it is in a column."""
        return _null_as_absent(super().getattr(obj, attribute), attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Return a key or an attribute; null is absent, as it is in a column."""
        return _null_as_absent(super().getitem(obj, argument), argument)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Return `str.format` of a text, with fields that are charged for."""
        if not isinstance(value, MethodType | BuiltinMethodType) or value.__name__ not in ("format", "format_map"):
            return None
        text = value.__self__
        if not isinstance(text, str):
            return None
        formatter, is_map = _BoundedFormatter(self), value.__name__ == "format_map"

        def format_text(*args: Any, **kwargs: Any) -> str:
            return formatter.vformat(text, () if is_map else args, args[0] if is_map else kwargs)

        return format_text

    def _bounded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a filter that is charged for its input, for the growth its arguments allow, and for its result."""
        first = 1 if hasattr(function, "jinja_pass_arg") else 0  # after a context or an environment
        growth = _GROWTH.get(name)

        @functools.wraps(function)
        def bounded(*args: Any, **kwargs: Any) -> Any:
            before, (value, *more) = args[:first], args[first:]
            if name in _READ_ALL and isinstance(value, Iterable) and not isinstance(value, _MEASURABLE):
                value = list(self._counted(value))
            self.charge(self.measure(value))
            if growth is not None and not isinstance(value, Absent):
                growth(self, value, *more, **kwargs)
            result = function(*before, value, *more, **kwargs)
            self.charge(self.measure(result))
            return result

        return bounded

    def _bounded_test(self, function: Any) -> Callable[..., Any]:
        @functools.wraps(function)
        def bounded(*args: Any, **kwargs: Any) -> Any:
            self.charge(sum(map(self.measure, args)))
            return function(*args, **kwargs)

        return bounded

    def _concatenated(self, values: list[Any]) -> str:
        self.charge(self.measure(values))
        return "".join(str(self._printable(value)) for value in values)

    def _measured(self, value: Any) -> Any:
        self.charge(self.measure(value))
        return value

    def _counted(self, values: Any) -> Iterator[Any]:
        """Yield the values of a loop, with a charge for each turn; an absent cell has none."""
        if isinstance(values, Absent) and values._undefined_hint is None:
            return
        for value in values:
            self.charge(self._turn)
            yield value

    def _printable(self, value: Any) -> Any:
        """Return what `{{ }}` prints: text and numbers as they are, true and false as JSON writes them."""
        if isinstance(value, str):
            self.charge(len(value))
            return value
        if isinstance(value, bool):
            return "true" if value else "false"
        if value is None:
            raise TemplateRuntimeError("an expression gives null instead of text; write {{ column or '' }} if it may")
        if isinstance(value, float) and str(value) in ("inf", "-inf"):
            raise TemplateRuntimeError("an expression gives infinity instead of text; write the number, or remove it")
        if isinstance(value, Absent | int | float):
            return value
        if isinstance(value, TemplateReference) or callable(value):
            raise TemplateRuntimeError(
                "an expression gives a function instead of a value; write cell['name'] for a key"
            )
        if isinstance(value, dict | list | tuple):
            raise TemplateRuntimeError(
                f"an expression gives {'an object' if isinstance(value, dict) else 'a list'} instead of text; write "
                "{{ cell | tojson }} for its JSON, or cell['name'] for a part of it"
            )
        if isinstance(value, bytes | bytearray):
            raise TemplateRuntimeError("an expression gives bytes instead of text; store the column as text")
        return value


def _null_as_absent(value: Any, name: Any) -> Any:
    return Absent(name=str(name), is_null=True) if is_null(value) else value


class _Charging(NodeTransformer):
    """Adds a charging filter where Jinja2 has no hook: at `~`, lists, slices, comparisons, and the values of loops."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - the name is Jinja2's
        self.generic_visit(node)
        node.iter = _filtered(node.iter, _COUNTED)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), _CONCATENATED)

    def visit_List(self, node: nodes.List | nodes.Dict | nodes.Tuple) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        # A tuple may also be what a loop or `set` assigns to.
        return node if getattr(node, "ctx", "load") != "load" else _filtered(node, _MEASURED)

    visit_Dict = visit_Tuple = visit_List  # noqa: N815

    def visit_Operand(self, node: nodes.Operand) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.expr = _filtered(node.expr, _MEASURED)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filtered(node, _MEASURED) if isinstance(node.arg, nodes.Slice) else node


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class _BoundedFormatter(SandboxedFormatter):
    """`str.format` whose fields are charged for."""

    def __init__(self, environment: BoundedEnvironment) -> None:
        super().__init__(environment)
        self._bounds = environment

    def format_field(self, value: Any, format_spec: str) -> Any:
        self._bounds.charge(self._bounds.measure(value) + _widths(format_spec))
        return super().format_field(value, format_spec)

    def convert_field(self, value: Any, conversion: Any) -> Any:
        self._bounds.charge(self._bounds.measure(value))
        return Formatter.convert_field(self, value, conversion)


def _widths(form: str) -> int:
    """Return the sum of all numbers in a format, some of which are widths; a long number counts as too much work."""
    # To find the widths alone, the format's grammar would have to be parsed, for `%` and for `str.format`.
    return sum(int(digits) if len(digits) < 10 else 10**10 for digits in _DIGITS.findall(form))


def _number(value: Any) -> int:
    return abs(int(value)) if isinstance(value, int | float) and abs(value) < 1e12 else 10**12


def _grows_by_lines(bounds: BoundedEnvironment, value: Any, width: Any = 4, *_more: Any, **_named: Any) -> None:
    indent = len(width) if isinstance(width, str) else _number(width)
    bounds.charge((str(value).count("\n") + 1) * indent)


def _grows_by_breaks(
    bounds: BoundedEnvironment,
    value: Any,
    width: Any = 79,
    _break_long_words: Any = True,
    wrapstring: Any = None,
    *_more: Any,
    **_named: Any,
) -> None:
    text = str(value)
    bounds.charge(len(text) * len(str(wrapstring or "\n")))
    # textwrap copies what is left of a long word for each line that it breaks off.
    longest = max(map(len, _RUNS.findall(text)), default=0)
    bounds.charge(longest * longest // max(_number(width), 1))


def _grows_by_filling(bounds: BoundedEnvironment, _value: Any, count: Any = 0, *_more: Any, **named: Any) -> None:
    bounds.charge(_number(named.get("linecount", named.get("slices", count))))


def _grows_by_indenting(bounds: BoundedEnvironment, value: Any, indent: Any = None, *_more: Any, **_named: Any) -> None:
    if indent is not None:
        bounds.charge(bounds.measure(value) * _number(indent))


def _grows_by_digits(_bounds: BoundedEnvironment, _value: Any, precision: Any = 0, *_more: Any, **_named: Any) -> None:
    if _number(precision) > MOST_BITS // 4:
        raise TooMuchWorkError(f"round takes a precision of at most {MOST_BITS // 4:,}")


def _adds_numbers(_bounds: BoundedEnvironment, _value: Any, _attribute: Any = None, start: Any = 0) -> None:
    if not isinstance(start, int | float):
        raise TooMuchWorkError("sum adds numbers; use + for lists")


_GROWTH: dict[str, Callable[..., None]] = {
    "center": lambda bounds, _value, width=80, *_more, **_named: bounds.charge(_number(width)),
    "indent": _grows_by_lines,
    "wordwrap": _grows_by_breaks,
    "replace": lambda bounds, value, old, new, *_more, **_named: bounds._charge_replace(str(value), str(old), str(new)),
    # markupsafe copies the whole text for each tag that it removes; copying is sixty times as fast as the rest.
    "striptags": lambda bounds, value: bounds.charge(len(str(value)) * str(value).count("<") // 64),
    "join": lambda bounds, value, d="", *_more, **_named: bounds.charge(len(value) * len(str(d))),
    "format": lambda bounds, value, *args, **kwargs: bounds._charge_format(str(value), kwargs or args),
    "batch": _grows_by_filling,
    "slice": _grows_by_filling,
    "round": _grows_by_digits,
    "tojson": _grows_by_indenting,
    "sum": _adds_numbers,
}
"""Charges for what the arguments of a filter let it write beyond its input; the arguments have Jinja2's names."""

_READ_ALL = frozenset({"join", "list", "sum", "tojson"})
"""Filters that read a generator to its end in one go."""

_MEASURABLE = (str, Mapping, list, tuple, Absent)
