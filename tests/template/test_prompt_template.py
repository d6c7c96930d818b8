"""A row becomes an example."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunerun.errors import TemplateError
from tunerun.examples import Example
from tunerun.schema import Template
from tunerun.template import AbsentCellError, PromptTemplate

PLAIN = PromptTemplate(Template())


def _input(text: str, /, **row: Any) -> str:
    return PromptTemplate(Template(text_input=text)).render_part("text_input", row)


@given(cell=st.text())
def test_a_cell_is_rendered_unchanged(cell: str) -> None:
    """An expression of one column gives the cell as it is, template syntax and HTML in it included."""
    assert PLAIN.render({"text_input": cell, "output": cell}) == Example(cell, cell)


@pytest.mark.parametrize("cell", ["{{ 7 * 7 }}", "{% raw %}", "{# no #}", "<b>&amp;</b>", "\r\n", "a\n", "\ufeff"])
def test_a_cell_is_not_a_template(cell: str) -> None:
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
    with pytest.raises(TemplateError, match=r"^template\.output names 'a', which the row does not have; it has q$"):
        template.render({"q": "1"})


@pytest.mark.parametrize("name", ["dict", "range", "lipsum", "cycler", "joiner", "namespace"])
def test_no_name_of_jinja2_replaces_a_missing_column(name: str) -> None:
    """A column that is missing is an error even where Jinja has something of its own under that name."""
    assert _input(f"{{{{ {name} }}}}", **{name: "cell"}) == "cell"
    with pytest.raises(TemplateError, match=f"template.text_input names '{name}', which the row does not have"):
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
    """A template that is not valid Jinja2, or would differ at each call, is refused with its key and line."""
    with pytest.raises(TemplateError, match=rf"^template\.output: {problem}"):
        PromptTemplate(Template(output=text))


def test_both_parts_are_checked() -> None:
    """Mistakes in both expressions are reported at once."""
    with pytest.raises(TemplateError, match=r"template\.text_input: .*\ntemplate\.output: ") as refused:
        PromptTemplate(Template(text_input="{{ a", output="{{ b"))
    assert len(refused.value.problems) == 2


def test_a_column_whose_name_is_not_an_identifier_is_named_by_subscript() -> None:
    """`row["any name"]` is the column of that name, and is needed like any other."""
    template = PromptTemplate(Template(text_input='{{ row["Länge (cm)"] }} {{ unit }}', output="{{ row['my col'] }}"))
    assert template.columns == {"Länge (cm)", "unit", "my col"}
    assert template.render({"Länge (cm)": 3, "unit": "cm", "my col": "x"}) == Example("3 cm", "x")
    with pytest.raises(TemplateError, match=r"names 'my col', which the row does not have"):
        template.render({"Länge (cm)": 3, "unit": "cm"})


def test_a_column_may_be_called_row() -> None:
    """A column named `row` is a column."""
    template = PromptTemplate(Template(text_input="{{ row }}", output="{{ x }}"))
    assert template.render({"row": "7", "x": "y"}) == Example("7", "y")


@pytest.mark.parametrize(
    "text",
    [
        "{{ a }}{% if b %} {{ b }}{% endif %}",
        "{{ a }}{% if b is defined and b %} {{ b }}{% endif %}",
        "{{ a }}{% if b is none or b is not defined %}{% else %} {{ b }}{% endif %}",
        "{{ a }}{% if row.get('b') %} {{ row.get('b') }}{% endif %}",
        "{{ a }}{% if row['b'] %} {{ row['b'] }}{% endif %}",
        "{{ a }}{% if b == 'c' %} {{ b }}{% endif %}",
        "{{ a }}{{ ' ' if b else '' }}{{ b | default('') }}",
        "{{ a }}{{ ' ' if b else '' }}{{ row.b | default('') }}",
        "{{ a }}{{ ' ' if b else '' }}{{ row.get('b', none) or '' }}",
        "{{ a }}{% for line in b %}{{ ' ' if loop.first else '' }}{{ line }}{% endfor %}",
        "{{ a }}{% if b and b.upper() %} {{ b }}{% endif %}",
        "{{ a }}{% if 'c' in b %} {{ b }}{% endif %}",
    ],
)
def test_a_cell_may_be_optional(text: str) -> None:
    """A column that is missing or null is an error only where it is printed."""
    assert _input(text, a="x", b="c") == "x c"
    assert [_input(text, a="x"), _input(text, a="x", b=None), _input(text, a="x", b=float("nan"))] == ["x"] * 3


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("{{ a }}{{ b }}", "b"),
        ("{{ a }}{{ b | upper }}", "b"),
        ("{{ a ~ b }}", "b"),
        ("{{ a + b }}", "b"),
        ("{{ a }}{{ row.get('b') }}", "b"),
        ("{{ a }}{{ row['b'] }}", "b"),
        ("{{ a }}{{ b.title }}", "b"),
        ("{{ a }}{{ [a, b] | join(', ') }}", "b"),
        ("{{ a }}{{ b | join(', ') }}", "b"),
        ("{% if not b %}{{ b }}{% endif %}", "b"),
        ("{{ '%s' % b }}", "b"),
    ],
)
def test_an_optional_cell_that_is_printed_is_an_error(text: str, column: str) -> None:
    """Nothing that needs its text is given an empty one."""
    for row, is_null in ({"a": "x"}, False), ({"a": "x", "b": None}, True):
        with pytest.raises(AbsentCellError, match=r"^template\.text_input (prints|names) 'b', which") as refused:
            _input(text, **row)
        assert (refused.value.column, refused.value.is_null, refused.value.part) == (column, is_null, "text_input")


def test_null_inside_a_cell_is_as_null_in_a_column() -> None:
    """It can be optional, and is not printed as Python's None."""
    meta = {"title": None, "tags": ["x", None]}
    optional = "{{ meta.title | default('-') }}{{ meta['title'] or '+' }}{% if meta.title is none %}!{% endif %}"
    assert _input(optional, meta=meta) == "-+!"
    assert _input("{{ meta | tojson }}", meta=meta) == '{"title": null, "tags": ["x", null]}'
    for text in "{{ meta.title }}", "{{ meta['title'] | upper }}", "{{ meta.title ~ 'x' }}", "{{ meta.tags[1] }}":
        with pytest.raises(AbsentCellError, match=r"prints '(title|1)', which is null"):
            _input(text, meta=meta)
    for text in "{{ meta ~ 'x' }}", "{{ meta.tags ~ 'x' }}", "{% for tag in meta.tags %}{{ tag }}{% endfor %}":
        with pytest.raises(TemplateError, match="instead of text"):
            _input(text, meta=meta)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("{text_input}", r"names no column, .*; write \{\{ text_input \}\} in double braces"),
        ("Question: { question }?", r"names no column, .*; write \{\{ question \}\} in double braces"),
        ("{{ true }}{{ none }}", "an expression gives null"),
        ("{{ true }}", "names no column, so all rows would give the same; name one"),
        ("text_input", "names no column, so all rows would give the same; name one"),
        ("{% set a = 1 %}{{ a }}", "names no column"),
    ],
)
def test_a_template_that_names_no_column_is_refused(text: str, advice: str) -> None:
    """Every row would give the same example."""
    with pytest.raises(TemplateError, match=rf"^template\.output: {advice}"):
        PromptTemplate(Template(output=text))


@pytest.mark.parametrize(
    ("text", "name"), [("{{ Tweet text }}", "Tweet text"), ("Say:\n{{ Label (new) }} {{- the label -}}", "the label")]
)
def test_a_name_with_a_space_shows_how_to_write_it(text: str, name: str) -> None:
    """`{{ Tweet text }}` is not an expression of Jinja2; the error says what is."""
    with pytest.raises(TemplateError, match=rf"for a column of that name write \{{\{{ row\[\"{name}\"\] \}}\}}$"):
        PromptTemplate(Template(text_input=text))


def test_true_and_false_are_printed_as_json_has_them() -> None:
    """A boolean is the file's text."""
    assert _input("{{ a }} {{ b }} {{ a and 'x' }} {{ n == 1 }}", a=True, b=False, n=1) == "true false x true"


def test_the_whole_row_can_be_used() -> None:
    """`row` is the row: its JSON, its items."""
    template = PromptTemplate(Template(text_input="{{ row | tojson }}", output="{{ a }}"))
    assert template.uses_row
    assert template.columns == {"a"}
    assert template.used("text_input", {"a": "1", "b": None}) == ["a", "b"]
    assert template.render_input({"b": "1", "a": None}) == '{"b": "1", "a": null}'
    lines = "{% for name, cell in row.items() %}{{ name }}={{ cell }};{% endfor %}"
    assert _input(lines, a="1", b="2") == "a=1;b=2;"


def test_columns_of_row() -> None:
    """A constant name under `row` is a column, whatever the syntax."""
    template = PromptTemplate(Template(text_input="{{ row.a }}{{ row['b'] }}{{ row.get('c', '') }}"))
    assert template.input_columns == {"a", "b", "c"}
    assert not template.uses_row
    assert PromptTemplate(Template(text_input="{{ row[name] }}")).uses_row


def test_printed_columns() -> None:
    """Those that stand by themselves, outside of conditions."""
    template = PromptTemplate(Template(text_input="{{ a }}{% if b %}{{ b }}{% endif %}{{ row['c d'] }}{{ e | upper }}"))
    assert template.printed("text_input") == ("a", "c d")


@pytest.mark.parametrize("cell", [float("inf"), float("-inf")])
@pytest.mark.parametrize("template", ["{{ cell }}", "{{ 'x' ~ cell }}"])
def test_infinity_is_refused(cell: float, template: str) -> None:
    """An infinite number, which no file means to hold, is refused where it is printed."""
    with pytest.raises(TemplateError, match="an expression gives infinity instead of text"):
        PromptTemplate(Template(text_input=template)).render_input({"cell": cell})


def test_concatenation_prints_as_expressions_do() -> None:
    """`~` writes true and false, and refuses what is not text, as `{{ }}` does."""
    template = PromptTemplate(Template(text_input="{{ 'x' ~ cell }}"))
    assert template.render_input({"cell": True}) == "xtrue"
    with pytest.raises(TemplateError, match="gives a list instead of text"):
        template.render_input({"cell": ["a"]})
