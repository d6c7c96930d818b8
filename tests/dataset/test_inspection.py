"""Every check of the table, on examples that need it and on examples that do not."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.dataset.files import written
from tunerun.dataset import LoadedDataset, load_examples
from tunerun.dataset.labels import label_counts, typing_errors
from tunerun.dataset.near_duplicates import near_duplicates, normalised
from tunerun.dataset.secrets import EMAIL, SECRETS, secrets_in
from tunerun.schema import DatasetSection, HeldOut, Template
from tunerun.template import PromptTemplate

LONG = "could you please tell me how I can cancel the order that I placed this morning"


def pair(text_input: str, output: str) -> dict[str, str]:
    return {"text_input": text_input, "output": output}


def load_rows(
    folder: Path,
    rows: list[dict[str, Any]],
    held_out: list[dict[str, Any]] | None = None,
    template: Template | None = None,
    **more: Any,
) -> LoadedDataset:
    validation = None if held_out is None else written(folder / "held_out.jsonl", held_out)
    dataset = DatasetSection(path=written(folder / "rows.jsonl", rows), validation=HeldOut(path=validation))
    return load_examples(
        dataset, PromptTemplate(template or Template()), max_input_characters=None, max_output_characters=None, **more
    )


def texts(loaded: LoadedDataset, check: str) -> list[str]:
    return [finding.text for finding in loaded.findings if finding.check == check]


def test_near_duplicates_are_named_with_both_places(tmp_path: Path) -> None:
    """Inputs that differ in a few letters are one finding; others are none."""
    rows = [
        pair(LONG, "cancel"),
        pair("where is my parcel, I have waited for a week", "track"),
        pair(LONG + "!!", "cancel"),
    ]
    (text,) = texts(load_rows(tmp_path, rows), "near duplicate")
    assert re.search(
        r"near duplicates among the training inputs \(1\): .*rows.jsonl:1 and .*rows.jsonl:3; keep one", text
    )


def test_near_duplicates_across_training_and_held_out_are_a_near_leak(tmp_path: Path) -> None:
    """A held-out input that was pasted and edited is distinguished from an exact one."""
    loaded = load_rows(tmp_path, [pair(LONG, "cancel")], [pair(LONG + ".", "cancel"), pair("12", "13")])
    (text,) = texts(loaded, "near leak")
    assert "among the validation inputs (1)" in text
    assert texts(loaded, "leak") == []


@given(st.lists(st.text(min_size=0, max_size=80), max_size=12))
def test_what_is_called_near_is_near_and_not_equal(inputs: list[str]) -> None:
    """Every pair is of two different texts, the first one earlier, each later text once."""
    pairs = near_duplicates(inputs).pairs
    assert all(first < second and inputs[first] != inputs[second] for first, second in pairs)
    assert len({second for _, second in pairs}) == len(pairs)


@given(st.text(st.characters(max_codepoint=127), max_size=60))
def test_ascii_is_normalised_as_any_text(text: str) -> None:
    """The quick way for ASCII and the one for every script agree."""
    assert normalised(text + " é") == f"{normalised(text)} é".strip()


def test_one_input_with_two_outputs_is_a_contradiction(tmp_path: Path) -> None:
    """Both places are named."""
    (text,) = texts(load_rows(tmp_path, [pair("1", "2"), pair("1", "3")]), "contradiction")
    assert re.search(r"different outputs for one text_input .* \(1\): .*:1 and .*:2; keep one", text)


def test_an_example_twice_is_a_duplicate_and_held_out_a_leak(tmp_path: Path) -> None:
    """Exact ones, within training and across."""
    loaded = load_rows(tmp_path, [pair("1", "2"), pair("1", "2")], [pair("1", "2")])
    assert re.search(r"exact duplicates .* \(1\): .*rows.jsonl:1 and .*rows.jsonl:2", texts(loaded, "duplicate")[0])
    assert re.search(r"rows.jsonl:1 and .*held_out.jsonl:1 have the same input, trained on", texts(loaded, "leak")[0])


INSTRUCTION = Template(
    text_input="Answer the customer of a bank in one word, and nothing else, at help@bank.org: {{ text_input }}\n",
    output="The intent is: {{ output }}",
)


def test_an_instruction_in_the_template_makes_no_rows_alike(tmp_path: Path) -> None:
    """What is the template's is not looked at: neither for near duplicates nor for labels, addresses and the rest."""
    rows = [pair(f"{number} words", ["cat", "car"][number % 20 == 0]) for number in range(80)]
    assert load_rows(tmp_path, rows, [pair("99 words", "cat")], INSTRUCTION).findings == ()


def test_near_duplicates_are_found_under_any_template(tmp_path: Path) -> None:
    """The same rows have the same near duplicates, whatever the template adds, cuts or leaves out."""
    rows = [{"q": LONG, "a": "1"}, {"q": LONG + "!", "a": "2"}, {"q": "12", "a": "3"}]
    for text_input in (
        "{{ q }}",
        "Answer: {{ q }}",
        "{{ q | upper }}",
        "{% if q %}Q {{ q }}{% endif %}",
        "{{ row['q'] }}",
    ):
        loaded = load_rows(tmp_path, rows, template=Template(text_input=text_input, output="{{ a }}"))
        assert ["(1)" in text for text in texts(loaded, "near duplicate")] == [True]


@pytest.mark.parametrize(
    ("trained", "held_out"),
    [
        (pair("12", "13"), pair("12", "twelve")),
        (pair("Where is it?", "a"), pair("  where IS\tit? ", "a")),
        (pair("Where is it?", "a"), pair("where is it?\n", "b")),
        (pair("STRASSE", "a"), pair("straße", "b")),
    ],
)
@pytest.mark.parametrize("template", [Template(), INSTRUCTION])
def test_a_leak_is_an_equal_input(
    tmp_path: Path, trained: dict[str, str], held_out: dict[str, str], template: Template
) -> None:
    """Whatever the outputs are, in capitals or spaces too, however short; it is not reported as a near leak as well."""
    loaded = load_rows(tmp_path, [trained, pair("other", "x")], [pair("more", "y"), held_out], template)
    (text,) = texts(loaded, "leak")
    assert "rows.jsonl:1 and " in text
    assert "held_out.jsonl:2 have the same input, trained on and held out" in text
    assert texts(loaded, "near leak") == []


def test_a_leak_is_also_what_the_template_makes_equal(tmp_path: Path) -> None:
    """A template that cuts the rows can make one input of two."""
    template = Template(text_input="{{ q[:3] }}", output="{{ a }}")
    (text,) = texts(load_rows(tmp_path, [{"q": "abcd", "a": "1"}], [{"q": "abce", "a": "2"}], template), "leak")
    assert "have the same input" in text


def test_inputs_that_differ_in_a_sign_are_not_a_leak(tmp_path: Path) -> None:
    """`1 + 2` is not `1 - 2`, and columns are not run together."""
    assert texts(load_rows(tmp_path, [pair("1 + 2", "3")], [pair("1 - 2", "-1")]), "leak") == []
    two = Template(text_input="{{ a }}|{{ b }}", output="{{ c }}")
    rows = [{"a": "x", "b": "y z", "c": "1"}], [{"a": "x y", "b": "z", "c": "1"}]
    assert texts(load_rows(tmp_path, *rows, two), "leak") == []


def test_white_space_of_the_template_is_reported_once(tmp_path: Path) -> None:
    """A line break at the end of template.output is not the fault of the rows."""
    (text,) = texts(
        load_rows(tmp_path, [pair("1", "2"), pair("3", "4")], template=Template(output="{{ output }}\n")), "spaces"
    )
    assert text.startswith("template.output: puts white space around outputs")


def test_a_conversation_that_the_template_takes_apart(tmp_path: Path) -> None:
    """A column that both texts use is checked after the template."""
    template = Template(text_input="{{ m[0] }}", output="{{ m[1] }}")
    loaded = load_rows(tmp_path, [{"m": ["1", "2"]}], [{"m": ["1", "3"]}], template)
    assert len(texts(loaded, "leak")) == 1


def test_of_too_much_text_a_sample_is_compared() -> None:
    """Every n-th text, so that the work is bounded; the number of compared texts is known."""
    rows = [f"{number} {'word ' * 10}{number * 7919}" for number in range(100)]
    assert near_duplicates(rows).compared == 100
    assert near_duplicates(rows, most_characters=1000).compared < 20


def test_a_rare_label_is_an_imbalance(tmp_path: Path) -> None:
    """Sixty of one and two of another; not with sixty and ten."""
    rows = [pair(f"q{n}", "yes") for n in range(60)]
    few, some = [pair(f"r{n}", "no") for n in range(2)], [pair(f"r{n}", "no") for n in range(10)]
    (text,) = texts(load_rows(tmp_path, rows + few), "imbalance")
    assert "the output 'no' is in 2 training examples and 'yes' in 60; add examples of the rare one" in text
    assert texts(load_rows(tmp_path, rows + some), "imbalance") == []


@pytest.mark.parametrize(("wrong", "right"), [("refunds", "refund"), ("Refund", "refund"), ("re-fund ", "re_fund")])
def test_a_label_with_a_typing_error_is_named(wrong: str, right: str) -> None:
    """Rare and alike, or the same but for case and punctuation."""
    counts = label_counts([right] * 20 + ["delivery"] * 20 + [wrong])
    assert list(typing_errors(counts)) == [(wrong, right)]


@pytest.mark.parametrize("labels", [["class 1"] * 20 + ["class 2"], ["cat"] * 20 + ["car"], ["12"] * 20 + ["13"]])
def test_labels_that_are_meant_are_left_alone(labels: list[str]) -> None:
    """Numbered classes and short words that differ are not typing errors."""
    assert list(typing_errors(label_counts(labels))) == []


def test_free_text_has_no_labels() -> None:
    """Outputs that are long, or all different, are not looked at as labels."""
    assert not label_counts([f"answer {n}" for n in range(50)])
    assert not label_counts(["a long answer " * 10] * 50 + ["another"] * 50)


@pytest.mark.parametrize("text", ["Dear {{ name }}", "{% if x %}", "end }}"])
def test_template_braces_in_the_data_are_named(tmp_path: Path, text: str) -> None:
    """A template that was never rendered is found."""
    assert texts(load_rows(tmp_path, [pair(text, "2")]), "braces")[0].endswith("escape what is meant")


def test_space_around_an_output_is_named(tmp_path: Path) -> None:
    """A trailing line break is learned too."""
    (text,) = texts(load_rows(tmp_path, [pair("1", "2\n"), pair("3", "4")]), "spaces")
    assert "rows.jsonl:1: white space around the output is learned too" in text


PLANTED = {
    "a private key": "-----BEGIN RSA PRIVATE " + "KEY-----",
    "a Google API key": "AIza" + "b" * 35,
    "an OpenAI key": "sk-" + "c" * 40,
    "a GitHub token": "ghp_" + "d" * 36,
    "an AWS access key": "AKIA" + "E" * 16,
    "a Slack token": "xoxb-" + "1" * 12,
    "a Hugging Face token": "hf_" + "g" * 34,
    "a password": "the password is " + "Tr0ub4dor&3",
    "a password in an address": "postgres://me:" + "hunter2@db/x",
}


def test_secrets_are_named_by_kind_and_never_shown(tmp_path: Path) -> None:
    """One finding for each kind, with the place; the value is shown nowhere."""
    rows = [pair(f"my key is {value}", "2") for value in PLANTED.values()]
    lines = texts(load_rows(tmp_path, rows), "secret")
    assert [re.search("looks like (.*); remove it", text)[1] for text in lines] == list(PLANTED)  # type: ignore[index]
    assert not [value for value in PLANTED.values() if value in " ".join(lines)]
    assert SECRETS.keys() == PLANTED.keys()


_WORDS = (
    "API-Key",
    "api_key",
    "xPWD",
    "pwd",
    "Secret",
    "access_token",
    "xoxb-1234567890",
    "=",
    ": ",
    "a1b2c3d4",
    " ",
    "İ",
)


@given(st.lists(st.one_of(st.sampled_from(_WORDS), st.text(max_size=9)), max_size=9).map("".join))
def test_secrets_are_what_their_patterns_find(text: str) -> None:
    """What is looked for first only saves time."""
    assert secrets_in(text) == [kind for kind, pattern in SECRETS.items() if pattern.search(text)]


def test_addresses_are_named_except_those_of_example_domains(tmp_path: Path) -> None:
    """Example domains belong to no one and are not reported."""
    rows = [pair("write to jane.doe@company.org", "2"), pair("write to me@example.com", "3")]
    (text,) = texts(load_rows(tmp_path, rows), "e-mail")
    assert "rows.jsonl:1: an e-mail address" in text
    assert not EMAIL.search("a@b")


def test_clean_examples_give_no_finding(tmp_path: Path) -> None:
    """Numbers and their successors are nothing to talk about."""
    rows = [pair(str(n), str(n + 1)) for n in range(100)]
    assert load_rows(tmp_path, rows, [pair("900", "901")]).findings == ()


def test_control_tokens_are_named_in_rows_and_in_the_template(tmp_path: Path) -> None:
    """Each token with its places; what the template writes is named by the template's key."""

    def control_tokens(text: str) -> list[str]:
        return [token for token in ("<|im_end|>", "</s>") if token in text]

    rows = [pair("one", "two"), pair("a <|im_end|>", "b </s>"), pair("three", "</s>")]
    template = Template(text_input="{{ text_input }}<|im_end|>")
    lines = texts(load_rows(tmp_path, rows, template=template, control_tokens=control_tokens), "control token")
    assert sorted(text.partition(", a control token")[0].replace(f"{tmp_path}/", "") for text in lines) == [
        "rows.jsonl:2, rows.jsonl:3: holds </s>",
        "rows.jsonl:2: holds <|im_end|>",
        "template.text_input: holds <|im_end|>",
    ]
    assert texts(load_rows(tmp_path, rows), "control token") == []


BANKING77 = os.environ.get("TUNERUN_TEST_BANKING77")  # read here: tests have no variables of ours


@pytest.mark.skipif(BANKING77 is None, reason="set it to the folder of the data set banking77")
def test_a_real_data_set_gives_no_false_alarm() -> None:
    """banking77: near duplicates and six inputs that both files hold; all else is as it should be."""
    assert BANKING77 is not None
    folder = Path(BANKING77)
    dataset = DatasetSection(path=str(folder / "train.csv"), validation=HeldOut(path=str(folder / "test.csv")))
    template = PromptTemplate(Template(text_input="{{ text }}", output="{{ category }}"))
    loaded = load_examples(dataset, template, max_input_characters=None, max_output_characters=None)
    assert {finding.check for finding in loaded.findings} == {"near duplicate", "leak", "near leak"}
