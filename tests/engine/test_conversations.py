"""Conversations: their tokens, what is learned of them, their losses, and the answers to them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from tests.engine import chat_templates, peft_loop, training
from tests.engine.observer import Recording
from tests.engine.test_generation import tune
from tests.engine.tiny_model import TOKENIZERS, request_of
from tunerun.engine import chat_format, chat_template, encoding, export_answers, forms, lora, merging
from tunerun.engine.chat_encoder import ChatEncoder
from tunerun.engine.encoding import NOT_LEARNED, EncodedExample
from tunerun.engine.generation import Generation
from tunerun.engine.network import LoadedModel
from tunerun.errors import NoTurnsError
from tunerun.examples import Conversation, Example, Turn
from tunerun.generation import GenerateOptions, prompt_of
from tunerun.job import BaseModelRef

EARLIER = (Turn("one", "two"), Turn("two\n\nlines\tand 你好 🙂", "one line  é", is_learned=False), Turn("", "x"))
CONVERSATIONS = (
    Example("twenty two", "twenty three", "Count on."),
    Example("three", "four", "Count on.\n\nBe brief.", EARLIER[:1]),
    Example("five", "six", "Count <on>.", EARLIER),
    Example("five", "six", earlier=EARLIER),
    Example("seven", "eight"),
)

LEARNED = (
    Example("three", "four", "Count on.", (Turn("one", "two"),)),
    Example("5", "6", "Count.", (Turn("1", "2"), Turn("2", "five", is_learned=False), Turn("", "x"))),
    Example("twenty two", "twenty three", "Count on."),
    Example("seven", "eight"),
)


def messages_of(name: str, example: Example) -> list[dict[str, Any]]:
    """Return a conversation as messages for transformers."""
    messages = [("system", example.system)] if example.system else []
    messages += [
        (role, text) for turn in example.turns for role, text in (("user", turn.text_input), ("assistant", turn.output))
    ]
    return [
        {"role": role, "content": [{"type": "text", "text": text}] if name == "smolvlm" else text}
        for role, text in messages
    ]


def rendered_by_transformers(tokenizer: Any, messages: list[dict[str, Any]]) -> str:
    """With the date that is ours."""
    whole = str(tokenizer.apply_chat_template(messages, tokenize=False, enable_thinking=False, thinking=False))
    for form in ("%Y-%m-%d", "%d %b %Y", "%d %B %Y"):
        whole = whole.replace(f": {datetime.now().strftime(form)}", f": {chat_template.TODAY.strftime(form)}")
    return whole


def encoded_with(tokenizer: Any, examples: Sequence[Example]) -> list[EncodedExample]:
    derived = chat_format.derive(tokenizer)
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    return encoding.encode_examples(backend, derived, examples, chat_format.derive_turns(tokenizer, derived))


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Any]:
    return {name: make() for name, make in TOKENIZERS.items()}


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, "bytes") for name in chat_templates.WITH_SYSTEM]
    + [("llama-2", kind) for kind in ("pieces", "legacy pieces")],
)
def test_tokens_are_those_of_apply_chat_template(name: str, kind: str, tokenizers: dict[str, Any]) -> None:
    """A system message, earlier turns and the last one together have the tokens of what transformers renders."""
    tokenizer = tokenizers[kind]
    tokenizer.chat_template = chat_templates.WITH_SYSTEM[name]
    for example, encoded in zip(CONVERSATIONS, encoded_with(tokenizer, CONVERSATIONS), strict=True):
        whole = rendered_by_transformers(tokenizer, messages_of(name, example))
        expected = tokenizer(whole, add_special_tokens=False)["input_ids"]
        ours = encoded.prompt + encoded.target
        assert ours == expected[: len(ours)]
        assert tokenizer.decode(expected[len(ours) :]).strip() in ("", tokenizer.eos_token)


@pytest.mark.parametrize("name", [*chat_templates.WITH_SYSTEM, "mistral", "vicuna", "deepseek-v3.1"])
def test_only_learned_answers_and_their_end_tokens_are_learned(name: str, tokenizers: dict[str, Any]) -> None:
    """Of three earlier answers one is not learned; of the others the text and the end token are."""
    tokenizer = tokenizers["bytes"]
    tokenizer.chat_template = (chat_templates.ALL | chat_templates.WITH_SYSTEM)[name]
    example = Example("five", "six", earlier=EARLIER)
    (encoded,) = encoded_with(tokenizer, [example])
    batch = encoding.collate([encoded], 0, torch.device("cpu"))
    labels = batch.labels[0].tolist()
    learned = [label for label in labels if label != NOT_LEARNED]
    derived = chat_format.derive(tokenizer)
    turns = chat_format.derive_turns(tokenizer, derived)
    texts = [f"{turns.start}{turn.output}{turns.end}" for turn in EARLIER if turn.is_learned]
    assert tokenizer.decode(learned) == "".join([*texts, derived.start + example.output + derived.end])
    assert turns.end.endswith(tuple(chat_templates.SPECIAL_TOKENS))
    assert len(learned) == encoded.learned
    following = (encoded.prompt + encoded.target)[-len(labels) :]
    assert all(label in (NOT_LEARNED, token) for label, token in zip(labels, following, strict=True))
    assert labels[0] != NOT_LEARNED  # logits are computed from the first learned token on


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (None, "it has no chat template"),
        (chat_templates.MISTRAL, "fails for a system message with TemplateError: Only user and assistant roles"),
        (chat_templates.DEEPSEEK_V3_1, "does not show a system message exactly once"),
        (chat_templates.MISTRAL_V3, "does not show a system message exactly once and in order"),
        (
            "{% for m in messages %}<|im_start|>{{ m.role ~ messages[0].role }}{{ m.content }}<|im_end|>{% endfor %}",
            "writes turns in another way behind a system message",
        ),
        (
            "{% for m in messages %}<|im_start|>{{ ' ' if m.role == 'system' and messages | length > 3 }}{{ m.content }}{% endfor %}",
            "writes a system message in another way before several turns",
        ),
    ],
)
def test_a_format_that_does_not_support_a_system_message_refuses_it(
    template: str | None, words: str, tokenizers: dict[str, Any]
) -> None:
    """Other prompts are unchanged; a system message is refused with the reason and what to do."""
    tokenizers["bytes"].chat_template = template
    derived = chat_format.derive(tokenizers["bytes"])
    turns = chat_format.derive_turns(tokenizers["bytes"], derived)
    encoder = ChatEncoder(tokenizers["bytes"].backend_tokenizer, derived, turns)
    assert encoder.prompts([Conversation("x")]) == encoder.prompts(["x"])
    with pytest.raises(NoTurnsError, match=f"{words}.*template.text_input"):
        encoder.prompts([Conversation("x", "Count on.")])


@pytest.mark.parametrize(("name", "kind"), [("qwen3", "bytes"), ("gemma-3", "bytes"), ("llama-2", "legacy pieces")])
def test_text_of_a_conversation_never_becomes_control_tokens(name: str, kind: str, tokenizers: dict[str, Any]) -> None:
    """The text of a system message or an earlier turn is encoded as plain characters."""
    tokenizer = tokenizers[kind]
    tokenizer.chat_template = chat_templates.WITH_SYSTEM[name]
    controls = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    plain, *others = [
        Example("x", "x", text, (Turn(text, text),))
        for text in ("x", "a<|im_end|> b", "<|im_start|>", "</s><s> x", "<end_of_turn>")
    ]
    (of_plain,) = encoded_with(tokenizer, [plain])
    for encoded, example in zip(encoded_with(tokenizer, others), others, strict=True):
        assert [one for one in encoded.prompt if one in controls] == [one for one in of_plain.prompt if one in controls]
        start, stop = encoded.earlier[0]
        assert tokenizer.decode(encoded.prompt[start:stop]).strip().startswith(example.earlier[0].output.strip())


def test_loss_is_over_all_learned_turns(base: LoadedModel, tiny: BaseModelRef) -> None:
    """Training's first loss and the validation loss equal transformers' own loss over the same labels."""
    request = request_of(tiny, training=LEARNED[:3], validation=LEARNED, batch_size=3, epoch_count=1)
    observer = Recording()
    (outcome,) = training.train([request], base, observer)
    assert outcome.failure is None
    (first,) = observer.losses(request)
    assert first == pytest.approx(plain_loss(base, LEARNED[:3]), rel=1e-5)
    assert outcome.metrics["validation/base_loss"] == pytest.approx(plain_loss(base, LEARNED), rel=1e-5)


def plain_loss(base: LoadedModel, examples: Sequence[Example]) -> float:
    """Return the mean loss by transformers' `labels`, one conversation at a time."""
    total, count = 0.0, 0
    for example in examples:
        ids, labels = [], []
        learned = {0: False} | {2 * n + 1: turn.is_learned for n, turn in enumerate(example.turns)}
        for number, message in enumerate(messages_of("tiny", example)[bool(example.system) :]):
            head = f"{chr(10) if number else ''}<|im_start|>{message['role']}\n"
            if number == 0 and example.system:
                head = f"<|im_start|>system\n{example.system}<|im_end|>\n{head}"
            for text, counts in ((head, False), (f"{message['content']}<|im_end|>", learned.get(number, False))):
                tokens = base.tokenizer.encode(text, add_special_tokens=False).ids
                ids += tokens
                labels += tokens if counts else [NOT_LEARNED] * len(tokens)
        with torch.no_grad():
            loss = base.network(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
        learned_tokens = sum(label != NOT_LEARNED for label in labels)
        total, count = total + float(loss) * learned_tokens, count + learned_tokens
    return total / count


def test_gradient_is_that_of_a_plain_peft_loop(base: LoadedModel, tiny: BaseModelRef) -> None:
    """A padded batch with several learned answers in each row has the gradients of single conversations."""
    request = request_of(tiny)
    encoded = encoding.encode_examples(base.tokenizer, base.chat, LEARNED, base.turns)
    adapter = lora.fresh(base, request.hyperparameters, 0)
    with lora.on(base.network, [adapter]):
        torch.autograd.backward(forms.choose(base).losses(base, [encoded]).sum())
    ours = [matrix.grad for matrix in adapter.parameters()]
    with peft_loop.fresh_adapter(base, request.hyperparameters, 0) as adapted:
        for one in encoded:
            ids, labels = one.prompt + one.target, one.labels(0)
            loss = adapted(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
            torch.autograd.backward(loss * one.learned)
        plain = [one.grad for one in adapted.parameters() if one.requires_grad]
    largest = max(float(one.abs().max()) for one in plain)
    for left, right in zip(ours, plain, strict=True):
        assert left is not None
        assert float((left - right).abs().max()) <= 1e-5 * largest


def test_a_tuned_model_answers_in_the_conversation_it_learned(
    base: LoadedModel, tiny: BaseModelRef, cache: Path, tmp_path: Path
) -> None:
    """The same last message gets different answers after different system messages and turns, also when exported."""
    rows = (
        Example("1", "2", "Count up."),
        Example("1", "0", "Count down."),
        Example("again", "4", "Count up.", (Turn("2", "3"),)),
        Example("again", "6", "Count up.", (Turn("4", "5"),)),
    )
    tuned = tune(base, request_of(tiny, training=rows, epoch_count=60, batch_size=4, adapter_rank=8), tmp_path)
    prompts = [prompt_of(row.input, GenerateOptions(8), str(tuned)) for row in rows]
    answers = Generation(base).answer(prompts, all_or_none=True)
    assert [getattr(answer, "text", answer) for answer in answers] == [row.output for row in rows]
    exported = merging.load(tuned, cache)
    merging.save_merged(exported, GenerateOptions(8), tmp_path / "merged")
    inputs, form = [row.input for row in rows], exported.record.chat_format
    assert export_answers.of_merged(tmp_path / "merged", inputs, form) == [row.output for row in rows]
