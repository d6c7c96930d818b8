"""A row becomes an example."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunerun.errors import TemplateError
from tunerun.job import Example
from tunerun.schema import Template
from tunerun.template import PromptTemplate


def _input(text: str, /, **row: Any) -> str:
    return PromptTemplate(Template(text_input=text)).render_input(row)


@given(cell=st.text())
def test_a_cell_is_rendered_unchanged(cell: str) -> None:
    """An expression of one column gives the cell as it is, template syntax and HTML in it included."""
    assert PromptTemplate(Template()).render({"text_input": cell, "output": cell}) == Example(cell, cell)


@pytest.mark.parametrize("cell", ["{{ 7 * 7 }}", "{% raw %}", "{# no #}", "<b>&amp;</b>", "\r\n", "a\n", "\ufeff"])
def test_a_cell_is_no_template(cell: str) -> None:
    """Template syntax, markup and newlines in a cell mean nothing."""
    assert _input("{{ text }}", text=cell) == cell


def test_text_around() -> None:
    """Text around the expressions stays, in any script, with its last newline."""
    assert _input("Größe: {{ größe }} 📏\n\n", größe="5 µm") == "Größe: 5 µm 📏\n\n"


def test_columns() -> None:
    """The columns are those that the expressions name; the template's own variables are none."""
    template = PromptTemplate(
        Template(text_input="{% set x = a %}{{ x }}{% for y in b %}{{ y }}{% endfor %}", output="{{ c | upper }}")
    )
    assert template.input_columns == {"a", "b"}
    assert template.columns == {"a", "b", "c"}


def test_render_input_needs_only_its_columns() -> None:
    """An input is rendered without the columns of the output; an example is not."""
    template = PromptTemplate(Template(text_input="Q: {{ q }}", output="{{ a }}"))
    assert template.render_input({"q": "1"}) == "Q: 1"
    with pytest.raises(TemplateError, match=r"^template\.output names 'a', which the row has not; it has q$"):
        template.render({"q": "1"})


@pytest.mark.parametrize("name", ["dict", "range", "lipsum", "cycler", "joiner", "namespace"])
def test_no_name_stands_in_for_a_column(name: str) -> None:
    """A column that is missing is an error even where Jinja has something of its own under that name."""
    assert _input(f"{{{{ {name} }}}}", **{name: "cell"}) == "cell"
    with pytest.raises(TemplateError, match=f"template.text_input names '{name}', which the row has not"):
        _input(f"{{{{ {name} }}}}", text="1")


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ text.__class__ }}",
        "{{ text | attr('__class__') }}",
        "{{ self.__init__.__globals__ }}",
        "{{ '{0.__class__}'.format(text) }}",
        "{{ items.append(1) }}",
    ],
)
def test_sandbox(text: str) -> None:
    """An expression reaches no inner attribute and changes nothing."""
    with pytest.raises(TemplateError, match=r"^template\.text_input: .*unsafe"):
        _input(text, text="x", items=[])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{{ text.nope }}", "'str object' has no attribute 'nope'"),
        ("{{ meta.nope }}", "'dict object' has no attribute 'nope'"),
        ("{{ items[9] }}", "list object has no element 9"),
        ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
        ("{{ text + 1 }}", "TypeError: can only concatenate str"),
        ("{{ text | xmlattr }}", "AttributeError: 'str' object has no attribute 'items'"),
        ("{% include 'x' %}", "TypeError: no loader for this environment"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError: "),
        ("{{ meta.items }}", "an expression gives a function instead of a value; write cell"),
        ("{{ text.upper }}", "an expression gives a function instead of a value; write cell"),
        ("{{ 'a'.upper }}", "an expression gives a function instead of a value; write cell"),
        ("{{ self }}", "an expression gives a function instead of a value; write cell"),
    ],
)
def test_failing_expression(text: str, problem: str) -> None:
    """An expression that gives no value is an error, never a silent gap or the name of a function in a prompt."""
    with pytest.raises(TemplateError, match=rf"^template\.text_input: {problem}"):
        _input(text, text="x", items=[1], meta={"items": 1})


def test_failing_expression_keeps_the_cell_to_itself() -> None:
    """A cell is not repeated in an error: it may hold a secret."""
    with pytest.raises(TemplateError, match=r"^template\.text_input: 'dict object' has no attribute '\.\.\.'$"):
        _input("{{ {'a': 'b'}[text] }}", text="hunter2")


def test_key_of_an_object() -> None:
    """A cell that is an object gives its keys, also those that have the name of a method."""
    assert _input("{{ meta['items'] }} {{ meta.title }}", meta={"items": 1, "title": "x"}) == "1 x"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a\n{{ b", "line 2: unexpected end of template"),
        ("a\n\n{% if %}", "line 3: Expected an expression"),
        ("{% break %}", "line 1: Encountered unknown tag 'break'"),
        ("{{ a | nope }}", "line 1: No filter named 'nope'"),
        ("{{ a | random }}", "line 1: No filter named 'random'"),
        ("{{ " + "(" * 5000, "it is nested too deeply; flatten it"),
    ],
)
def test_invalid_template(text: str, problem: str) -> None:
    """A template that is no Jinja2, or would give something else each time, is refused with its key and line."""
    with pytest.raises(TemplateError, match=rf"^template\.output: {problem}"):
        PromptTemplate(Template(output=text))


def test_both_parts_are_checked() -> None:
    """Mistakes in both expressions are told at once."""
    with pytest.raises(TemplateError, match=r"template\.text_input: .*\ntemplate\.output: ") as refused:
        PromptTemplate(Template(text_input="{{ a", output="{{ b"))
    assert len(refused.value.problems) == 2


def test_a_column_whose_name_is_no_identifier_is_named_by_subscript() -> None:
    """`row["any name"]` is the column of that name, and is asked for as any other."""
    template = PromptTemplate(Template(text_input='{{ row["Länge (cm)"] }} {{ unit }}', output="{{ row['my col'] }}"))
    assert template.columns == {"Länge (cm)", "unit", "my col"}
    assert template.render({"Länge (cm)": 3, "unit": "cm", "my col": "x"}) == Example("3 cm", "x")
    with pytest.raises(TemplateError, match=r"names 'my col', which the row has not"):
        template.render({"Länge (cm)": 3, "unit": "cm"})


def test_a_column_may_be_called_row() -> None:
    """A column named `row` is a column."""
    assert PromptTemplate(Template(text_input="{{ row }}", output="x")).render({"row": "7"}) == Example("7", "x")
