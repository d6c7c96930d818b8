"""A template cannot take the machine."""

from __future__ import annotations

from typing import Any

import pytest

from tunerun.errors import TemplateError
from tunerun.schema import Template
from tunerun.template import PromptTemplate

ROW: dict[str, Any] = {"text": "ab " * 300, "items": [1, 2, 3], "meta": {"a": {"b": 1}}, "n": 3}
WORK, BITS, METHOD = "it would read and write more than", "a number would have more than", "is not offered"


def doubled(expression: str, times: int = 60) -> str:
    return "{% set x = text %}" + f"{{% set x = {expression} %}}" * times


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{{ [1] * 10**10 }}", WORK),
        ("{{ 10**9 * items }}", WORK),
        ("{{ (1,) * 10**9 }}", WORK),
        ("{{ 'a' * 10**9 }}", WORK),
        ("{{ 2**100000000 }}", BITS),
        ("{{ 10**3000 * 10**3000 }}", BITS),
        ("{{ ('f' * 5000000) | int(base=16) // 3 }}", BITS),
        ("{{ text.center(10**9) }}", WORK),
        ("{{ text | center(10**9) }}", WORK),
        ("{{ 'a' | center(width=1000000000) }}", WORK),
        ("{{ (text | attr('center'))(10**9) }}", WORK),
        ("{{ ['a'] | map('center', 10**9) | join }}", WORK),
        ("{% filter center(10**9) %}x{% endfilter %}", WORK),
        ("{{ text.ljust(10**9) }}", WORK),
        ("{{ text.zfill(10**9) }}", WORK),
        ("{{ '\t'.expandtabs(10**9) }}", WORK),
        ("{{ '%1000000000d' % 1 }}", WORK),
        ("{{ '%.1000000000f' % 1 }}", WORK),
        ("{{ '%1000000000d' | format(1) }}", WORK),
        ("{{ '%*d' % (1000000000, 1) }}", r"a width of \* in a format"),
        ("{{ ('%(a)s' * 1000000) % {'a': text * 1000} }}", WORK),
        ("{{ '{:1000000000}'.format(1) }}", WORK),
        ("{{ '{:{w}}'.format(1, w=1000000000) }}", WORK),
        ("{{ '{a:1000000000}'.format_map({'a': 1}) }}", WORK),
        ("{{ range(10**9) }}", "names 'range', which the row does not have"),
        ("{% for a in text %}{% for b in text %}{% for c in text %}{% endfor %}{% endfor %}{% endfor %}", WORK),
        ("{% for a in text %}{% for b in text %}{{ text }}{% endfor %}{% endfor %}", WORK),
        ("{% for x in items recursive %}{% if text %}{{ loop(items) }}{% endif %}{% endfor %}", "it calls itself"),
        ("{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}", "it calls itself too often"),
        ("{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}", WORK),
        ("{% block a %}{{ self.a() }}{% endblock %}", "it calls itself too often"),
        (doubled("x ~ x"), WORK),
        (doubled("x + x"), WORK),
        (doubled("x * 2"), WORK),
        (doubled("[x, x]") + "{{ x | string }}", WORK),
        (doubled("{1: x, 2: x}") + "{{ x | tojson }}", WORK),
        (doubled("x | tojson"), WORK),
        (doubled("x | replace('a', 'aa')"), WORK),
        (doubled("x.replace('a', 'aa')"), WORK),
        ("{{ text | indent(10**9) }}", WORK),
        ("{{ text | indent('x' * 10000000) }}", WORK),
        ("{{ text | wordwrap(1, true, text * 100) }}", WORK),
        ("{{ ('x' * 1000000 ~ text[:0]) | wordwrap(1) }}", WORK),
        ("{{ (' ' * 1000000 ~ text[:0]) | wordwrap(5) }}", WORK),
        ("{{ ('<>' * 500000 ~ text[:0]) | striptags }}", WORK),
        ("{{ text | truncate(9, end=text) }}", "AssertionError"),
        ("{{ text | join(text * 1000) }}", WORK),
        ("{{ (text * 1000).join(text) }}", WORK),
        ("{{ text.replace('a', text * 1000) }}", WORK),
        ("{{ [1] | batch(10**9, 'x') | list | length }}", WORK),
        ("{{ [1] | slice(slices=10**9) | list | length }}", WORK),
        ("{{ 1.5 | round(precision=10**9, method='ceil') }}", "round takes a precision of at most"),
        ("{{ meta | tojson(indent=10**9) }}", WORK),
        ("{{ [[1]] | sum(start=[]) }}", "sum adds numbers"),
        ("{% set long = text * 20000 %}{% for a in text %}{{ a in long }}{% endfor %}", WORK),
        ("{% set long = text * 20000 %}{% for a in text %}{{ long[::2] | length }}{% endfor %}", WORK),
        ("{% set long = text * 20000 %}{% for a in text %}{{ a is in(long) }}{% endfor %}", WORK),
        ("{{ n.to_bytes(10**9, 'big') }}", METHOD),
        ("{{ text.translate({97: text}) }}", METHOD),
        ("{{ text.encode('utf-32') }}", METHOD),
        ("{% for a in text %}" * 25 + "{% endfor %}" * 25, "nested too deeply"),
        ("{{ " + "9" * 5000 + " }}", "is not valid Jinja2"),
    ],
)
def test_work_is_bounded(text: str, reason: str) -> None:
    """An expression that would need gigabytes or minutes is refused in one line before it is done."""
    with pytest.raises(TemplateError, match=reason) as refused:
        PromptTemplate(Template(text_input=text)).render_input(ROW)
    (line,) = str(refused.value).splitlines()
    assert len(line) < 400


def test_each_row_has_its_own_work() -> None:
    """A long row does not use up what the next one may do."""
    template = PromptTemplate(Template(text_input="{{ text * 100 }}"))
    for _ in range(5):
        assert len(template.render_part("text_input", {"text": "x" * 100_000})) == 10_000_000


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("{{ '%05.1f' % n }}", "003.0"),
        ("{{ '{:>5}|{}'.format(n, text[:2]) }}", "    3|ab"),
        ("{{ text.split() | length }} {{ text.strip()[:2].upper() }}", "300 AB"),
        ("{{ items | map('string') | join(', ') }}", "1, 2, 3"),
        ("{{ items | sum }} {{ [1, 2] + [3] == items }} {{ 2 ** 10 }}", "6 true 1024"),
        (
            "{% macro m(x) %}[{{ x }}]{% endmacro %}{% for i in items %}{{ loop.cycle('a', 'b') ~ m(i) }}{% endfor %}",
            "a[1]b[2]a[3]",
        ),
        ("{% for k, v in meta.items() %}{{ k }}: {{ v.b }}{% endfor %}", "a: 1"),
        ("{% for i in items recursive %}{{ i }}{% endfor %}", "123"),
        ("{% set a, b = 1, n %}{{ a }}{{ b }}{% set c %}x{{ n }}{% endset %}{{ c }}", "13x3"),
        ("{{ {'a': 'b'}['a'] }} {{ n in (3, 4) }} {{ items[-1] }}{{ items[:1] | first }}", "b true 31"),
        ("{{ text | trim | truncate(5, true, '') }}{{ 'x' | indent(2, true) }}", "ab ab  x"),
    ],
)
def test_what_templates_do_is_done(text: str, printed: str) -> None:
    """Filters, methods, macros, loops and formats work as in Jinja2."""
    assert PromptTemplate(Template(text_input=text + "{{ text[:0] }}")).render_input(ROW) == printed
