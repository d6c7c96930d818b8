"""Examples in the providers' formats: written, limited, and read back as they were."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.dataset.files import load
from tunerun.dataset import LoadedDataset
from tunerun.dataset.export import FORMATS, export
from tunerun.errors import InputError, LimitError
from tunerun.examples import Example, ExampleSet, Turn

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60).filter(lambda text: text.strip())
EXAMPLES = st.lists(st.builds(Example, TEXT, TEXT), min_size=10, max_size=14)


def conversations(is_learned: st.SearchStrategy[bool]) -> st.SearchStrategy[list[Example]]:
    """Examples with a system message or none and up to three earlier turns."""
    turns = st.lists(st.builds(Turn, TEXT, TEXT, is_learned), max_size=3).map(tuple)
    return st.lists(st.builds(Example, TEXT, TEXT, st.just("") | TEXT, turns), min_size=10, max_size=12)


def example_set(count: int, output: str = "b") -> ExampleSet:
    return ExampleSet("d", "rows.jsonl", tuple(Example(f"a{n}", output) for n in range(count)))


def of(training: ExampleSet, validation: ExampleSet | None = None, test: ExampleSet | None = None) -> LoadedDataset:
    return LoadedDataset(training, validation, test, ())


def read_back(file: Path) -> tuple[Example, ...]:
    return load(file).training.examples


@pytest.mark.thorough
@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=min(40, settings().max_examples), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(examples=EXAMPLES)
def test_what_is_written_is_read_back(
    name: str, examples: list[Example], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any text, in any format: the same examples in the same order."""
    folder = tmp_path_factory.mktemp("export")
    done = export(of(ExampleSet("d", "x", tuple(examples))), FORMATS[name], folder)
    assert read_back(done.files[0]) == tuple(examples)


@pytest.mark.thorough
@pytest.mark.parametrize("name", [name for name, format_ in FORMATS.items() if format_.has_conversations])
@settings(max_examples=min(25, settings().max_examples), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_conversations_are_read_back(name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """System messages, turns and weights too, where the format has them; else what it has no place for is refused."""
    folder, format_ = tmp_path_factory.mktemp("export"), FORMATS[name]
    examples = data.draw(conversations(st.booleans() if format_.has_weights else st.just(True)))
    done = export(of(ExampleSet("d", "x", tuple(examples))), format_, folder)
    assert read_back(done.files[0]) == tuple(examples)


def test_what_a_format_has_no_place_for(tmp_path: Path) -> None:
    """A conversation is not cut down to its last turn, and an answer of weight 0 is not learned by mistake."""
    turns = (Turn("a", "b", is_learned=False),)
    loaded = of(ExampleSet("d", "x", (*(Example(f"{n}", "b") for n in range(9)), Example("c", "d", "S", turns))))
    with pytest.raises(LimitError, match=r"training: 1 of 10 examples have a system message or several turns, gemini"):
        export(loaded, FORMATS["gemini"], tmp_path)
    with pytest.raises(LimitError, match=r"training: 1 answers have weight 0, vertex .* would learn them; choose"):
        export(loaded, FORMATS["vertex"], tmp_path)
    assert not list(tmp_path.iterdir())
    export(loaded, FORMATS["openai"], tmp_path)
    assert json.loads((tmp_path / "training.jsonl").read_text().splitlines()[-1]) == {
        "messages": [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b", "weight": 0},
            {"role": "user", "content": "c"},
            {"role": "assistant", "content": "d"},
        ]
    }


def test_rows_are_as_the_provider_documents_them(tmp_path: Path) -> None:
    """Gemini's pairs in one list, Vertex AI's contents and OpenAI's messages line by line."""
    loaded = of(example_set(10))
    first = {name: (tmp_path / name / f"training.{FORMATS[name].ending}") for name in FORMATS}
    for name, format_ in FORMATS.items():
        export(loaded, format_, tmp_path / name)
    assert json.loads(first["gemini"].read_text())[0] == {"text_input": "a0", "output": "b"}
    assert json.loads(first["vertex"].read_text().splitlines()[0]) == {
        "contents": [{"role": "user", "parts": [{"text": "a0"}]}, {"role": "model", "parts": [{"text": "b"}]}]
    }
    assert json.loads(first["openai"].read_text().splitlines()[0]) == {
        "messages": [{"role": "user", "content": "a0"}, {"role": "assistant", "content": "b"}]
    }


def test_sets_that_a_provider_does_not_accept_are_left_out_with_a_note(tmp_path: Path) -> None:
    """The Gemini API has no place for held-out examples."""
    done = export(of(example_set(10), example_set(3), example_set(2)), FORMATS["gemini"], tmp_path)
    assert [file.name for file in done.files] == ["training.json"]
    assert done.notes == (
        "validation: 3 examples were left out; gemini takes no validation set",
        "test: 2 examples were left out; gemini takes no test set",
    )


@pytest.mark.parametrize(
    ("name", "loaded", "message"),
    [
        ("openai", of(example_set(9)), r"training: 9 examples, openai \(.*\) wants at least 10; add more"),
        ("gemini", of(example_set(2, "x" * 5_001)), r"training: output of 5,001 characters, gemini \(.*\) takes 5,000"),
        ("gemini", of(example_set(900, "x" * 4_900)), r"training: 4,\d+,\d+ bytes, gemini \(.*\) takes 4,000,000"),
        ("vertex", of(example_set(10), example_set(5_001)), r"validation: 5,001 examples, vertex \(.*\) takes 5,000"),
    ],
)
def test_what_a_provider_would_refuse_is_not_written(
    tmp_path: Path, name: str, loaded: LoadedDataset, message: str
) -> None:
    """Limits are checked before anything is written."""
    with pytest.raises(LimitError, match=message):
        export(loaded, FORMATS[name], tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_a_file_with_other_content_is_left_alone(tmp_path: Path) -> None:
    """The same content may be written again, other content not."""
    export(of(example_set(10)), FORMATS["messages"], tmp_path)
    export(of(example_set(10)), FORMATS["messages"], tmp_path)
    before = (tmp_path / "training.jsonl").read_bytes()
    with pytest.raises(InputError, match=r"training.jsonl: exists with other content; move it, or set --output"):
        export(of(example_set(11)), FORMATS["messages"], tmp_path)
    assert (tmp_path / "training.jsonl").read_bytes() == before
