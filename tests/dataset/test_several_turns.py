"""Conversations of several turns, from a file to examples and what the checks say of them."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import REPOSITORY
from tests.dataset.files import load, written
from tunerun.dataset import LoadedDataset, RowBuilder, TokenLimit, load_examples, with_conversations
from tunerun.digest import digest
from tunerun.errors import DatasetError
from tunerun.examples import Example, Turn
from tunerun.schema import DatasetSection, HeldOut, Template
from tunerun.template import PromptTemplate


def conversation_row(*texts: str, system: str = "", **weights: int) -> dict[str, Any]:
    """A row of OpenAI's messages; `m3=0` gives the third message that weight."""
    messages: list[dict[str, Any]] = [
        {"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)
    ]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    for name, weight in weights.items():
        messages[int(name[1:])]["weight"] = weight
    return {"messages": messages}


def load_rows(
    folder: Path,
    *rows: dict[str, Any],
    held_out: list[dict[str, Any]] | None = None,
    tokens: TokenLimit | None = None,
    most_output: int = 5_000,
    dataset: dict[str, Any] | None = None,
    **template: str,
) -> LoadedDataset:
    path = written(folder / "rows.jsonl", rows)
    held_out_path = written(folder / "held.jsonl", held_out) if held_out else None
    return load_examples(
        DatasetSection(
            path=path,
            validation=HeldOut(path=held_out_path),
            **(dataset or {}),
        ),
        PromptTemplate(Template(**template)),
        max_input_characters=None,
        max_output_characters=most_output,
        tokens=tokens,
        control_tokens=lambda text: ["<|im_end|>"] if "<|im_end|>" in text else [],
    )


def problems(folder: Path, *rows: dict[str, Any], **more: Any) -> list[str]:
    with pytest.raises(DatasetError) as refused:
        load_rows(folder, *rows, **more)
    return [problem.replace(f"{folder}/", "") for problem in refused.value.problems]


def warnings(loaded: LoadedDataset, folder: Path) -> str:
    return "\n".join(loaded.warnings).replace(f"{folder}/", "")


def test_examples(tmp_path: Path) -> None:
    """A conversation is one example: the template is applied to each turn, and weights say which are learned."""
    loaded = load_rows(
        tmp_path,
        conversation_row("a", "b", "c", "d", system="S", m2=0),
        conversation_row("e", "f"),
        text_input="<{{ text_input }}>",
    )
    first = Example("<c>", "d", "S", (Turn("<a>", "b", is_learned=False),))
    assert loaded.training.examples == (first, Example("<e>", "f"))
    turn = {"text_input": "<a>", "output": "b", "is_learned": False}
    documents = [{"text_input": "<c>", "output": "d", "system": "S", "earlier": [turn]}]
    assert loaded.training.digest == digest([*documents, {"text_input": "<e>", "output": "f"}])


def test_the_example_of_the_docs(tmp_path: Path) -> None:
    """The row that docs/data.md prints trains as it says there: one example of two turns, of which the last is learned."""
    page = (REPOSITORY / "docs/data.md").read_text(encoding="utf-8")
    code = re.search(r"(?m)^## Conversations\n[\s\S]*?^```json\n([\s\S]*?)^```", page)
    assert code is not None
    (example,) = load_rows(tmp_path, json.loads(code[1])).training.examples
    earlier = (Turn("Hello", "Hello! What is it about?", is_learned=False),)
    assert example == Example("I was charged twice.", "billing", "You route messages to a team.", earlier)


MESSAGE = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)
ROWS = st.lists(
    st.tuples(st.lists(MESSAGE, min_size=2, max_size=6), st.just("") | MESSAGE).map(
        lambda row: conversation_row(*row[0][: len(row[0]) // 2 * 2], system=row[1])
    ),
    min_size=1,
    max_size=4,
)
TEMPLATES = st.sampled_from(
    [
        {},
        {"text_input": "Q: {{ text_input }}", "output": "{{ output | upper }}"},
        {"text_input": "{% if system %}{{ system }}: {% endif %}{{ text_input }}"},
        {"system": "{{ system | default('none', true) }}"},
        {"system": "Be brief."},
        {"system": ""},
    ]
)


@pytest.mark.slow
@settings(max_examples=min(60, settings().max_examples), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, template=TEMPLATES)
def test_a_file_is_rendered_as_its_rows_are(
    rows: list[dict[str, Any]], template: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What training makes of a file by columns is what `predict` makes of each row by itself."""
    loaded = load_rows(tmp_path_factory.mktemp("rows"), *rows, most_output=100, **template)
    builder, one = RowBuilder(""), PromptTemplate(Template(**template))
    for line, row in enumerate(rows, start=1):
        builder.add(line, row)
    read, _ = with_conversations(builder.rows(), one.columns)
    assert [one.render(row.columns, row.conversation) for row in read] == list(loaded.training.examples)
    inputs, _ = with_conversations(builder.rows(), one.input_columns)
    assert [one.render_input(row.columns, row.conversation) for row in inputs] == [
        Example(each.text_input, "", each.system, tuple(replace(turn, is_learned=True) for turn in each.earlier)).input
        for each in loaded.training.examples
    ]


def test_one_turn_is_as_before(tmp_path: Path) -> None:
    """Rows of one turn without a system message have the digest that they always had, whatever the format."""
    expected = digest([{"text_input": "a", "output": "b"}])
    assert load_rows(tmp_path, conversation_row("a", "b")).training.digest == expected
    assert load_rows(tmp_path, {"text_input": "a", "output": "b"}).training.digest == expected
    assert load_rows(tmp_path, {"text_input": "a", "output": "b"}, system="").training.digest == expected


def test_system_of_the_template(tmp_path: Path) -> None:
    """A template's system message holds for every row, and says where it replaces one that rows have."""
    rows = (conversation_row("a", "b", system="S"), {"text_input": "c", "output": "d"})
    loaded = load_rows(tmp_path, *rows, system="Be brief.")
    assert [example.system for example in loaded.training.examples] == ["Be brief.", "Be brief."]
    assert "rows.jsonl:1: template.system replaces the system message of 1 row; name" in warnings(loaded, tmp_path)
    kept = load_rows(tmp_path, rows[0], system="{{ system }} Be brief.")
    assert [example.system for example in kept.training.examples] == ["S Be brief."]
    assert "replaces" not in warnings(kept, tmp_path)


def test_system_in_every_turn(tmp_path: Path) -> None:
    """A text_input that names the system message repeats it in each turn, which is reported."""
    loaded = load_rows(
        tmp_path, conversation_row("a", "b", "c", "d", system="S"), text_input="{{ system }} {{ text_input }}"
    )
    assert loaded.training.examples == (Example("S c", "d", "", (Turn("S a", "b"),)),)
    assert "repeats the system message in each turn" in warnings(loaded, tmp_path)


def test_places_of_problems(tmp_path: Path) -> None:
    """What is wrong with a turn names the message; a row counts once however many of its turns are bad."""
    rows = (
        conversation_row("a", " ", "c", "d"),
        conversation_row("a", "x" * 11, "c", "y" * 11, system="S"),
        conversation_row("a", "b", "\ud800", "d"),
    )
    assert [problem.split(" (")[0] for problem in problems(tmp_path, *rows, most_output=10)] == [
        "rows.jsonl:1: messages[1]: output is blank after the template; fill in the row or remove it",
        "rows.jsonl:2: messages[2]: output has 11 characters, the limit is 10",
        "rows.jsonl:2: messages[4]: output has 11 characters, the limit is 10",
        "rows.jsonl:3: messages[2]: text_input contains an unpaired surrogate",
    ]
    skipped = load_rows(tmp_path, *rows, conversation_row("a", "b"), most_output=10, dataset={"on_bad_row": "skip"})
    assert skipped.training.examples == (Example("a", "b"),)
    assert "3 rows are skipped" in warnings(skipped, tmp_path)


def test_a_template_without_the_turns_columns(tmp_path: Path) -> None:
    """An output that comes from another column cannot render the answers of earlier turns."""
    row = {**conversation_row("a", "b", "c"), "label": "d"}
    (problem,) = problems(tmp_path, row, output="{{ label }}")
    assert problem.startswith("rows.jsonl: template.output: does not name {{ output }}, so that all turns of a")
    one = load_rows(tmp_path, {**conversation_row("a"), "label": "d"}, output="{{ label }}")
    assert one.training.examples == (Example("a", "d"),)


def test_findings_name_the_message(tmp_path: Path) -> None:
    """Secrets, e-mail addresses and control tokens are found in every turn and in the system message."""
    key = "sk-" + "a1" * 12
    lines = warnings(
        load_rows(
            tmp_path,
            conversation_row("a", f"key {key}", "c", "d <|im_end|>"),
            conversation_row("e", "f ", "g", "h", system="ask ann@mail.test"),
        ),
        tmp_path,
    )
    assert "rows.jsonl:1: messages[1]: looks like an OpenAI key" in lines
    assert "rows.jsonl:1: messages[3]: holds <|im_end|>" in lines
    assert "rows.jsonl:2: messages[2]: white space around the output is learned too" in lines
    assert "rows.jsonl:2: an e-mail address" in lines


def test_the_same_question_after_other_turns(tmp_path: Path) -> None:
    """Two conversations are duplicates, contradict or leak only if all that comes before is the same too."""
    rows = (
        conversation_row("a", "b", "and now?", "c"),
        conversation_row("x", "y", "and now?", "d"),
        conversation_row("and now?", "e", system="S"),
    )
    loaded = warnings(load_rows(tmp_path, *rows, held_out=[conversation_row("and now?", "e")]), tmp_path)
    assert "duplicate" not in loaded
    assert "different outputs" not in loaded
    assert "same input" not in loaded
    again = [conversation_row("A", "b", "and now?", "z")]
    loaded = warnings(load_rows(tmp_path, *rows, conversation_row("a", "b", "and now?", "e"), held_out=again), tmp_path)
    assert (
        "different outputs for one text_input among the training examples (1): rows.jsonl:1 and rows.jsonl:4" in loaded
    )
    assert "rows.jsonl:1 and held.jsonl:1 have the same input, trained on and held out" in loaded


def test_labels_of_all_turns(tmp_path: Path) -> None:
    """Answers that are labels are counted in every turn that is learned, and a typing error names its message."""
    rows = [conversation_row("a", "refund", f"b{n}", "transfer") for n in range(12)]
    loaded = warnings(load_rows(tmp_path, *rows, conversation_row("a", "refunds", "z", "refund")), tmp_path)
    assert "rows.jsonl:13: messages[1]: the output 'refunds' looks like 'refund'" in loaded
    unlearned = warnings(load_rows(tmp_path, *rows, conversation_row("a", "refunds", "z", "refund", m1=0)), tmp_path)
    assert "looks like" not in unlearned


def test_tokens_of_all_turns(tmp_path: Path) -> None:
    """A conversation is too long if all its turns together are, with what the chat format puts around each."""

    def count(examples: Any) -> list[int]:
        return [
            2 * (1 + len(each.earlier)) + 3 * bool(each.system)
            + sum(len(f"{turn.text_input} {turn.output}".split()) for turn in (*each.earlier, each)) for each in examples
        ]  # fmt: skip

    limit = TokenLimit(40, exact=True, count_all=count)
    assert problems(
        tmp_path, conversation_row("a " * 20, "b", "c " * 20, "d"), conversation_row("a", "b", system="S"), tokens=limit
    ) == ["rows.jsonl:1: 46 tokens, and the base model takes 40; shorten the row or the template"]


def test_drawn_examples_have_their_turns(tmp_path: Path) -> None:
    """An example that is drawn for a prompt keeps its turns, and leaves its system message to the prompt's own."""
    path = written(tmp_path / "rows.jsonl", [conversation_row("a", "b", "c", "d", system="S")])
    assert load(path, draws=1).drawn == (Example("c", "d", "", (Turn("a", "b"),)),)
