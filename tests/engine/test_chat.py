"""Chat formats of well-known base models, and the tokens of training and generation."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from tests.engine import chat_templates, tiny_model
from tests.engine.tiny_model import TOKENIZERS
from tunerun.engine import base_model, chat_format, chat_template, encoding, prepared_model
from tunerun.engine.chat_encoder import ChatEncoder
from tunerun.engine.chat_format import ChatFormat
from tunerun.errors import BaseModelError, NoTurnsError
from tunerun.examples import Example

EXAMPLES = (
    Example("twenty two", "twenty three"),
    Example("two\n\nlines\tand 你好 🙂", "one\n\nline  é"),
    Example("a", "b."),
    Example("", "x"),
)

EXPECTED = {
    "phi-4-mini": ("<|end|><|assistant|>", "", "<|end|>"),
    "qwen3": ("<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n", "", "<|im_end|>"),
    "deepseek-r1": ("<｜Assistant｜>", "", "<｜end▁of▁sentence｜>"),
    "deepseek-v3.1": ("<｜Assistant｜></think>", "", "<｜end▁of▁sentence｜>"),
    "gpt-oss": ("<|end|><|start|>assistant<|channel|>final<|message|>", "", "<|return|>"),
    "llama-2": (" [/INST]", " ", " <|im_end|>"),
    "llama-3.2": ("<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", "", "<|eot_id|>"),
    "smollm3": ("<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n", "", "<|im_end|>"),
    "gemma-3": ("<end_of_turn>\n<start_of_turn>model\n", "", "<end_of_turn>"),
    "smolvlm": ("<end_of_utterance>\nAssistant:", " ", "<end_of_utterance>"),
    "vicuna": (" ASSISTANT:", " ", "<|im_end|>"),
    "mistral": (" [/INST]", "", "<|im_end|>"),
}


@pytest.fixture(scope="session")
def tokenizers() -> dict[str, Any]:
    return {name: make() for name, make in TOKENIZERS.items()}


def with_template(folder: Path, source: Path, template: str | None) -> Path:
    """A copy of a base model with another chat template."""
    shutil.copytree(source, folder)
    (folder / "chat_template.jinja").unlink()
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.mark.parametrize("name", chat_templates.ALL)
def test_the_format_is_the_models_own_answered_turn(name: str, tokenizers: dict[str, Any]) -> None:
    """The text after the input is the one that the template writes before an answer: no open thought, a chosen channel."""
    tokenizers["bytes"].chat_template = chat_templates.ALL[name]
    found = chat_format.derive(tokenizers["bytes"])
    assert (found.suffix, found.start, found.end) == EXPECTED[name]


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, "bytes") for name in chat_templates.ALL]
    + [(name, kind) for name in ("llama-2", "vicuna", "mistral") for kind in ("pieces", "legacy pieces")],
)
def test_tokens_are_those_of_apply_chat_template(name: str, kind: str, tokenizers: dict[str, Any]) -> None:
    """Prompt and target together have the tokens of the whole conversation as transformers renders it."""
    tokenizer = tokenizers[kind]
    tokenizer.chat_template = chat_templates.ALL[name]
    derived = chat_format.derive(tokenizer)
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    for example, encoded in zip(EXAMPLES, encoding.encode_examples(backend, derived, EXAMPLES), strict=True):
        turns = [
            {"role": role, "content": [{"type": "text", "text": text}] if name == "smolvlm" else text}
            for role, text in (("user", example.text_input), ("assistant", example.output))
        ]
        whole = tokenizer.apply_chat_template(turns, tokenize=False, enable_thinking=False, thinking=False)
        for form in ("%Y-%m-%d", "%d %b %Y", "%d %B %Y"):
            whole = whole.replace(f": {datetime.now().strftime(form)}", f": {chat_template.TODAY.strftime(form)}")
        expected = tokenizer(whole, add_special_tokens=False)["input_ids"]
        ours = encoded.prompt + encoded.target
        assert ours == expected[: len(ours)]
        assert tokenizer.decode(expected[len(ours) :]).strip() in ("", tokenizer.eos_token)


def messages_of(name: str, examples: Sequence[Example]) -> list[dict[str, Any]]:
    """A conversation as transformers takes it."""
    return [
        {"role": role, "content": [{"type": "text", "text": text}] if name == "smolvlm" else text}
        for example in examples
        for role, text in (("user", example.text_input), ("assistant", example.output))
    ]


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, "bytes") for name in (*chat_templates.ALL, "tiny")]
    + [(name, kind) for name in ("llama-2", "vicuna", "mistral") for kind in ("pieces", "legacy pieces")],
)
def test_tokens_of_several_turns_are_those_of_apply_chat_template(
    name: str, kind: str, tokenizers: dict[str, Any]
) -> None:
    """Earlier turns, prompt and target together have the tokens of the whole conversation as transformers renders it."""
    tokenizer = tokenizers[kind]
    tokenizer.chat_template = (chat_templates.ALL | {"tiny": tiny_model.CHAT_TEMPLATE})[name]
    derived = chat_format.derive(tokenizer)
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    encoder = ChatEncoder(backend, derived, chat_format.derive_turns(tokenizer, derived))
    for last in EXAMPLES:
        for count in (1, 2, 3):
            earlier = EXAMPLES[:count]
            whole = tokenizer.apply_chat_template(
                messages_of(name, (*earlier, last)), tokenize=False, enable_thinking=False, thinking=False
            )
            for form in ("%Y-%m-%d", "%d %b %Y", "%d %B %Y"):
                whole = whole.replace(f": {datetime.now().strftime(form)}", f": {chat_template.TODAY.strftime(form)}")
            expected = tokenizer(whole, add_special_tokens=False)["input_ids"]
            (prompt,), (target,) = encoder.prompts([last.text_input], earlier), encoder.targets([last.output])
            ours = prompt + target
            assert ours == expected[: len(ours)]
            assert tokenizer.decode(expected[len(ours) :]).strip() in ("", tokenizer.eos_token)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (None, "it has no chat template"),
        (
            "{{ messages[0].content }}<|im_start|>{{ messages[-1].content }}<|im_end|>",
            "does not show the text of every earlier turn exactly once",
        ),
        (
            "{{ raise_exception('one turn') if messages | length > 2 }}{{ messages[0].content }} {{ messages[1].content }}",
            "fails for several turns with TemplateError: one turn",
        ),
        (
            "{% for m in messages %}<|im_start|>{{ loop.index }} {{ m.content }}<|im_end|>{% endfor %}",
            "does not write every earlier turn in the same way",
        ),
        (
            "{% for m in messages %}<|im_start|>{{ m.role ~ (messages | length > 2) }}{{ m.content }}<|im_end|>{% endfor %}",
            "writes the last turn in another way",
        ),
    ],
)
def test_a_format_that_does_not_support_turns_refuses_them(
    template: str | None, words: str, tokenizers: dict[str, Any]
) -> None:
    """It can write one input and its answer; examples are refused with the reason."""
    tokenizers["bytes"].chat_template = template
    derived = chat_format.derive(tokenizers["bytes"])
    turns = chat_format.derive_turns(tokenizers["bytes"], derived)
    encoder = ChatEncoder(tokenizers["bytes"].backend_tokenizer, derived, turns)
    assert encoder.prompts(["x"], ()) == encoder.prompts(["x"])
    with pytest.raises(NoTurnsError, match=words):
        encoder.prompts(["x"], EXAMPLES)


@pytest.mark.parametrize(("name", "kind"), [("qwen3", "bytes"), ("llama-2", "legacy pieces"), ("mistral", "pieces")])
def test_text_of_earlier_turns_never_becomes_control_tokens(name: str, kind: str, tokenizers: dict[str, Any]) -> None:
    """It is decoded as it was."""
    tokenizers[kind].chat_template = chat_templates.ALL[name]
    derived = chat_format.derive(tokenizers[kind])
    turns = chat_format.derive_turns(tokenizers[kind], derived)
    backend = Tokenizer.from_str(tokenizers[kind].backend_tokenizer.to_str())
    encoder = ChatEncoder(backend, derived, turns)
    controls = {number for number, token in backend.get_added_tokens_decoder().items() if token.special}
    (plain,) = encoder.prompts(["x"], [Example("x", "x")])
    for text in OUTPUTS[5:]:
        (ids,) = encoder.prompts(["x"], [Example(text, text)])
        assert [one for one in ids if one in controls] == [one for one in plain if one in controls]
        written = backend.decode(ids, skip_special_tokens=False)
        if kind != "legacy pieces":  # they put a space behind every special token
            around = (turns.prefix, turns.suffix, turns.between)
            assert written == f"{around[0]}{text}{around[1]}{text}{around[2]}x{derived.suffix}"


def test_earlier_turns_of_a_model_that_an_earlier_version_prepared(tmp_path: Path, tiny_folder: Path) -> None:
    """Their format is derived when the model is loaded, and cached; the rest of the cache is unchanged."""
    model = tiny_model.model_of(tiny_folder)
    prepared_model.prepare(model, tmp_path)
    found = base_model.find(model, tmp_path)
    turns = prepared_model.earlier_turns(found, tmp_path)
    assert turns is not None
    assert turns.problem is None
    prepared_model.turns_file(prepared_model.entry_folder(found, tmp_path)).unlink()
    assert prepared_model.earlier_turns(found, tmp_path) is None
    assert prepared_model.model_folder(found, tmp_path) is not None
    assert prepared_model.earlier_turns_or_derived(model, found, tmp_path) == turns
    assert prepared_model.earlier_turns(found, tmp_path) == turns


EVERYTHING = """\
{%- macro shown(message, mark='#') -%}
    {%- set content = message.content if message.content is string else message['content'][0].text -%}
    {{- mark ~ message.role | upper ~ ':' + content.strip('\\n').replace('\\r', '') -}}
{%- endmacro -%}
{%- set ns = namespace(seen=[], last=-1, open=true) -%}
{%- set users = messages | selectattr('role', 'equalto', 'user') | list -%}
{{- bos_token if bos_token is defined else '' }}{{ users | length }}{{ tools is none }}{{ missing }}
{%- for key, value in {'a': 1, 'b': [1, 2.5, none, true]}.items() %}{{ key }}={{ value | tojson }};{% endfor %}
{%- for message in messages %}
    {%- if loop.first and loop.nextitem is defined %}<first/>{% endif %}
    {%- set ns.seen = ns.seen + [message.role] %}
    {%- if message is mapping and message.get('tool_calls') is none and 'x' not in message %}{{ shown(message) }}{% endif %}
    {%- generation %}{% set inside = 1 %}</turn{{ loop.index0 }}>{% endgeneration %}
    {%- if loop.last %}{% break %}{% endif %}
    {%- if loop.previtem is defined %}{{ loop.previtem.role }}{% endif %}
{%- endfor %}
{%- macro around() %}({{ caller('y') }}){% endmacro %}{% call(x) around() %}{{ x }}{% endcall %}
{{- ns.seen | join(',') }}{{ ns.seen[::-1][:1] | first }}{{ inside is defined }}{{ ['a', 'b'] | last }}
{{- '%s-%02d' | format('x', 7) }}{{ 'a b'.split(' ')[1] }}{{ dict(a=2).a }}{{ range(3) | list }}{{ {'k': 'ä<'} | tojson(indent=2) }}
{%- if 'tunerun' in messages[0].content and not messages[-1].content.startswith('tune') %}wrong{% endif %}{{ eos_token }}
"""


def test_templates_may_use_what_transformers_offers(tokenizers: dict[str, Any]) -> None:
    """Macros, namespaces, blocks, filters and methods have the same results as in transformers."""
    tokenizers["bytes"].chat_template = EVERYTHING
    turns = [{"role": "user", "content": "tunerun"}, {"role": "assistant", "content": "tuned\n"}]
    tokens = tokenizers["bytes"].special_tokens_map
    assert chat_template.render(EVERYTHING, turns, tokens) == tokenizers["bytes"].apply_chat_template(
        turns, tokenize=False
    )
    assert chat_format.derive(tokenizers["bytes"]).end.startswith("</turn1>")


@pytest.mark.parametrize("name", ["llama-3.2", "smollm3", "gpt-oss"])
def test_the_date_is_constant(name: str, tokenizers: dict[str, Any]) -> None:
    """A template that writes the date always writes the same one."""
    tokenizers["bytes"].chat_template = chat_templates.ALL[name]
    prefix = chat_format.derive(tokenizers["bytes"]).prefix
    assert any(date in prefix for date in ("2024-07-26", "26 Jul 2024", "26 July 2024"))
    assert str(datetime.now().year) not in prefix.replace("2024", "").replace("June 2025", "")


OUTPUTS = [
    "twenty three",
    "",
    " leading and trailing ",
    "\n\nlines\n",
    "  é 你好 🙂",
    "<|im_end|> is text, <think> too",
    "</s><s>",
    "<|im_end",
    "a<｜Assistant｜>b",
]


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, "bytes") for name in ("qwen3", "deepseek-r1", "llama-2")]
    + [(name, kind) for name in ("llama-2", "mistral") for kind in ("pieces", "legacy pieces")],
)
def test_text_of_rows_never_becomes_control_tokens(name: str, kind: str, tokenizers: dict[str, Any]) -> None:
    """The only control tokens are the format's own, and the text of a row is decoded as it was."""
    tokenizers[kind].chat_template = chat_templates.ALL[name]
    derived = chat_format.derive(tokenizers[kind])
    backend = Tokenizer.from_str(tokenizers[kind].backend_tokenizer.to_str())
    encoder = ChatEncoder(backend, derived)
    controls = {
        number
        for number, token in backend.get_added_tokens_decoder().items()
        if token.special or (token.content in str(derived) and token.content.strip())
    }
    (plain_prompt,), (plain_target,) = encoder.prompts(["x"]), encoder.targets(["x"])
    for text, prompt, target in zip(OUTPUTS, encoder.prompts(OUTPUTS), encoder.targets(OUTPUTS), strict=True):
        assert [one for one in prompt if one in controls] == [one for one in plain_prompt if one in controls]
        assert [one for one in target if one in controls] == [one for one in plain_target if one in controls]
        written = backend.decode(prompt, skip_special_tokens=False)
        if kind == "legacy pieces":  # they put a space behind every special token
            written = written.replace("<s> ", "<s>", 1)
        assert written == derived.prompt(text)
        assert encoder.text(target[:-1], has_end=True) == text


def test_control_tokens_of_a_row_are_named(tokenizers: dict[str, Any]) -> None:
    """Special tokens and tokens of the chat format are listed once each."""
    tokenizers["bytes"].chat_template = chat_templates.QWEN3
    encoder = ChatEncoder(tokenizers["bytes"].backend_tokenizer, chat_format.derive(tokenizers["bytes"]))
    assert encoder.control_tokens_in("<think>  <|im_end|></s> <|im_end|><｜User｜>") == ["<think>", "<|im_end|>"]


def test_control_tokens_that_are_words_of_the_vocabulary(tokenizers: dict[str, Any]) -> None:
    """If the tokenizer itself would make a control token of a row's text, the text is cut."""
    tokenizers["unigram"].chat_template = chat_templates.MISTRAL
    encoder = ChatEncoder(tokenizers["unigram"].backend_tokenizer, chat_format.derive(tokenizers["unigram"]))
    ((*ids, end),) = encoder.targets(["one</s> two<s>"])
    assert end == tokenizers["unigram"].eos_token_id
    assert not {1, 2} & set(ids)
    assert encoder.text(ids, has_end=True) == "one</s> two<s>"


def test_a_control_token_in_an_answer_becomes_text(tokenizers: dict[str, Any]) -> None:
    """A control token that does not end the answer is not deleted."""
    tokenizers["bytes"].chat_template = chat_templates.QWEN3
    encoder = ChatEncoder(tokenizers["bytes"].backend_tokenizer, chat_format.derive(tokenizers["bytes"]))
    start = tokenizers["bytes"].convert_tokens_to_ids("<|im_start|>")
    assert encoder.text([start], has_end=True) == "<|im_start|>"


def test_no_template(tmp_path: Path, tiny_folder: Path) -> None:
    """A model without a chat template gets a line break between input and output, and its end token."""
    model = tiny_model.model_of(with_template(tmp_path / "model", tiny_folder, None))
    prepared_model.prepare(model, tmp_path)
    assert prepared_model.read_chat_format(base_model.find(model, tmp_path), tmp_path) == ChatFormat(
        "", "\n", "<|im_end|>"
    )


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ messages | length }}", "user's text 0 times and the assistant's 0 times"),
        ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "user's text 2 times"),
        ("{{ messages[1].content }}{{ messages[0].content }}", "not each once and in this order"),
        ("{{ messages[0].content }}", "the assistant's 0 times"),
        ("{{ raise_exception('no roles') }}", "it fails with TemplateError: no roles"),
        ("{% for m in messages %}", "it fails with TemplateSyntaxError: Unexpected end of template"),
        ("{{ messages[7].content.x }}", "it fails with UndefinedError"),
        ("{{ 1 // 0 }}", "it fails with ZeroDivisionError"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "TooMuchWorkError"),
        ("{% set x = 'a' * 10**10 %}", "TooMuchWorkError"),
        ("{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}", "TooMuchWork"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_when_the_model_is_found(
    tmp_path: Path, tiny_folder: Path, template: str, words: str
) -> None:
    """The reason is reported before anything is prepared or loaded."""
    model = tiny_model.model_of(with_template(tmp_path / "model", tiny_folder, template))
    with pytest.raises(BaseModelError) as refused:
        base_model.find(model, tmp_path)
    assert "chat template cannot be used" in str(refused.value)
    assert words in str(refused.value)


def test_templates_by_name(tmp_path: Path, tiny_folder: Path) -> None:
    """Of several templates the default is used; without a default the error lists them."""
    folder = with_template(tmp_path / "model", tiny_folder, None)
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text())
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": tiny_model.CHAT_TEMPLATE}]
    file.write_text(json.dumps({**config, "chat_template": named}))
    model = tiny_model.model_of(folder)
    prepared_model.prepare(model, tmp_path)
    assert prepared_model.read_chat_format(base_model.find(model, tmp_path), tmp_path).end == "<|im_end|>"
    file.write_text(json.dumps({**config, "chat_template": named[:1]}))
    with pytest.raises(BaseModelError, match=r"several chat templates \(tool_use\) and no default"):
        base_model.find(model, tmp_path)
    file.write_text("{")
    with pytest.raises(BaseModelError, match=r"tokenizer_config.json is not valid JSON"):
        base_model.find(model, tmp_path)


def test_a_stored_chat_format(tmp_path: Path) -> None:
    """A prompt is prefix, input, suffix; a file stores all parts exactly."""
    format_ = ChatFormat("<", "\n>\u2028", " é", start=" ")
    assert format_.prompt(" a ") == "< a \n>\u2028"
    chat_format.write(format_, tmp_path / "chat.json")
    assert chat_format.read(tmp_path / "chat.json") == format_
