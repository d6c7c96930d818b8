"""JSON in a prompt."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunerun.schema import Template
from tunerun.template import PromptTemplate
from tunerun.template.json_text import to_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


class Written(float):
    """A number that keeps its spelling."""

    def __str__(self) -> str:
        return "1.10"


@given(value=JSON, indent=st.none() | st.integers(0, 4))
def test_as_the_standard_library_writes_it(value: Any, indent: int | None) -> None:
    """Keys in their order, every script as it is."""
    assert to_json(value, indent) == json.dumps(value, ensure_ascii=False, indent=indent)


def test_a_number_keeps_its_spelling() -> None:
    """Where `str` of it has one of its own."""
    assert to_json({"a": [Written(1.1), 1.5, 10**20]}) == '{"a": [1.10, 1.5, 100000000000000000000]}'


def test_the_filter_neither_sorts_nor_escapes() -> None:
    """`tojson` gives what a person would write."""
    template = PromptTemplate(Template(text_input="{{ cell | tojson }}", output="{{ cell | tojson(indent=1) }}"))
    example = template.render({"cell": {"b": "<été & 日本's>", "a": [True, None]}})
    assert example.text_input == '{"b": "<été & 日本\'s>", "a": [true, null]}'
    assert example.output.startswith('{\n "b": ')


def test_what_has_no_json() -> None:
    """NaN is null, as in a table; infinity and sets are refused."""
    assert to_json([math.nan]) == "[null]"
    with pytest.raises(ValueError, match="infinity"):
        to_json(math.inf)
    with pytest.raises(TypeError, match="set has no JSON"):
        to_json({1})


@pytest.mark.parametrize(("cell", "text"), [(1, "1"), (1.5, "1.5"), (True, "true"), ("a", '"a"'), (None, "null")])
def test_the_filter_takes_single_values(cell: Any, text: str) -> None:
    """`tojson` of a number or a boolean is one, too."""
    assert PromptTemplate(Template(text_input="{{ cell | tojson }}")).render_input({"cell": cell}) == text
