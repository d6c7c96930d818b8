"""Generation: the same prompts as in training, in order, and the same answers as from PEFT and transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.engine import chat_templates, tiny_model, training
from tests.engine.observer import Recording
from tests.engine.tiny_model import EXAMPLES, TOKENIZERS, request_of
from tunerun.engine import adapters, encoding, network, tuned_model
from tunerun.engine.batch_limits import BatchLimits
from tunerun.engine.chat_encoder import ChatEncoder
from tunerun.engine.decoding import decoder_of
from tunerun.engine.generation import Generation
from tunerun.engine.network import LoadedModel
from tunerun.engine.observer import Trained
from tunerun.errors import BaseModelError, InputError, NotFoundError
from tunerun.examples import Example
from tunerun.generation import Answer, AnswerPart, GenerateOptions, Prompt
from tunerun.job import BaseModelRef, TuningRequest

# PEFT 0.21 asks transformers 5.23 by an old name.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

INPUTS = ["1", "twenty two and some more words, so that lengths differ", "", "8", "ninety nine"]
OPTIONS = GenerateOptions(max_output_tokens=12)


def tune(base: LoadedModel, request: TuningRequest, folder: Path) -> Path:
    """Train and write a tuned model's folder, as the engine's process does."""

    class Storing(Recording):
        def trained(self, request: TuningRequest, trained: Trained) -> None:
            tuned_model.write(
                folder / request.tuned_model_id,
                tuned_model.record_of(request, base.identity, base.chat),
                tuned_model.FinishedJob("job", trained.snapshots, trained.metrics, trained.state, trained.validation),
                lambda partial: trained.adapter.save(base.public_name, partial),
            )

    (outcome,) = training.train([request], base, Storing())
    assert outcome.failure is None
    return folder / request.tuned_model_id


@pytest.fixture(scope="module")
def tuned(base: LoadedModel, tiny: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> Path:
    request = request_of(tiny, epoch_count=60, batch_size=7, adapter_rank=8)
    return tune(base, request, tmp_path_factory.mktemp("tuned"))


@pytest.fixture(scope="module")
def others(base: LoadedModel, tiny: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Tuned models of other ranks and scales, each with other answers."""
    folder = tmp_path_factory.mktemp("others")
    return [
        tune(base, request_of(tiny, key=key, seed=rank, adapter_rank=rank, learning_rate=0.1), folder)
        for rank, key in enumerate("abc", start=1)
    ]


@pytest.fixture
def generation(base: LoadedModel) -> Generation:
    return Generation(base)


def answers_of(
    generation: Generation, adapter: Path | None, inputs: Sequence[str], options: GenerateOptions
) -> list[Answer]:
    found = generation.answer([Prompt(text, options, None if adapter is None else str(adapter)) for text in inputs])
    for answer in found:
        if not isinstance(answer, Answer):
            raise answer
    return [answer for answer in found if isinstance(answer, Answer)]


def texts(generation: Generation, adapter: Path | None, inputs: Sequence[str], options: GenerateOptions) -> list[str]:
    return [answer.text for answer in answers_of(generation, adapter, inputs, options)]


def transformers_answer(
    folder: str,
    adapter: Path | None,
    text: str,
    max_new_tokens: int = OPTIONS.max_output_tokens,
    earlier: Sequence[str] = (),
) -> str:
    """What transformers and PEFT answer by themselves, with the tokenizer's own chat template."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model = plain if adapter is None else PeftModel.from_pretrained(plain, adapter).eval()
    prompt = tokenizer.apply_chat_template(
        [{"role": ("user", "assistant")[n % 2], "content": turn} for n, turn in enumerate((*earlier, text))],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    with torch.no_grad():
        tokens = model.generate(**prompt, max_new_tokens=max_new_tokens, do_sample=False)
    return str(tokenizer.decode(tokens[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))


def test_generation_sends_the_prompt_tokens_of_training(base: LoadedModel) -> None:
    """The tokens of an example up to its answer are those that transformers' chat template gives."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base.network.config.name_or_path)
    for example in (*EXAMPLES, Example("\n two lines\nand 你好 ", "x")):
        (encoded,) = encoding.encode_examples(base.tokenizer, base.chat, [example])
        turns = [{"role": "user", "content": example.text_input}]
        assert encoded.prompt == tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
        assert ChatEncoder(base.tokenizer, base.chat).prompts([example.text_input]) == [encoded.prompt]
        assert encoded.target[-1] in base.stop_ids


@pytest.mark.parametrize(
    ("template", "kind"), [("qwen3", "bytes"), ("llama-2", "legacy pieces"), ("mistral", "pieces")]
)
def test_answers_are_reproduced_exactly(template: str, kind: str, cache: Path, tmp_path: Path) -> None:
    """Spaces, line breaks and the text of control tokens survive training and generation, whatever the chat format."""
    examples = (
        *EXAMPLES[:3],
        Example("spaces", "  a b "),
        Example("lines", "a\n\nb"),
        Example("tokens", "a <|im_end|></s> b"),
    )
    folder = tiny_model.build(
        tmp_path / "base", chat_template=chat_templates.ALL[template], tokenizer=TOKENIZERS[kind]()
    )
    model = tiny_model.model_of(folder)
    base = network.load(model, cache, network.choose_device("cpu"))
    tuned = tune(base, request_of(model, training=examples, epoch_count=60, batch_size=6, adapter_rank=8), tmp_path)
    options = replace(OPTIONS, max_output_tokens=40)
    prompts = [Prompt(one.text_input, options, str(tuned)) for one in examples]
    parts = [""] * len(prompts)

    def on_part(position: int, part: AnswerPart) -> None:
        parts[position] += part.text

    answers = [answer for answer in Generation(base).answer(prompts, on_part) if isinstance(answer, Answer)]
    assert [answer.text for answer in answers] == [one.output for one in examples] == parts
    assert not any(answer.is_cut for answer in answers)


def test_tuned_model_has_learned_its_examples(generation: Generation, tuned: Path) -> None:
    """Enough epochs on seven examples teach the tiny model their answers, end included."""
    answers = texts(generation, tuned, [one.text_input for one in EXAMPLES], OPTIONS)
    assert answers == [one.output for one in EXAMPLES]


def test_folder_loads_with_peft_alone(generation: Generation, tuned: Path, tiny: BaseModelRef) -> None:
    """PEFT and transformers load the folder unchanged and give the same answers as the engine."""
    ours = texts(generation, tuned, INPUTS, OPTIONS)
    assert ours == [transformers_answer(tiny.source, tuned, text) for text in INPUTS]


def test_base_model_answers_without_an_adapter(generation: Generation, tuned: Path, tiny: BaseModelRef) -> None:
    """The base model has the answers of transformers alone, also after adapters were used."""
    expected = [transformers_answer(tiny.source, None, text) for text in INPUTS]
    assert texts(generation, None, INPUTS, OPTIONS) == expected
    texts(generation, tuned, INPUTS, OPTIONS)
    assert texts(generation, None, INPUTS, OPTIONS) == expected


def test_answers_are_in_the_order_of_inputs(generation: Generation, tuned: Path) -> None:
    """Each of more inputs than fit into a batch is answered as if it were alone."""
    inputs = [one.text_input for one in EXAMPLES] * 6
    alone = {text: texts(generation, tuned, [text], OPTIONS)[0] for text in set(inputs)}
    assert texts(generation, tuned, inputs, OPTIONS) == [alone[text] for text in inputs]


def test_sampling_follows_its_seed(generation: Generation) -> None:
    """Above temperature 0 equal seeds give equal answers, and torch's own state does not change."""
    state = torch.random.get_rng_state()
    one, again, other = (
        texts(generation, None, INPUTS, GenerateOptions(max_output_tokens=12, temperature=1.0, seed=seed))
        for seed in (1, 1, 2)
    )
    assert one == again
    assert one != other
    assert torch.equal(state, torch.random.get_rng_state())


def test_adapters_that_were_dropped_are_read_again(generation: Generation, tuned: Path, tmp_path: Path) -> None:
    """If more tuned models are used than the cache keeps, they are read again, with the same answers."""
    first = texts(generation, tuned, INPUTS[:1], OPTIONS)
    for number in range(adapters.KEPT + 1):
        shutil.copytree(tuned, tmp_path / str(number))
    prompts = [Prompt(INPUTS[0], OPTIONS, str(tmp_path / str(number))) for number in range(adapters.KEPT + 1)]
    assert [answer.text for answer in generation.answer(prompts) if isinstance(answer, Answer)] == first * len(prompts)
    assert len(generation._adapters) == adapters.KEPT
    assert texts(generation, tuned, INPUTS[:1], OPTIONS) == first


def test_a_folder_that_was_tuned_again_is_another_adapter(
    generation: Generation, tuned: Path, others: list[Path], tmp_path: Path
) -> None:
    """After the folder got other weights, its answers are those of the new weights."""
    folder = tmp_path / "again"
    shutil.copytree(tuned, folder)
    assert texts(generation, folder, INPUTS, OPTIONS) == texts(generation, tuned, INPUTS, OPTIONS)
    shutil.rmtree(folder)
    shutil.copytree(others[0], folder)
    assert texts(generation, folder, INPUTS, OPTIONS) == texts(generation, others[0], INPUTS, OPTIONS)


def test_rows_of_a_batch_have_their_own_adapters(generation: Generation, tuned: Path, others: list[Path]) -> None:
    """Answers of different tuned models and of the base model in one batch are the same as alone."""
    folders = [None, tuned, *others]
    prompts = [
        Prompt(text, replace(OPTIONS, temperature=temperature, seed=5), None if folder is None else str(folder))
        for folder in folders
        for text, temperature in (("twenty two", 0.0), ("8", 0.0), ("one", 1.0))
    ]
    alone = [generation.answer([prompt])[0] for prompt in prompts]
    assert len(prompts) <= BatchLimits().rows
    assert generation.answer(prompts) == alone
    assert generation.answer(prompts[::-1]) == alone[::-1]
    assert len(set(alone)) > len(folders)
    assert generation.can_mix


@pytest.mark.parametrize("most", [2, 200])
def test_a_model_that_cannot_be_mixed_gives_the_same_answers(
    generation: Generation,
    base: LoadedModel,
    tuned: Path,
    others: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    most: int,
) -> None:
    """If a layer does not treat a batch row by row, or the ranks are too many, each adapter has batches of its own."""
    prompts = [Prompt(text, OPTIONS, str(folder)) for folder in (tuned, *others) for text in INPUTS[:2]]
    expected = generation.answer(prompts)
    limited = Generation(base, decoder_of(base, BatchLimits(mixed_ranks=most)))

    layer = base.network.model.layers[1].mlp
    forward = layer.forward
    monkeypatch.setattr(layer, "forward", lambda hidden: forward(hidden.flatten(0, 1)).view(hidden.shape))
    assert limited.answer(prompts) == expected
    assert limited.can_mix == (most == 2)


def test_a_long_prompt_does_not_shorten_other_answers(generation: Generation) -> None:
    """One prompt almost fills the context; the other answers of its batch are as long as alone."""
    options = GenerateOptions(max_output_tokens=100, temperature=3.0, seed=3)
    prompts = [Prompt(text, options) for text in ("1 " * 45, "2 " * 20, "8")]
    alone = [generation.answer([prompt])[0] for prompt in prompts]
    together = generation.answer(prompts)
    assert together == alone
    lengths = [answer.tokens for answer in together if isinstance(answer, Answer)]
    assert lengths[0] < lengths[1] < lengths[2] == 100


def test_sampling_does_not_depend_on_other_rows(generation: Generation) -> None:
    """A sampled answer depends on its prompt and its seed alone."""
    options = GenerateOptions(max_output_tokens=12, temperature=1.0, seed=4)
    alone = {text: texts(generation, None, [text], options)[0] for text in INPUTS}
    for inputs in (INPUTS, INPUTS[::-1], INPUTS * 5):
        assert texts(generation, None, inputs, options) == [alone[text] for text in inputs]


def test_each_prompt_has_its_own_options(generation: Generation) -> None:
    """Prompts of one batch end by their own options, and sample with their own seeds or not at all."""
    options = [
        GenerateOptions(max_output_tokens=3),
        GenerateOptions(max_output_tokens=12, temperature=1.0, seed=1),
        GenerateOptions(max_output_tokens=9, temperature=1.0, seed=2, top_k=5),
        GenerateOptions(max_output_tokens=7, temperature=0.5, seed=2, top_p=0.9),
    ]
    prompts = [Prompt("ninety", one) for one in options]
    assert generation.answer(prompts) == [generation.answer([prompt])[0] for prompt in prompts]


def test_a_prompt_without_an_answer_says_why(
    generation: Generation, tuned: Path, tmp_path: Path, base: LoadedModel
) -> None:
    """A prompt that cannot be answered has its own error, and the others their answers."""
    long = Prompt("1 " * tiny_model.CONTEXT_TOKENS, OPTIONS)
    missing = Prompt("1", OPTIONS, str(tmp_path))
    good = Prompt("1", OPTIONS, str(tuned))
    first, second, third = generation.answer([long, missing, good])
    assert isinstance(first, InputError)
    assert "no room for an answer in the base model's 128 tokens" in str(first)
    assert isinstance(second, NotFoundError)
    assert [third] == generation.answer([good])
    assert base.network.training is False


def test_all_or_none(generation: Generation, base: LoadedModel) -> None:
    """If one prompt cannot be answered, none is, and the error names the first one and their number."""
    forwards: list[int] = []
    hook = base.network.register_forward_hook(lambda *_: forwards.append(1))
    long = Prompt("1 " * tiny_model.CONTEXT_TOKENS, OPTIONS)
    with pytest.raises(InputError, match="2 of 3 inputs cannot be answered; number 2: the input takes"):
        generation.answer([Prompt("1", OPTIONS), long, long], all_or_none=True)
    hook.remove()
    assert not forwards


@pytest.mark.parametrize("stops", [("o",), ("hundred", "ne h"), ("\u00e9", "red"), ("never",)])
def test_a_stop_sequence_ends_an_answer(generation: Generation, tuned: Path, stops: tuple[str, ...]) -> None:
    """The text and its tokens end before the first stop sequence, and no part is sent too early."""
    (whole,) = answers_of(generation, tuned, ["ninety nine"], OPTIONS)
    assert whole.text == "one hundred"
    parts: list[str] = []
    options = replace(OPTIONS, stop_sequences=stops)
    prompts = [Prompt("ninety nine", options, str(tuned)), Prompt("ninety nine", OPTIONS, str(tuned))]
    answer, beside = generation.answer(
        prompts, lambda position, part: parts.append(part.text) if position == 0 else None
    )
    places = [place for stop in stops if (place := whole.text.find(stop)) >= 0]
    expected = whole.text[: min(places)] if places else whole.text
    assert isinstance(answer, Answer)
    assert answer.text == "".join(parts) == expected
    assert not answer.is_cut
    assert answer.tokens == whole.tokens if not places else answer.tokens <= whole.tokens
    assert bool(answer.tokens) == bool(expected)
    assert beside == whole


def test_a_stop_sequence_ends_generation(generation: Generation, base: LoadedModel) -> None:
    """No token is generated after a stop sequence."""
    (whole,) = answers_of(generation, None, ["8"], GenerateOptions(max_output_tokens=50, temperature=2.0, seed=1))
    assert whole.tokens == 50
    forwards: list[int] = []
    hook = base.network.register_forward_hook(lambda *_: forwards.append(1))
    stop = whole.text[10:12]
    options = GenerateOptions(max_output_tokens=50, temperature=2.0, seed=1, stop_sequences=(stop,))
    (answer,) = answers_of(generation, None, ["8"], options)
    hook.remove()
    assert answer.text == whole.text[: whole.text.index(stop)]
    assert answer.tokens <= len(forwards) < 50


def test_adapter_of_another_base_model_is_refused(
    base: LoadedModel, generation: Generation, tuned: Path, tmp_path: Path
) -> None:
    """A tuned model is not attached to a base model with other weights."""
    folder = tmp_path / "other"
    folder.mkdir()
    record = (tuned / tuned_model.RECORD_FILE).read_text()
    (folder / tuned_model.RECORD_FILE).write_text(record.replace(base.identity, "folder:sha256:0"))
    with pytest.raises(BaseModelError, match="was tuned from folder:sha256:0"):
        texts(generation, folder, INPUTS, OPTIONS)


def test_folder_without_a_tuned_model_is_refused(generation: Generation, tmp_path: Path) -> None:
    """The error names a folder that tunerun did not write."""
    with pytest.raises(NotFoundError, match="does not hold a tuned model"):
        texts(generation, tmp_path, INPUTS, OPTIONS)


def test_examples_before_an_input_are_turns(generation: Generation, tuned: Path, tiny: BaseModelRef) -> None:
    """The answers are those of transformers to the whole conversation, each alone and in a batch that shares them."""
    turns = [text for one in EXAMPLES[:2] for text in (one.text_input, one.output)]
    for adapter in (None, tuned):
        location = None if adapter is None else str(adapter)
        prompts = [Prompt(text, OPTIONS, location, EXAMPLES[:2]) for text in INPUTS]
        together = generation.answer(prompts)
        assert together == [generation.answer([prompt])[0] for prompt in prompts]
        answers = [answer.text for answer in together if isinstance(answer, Answer)]
        assert answers == [transformers_answer(tiny.source, adapter, text, earlier=turns) for text in INPUTS]
    assert answers != texts(generation, tuned, INPUTS, OPTIONS)


def test_examples_that_fill_the_context_are_refused(generation: Generation) -> None:
    """The error names them, and what to do."""
    with pytest.raises(InputError, match=r"and 70 earlier turns, which leaves no room .* give fewer earlier turns"):
        generation.answer([Prompt("1", OPTIONS, None, EXAMPLES * 10)], all_or_none=True)


def test_input_that_fills_the_context_is_refused(generation: Generation) -> None:
    """An input that leaves no room for an answer is refused."""
    with pytest.raises(InputError, match=r"the input takes .* tokens .* no room for an answer"):
        texts(generation, None, ["1", "1 " * tiny_model.CONTEXT_TOKENS], OPTIONS)


def test_answer_ends_where_the_context_ends(generation: Generation) -> None:
    """The answer to a prompt that almost fills the context has the remaining tokens."""
    assert len(texts(generation, None, ["1 " * 40], GenerateOptions(max_output_tokens=1000))) == 1


def streamed(generation: Generation, prompt: Prompt) -> tuple[Answer, list[str]]:
    parts: list[str] = []
    (answer,) = generation.answer([prompt], lambda _position, part: parts.append(part.text))
    assert isinstance(answer, Answer)
    return answer, parts


def test_parts_of_a_streamed_answer_are_its_text(generation: Generation, tuned: Path) -> None:
    """No part ends within a character; the answer has its number of tokens, and whether it was cut."""
    for text, most in (("ninety nine", 12), ("ninety nine", 2), ("", 12)):
        options = GenerateOptions(max_output_tokens=most)
        answer, parts = streamed(generation, Prompt(text, options, str(tuned)))
        assert "".join(parts) == answer.text == texts(generation, tuned, [text], options)[0]
        assert "\ufffd" not in "".join(parts[:-1])
        assert answer.tokens <= most
        assert answer.is_cut == (answer.tokens == most)
    assert len(parts) >= 1


def test_the_likeliest_token_alone_is_the_greedy_answer(generation: Generation, tuned: Path) -> None:
    """With top_k 1, or a tiny top_p, sampling gives the greedy answer."""
    greedy = texts(generation, tuned, INPUTS, OPTIONS)
    for narrow in ({"top_k": 1}, {"top_p": 1e-6}):
        options = GenerateOptions(max_output_tokens=12, temperature=1.0, seed=3, **narrow)
        assert texts(generation, tuned, INPUTS, options) == greedy


def test_a_tuned_model_continues_where_it_ended(
    base: LoadedModel, tiny: BaseModelRef, tuned: Path, generation: Generation, tmp_path: Path
) -> None:
    """Its first loss and its rank are the parent's, and the parent is unchanged."""
    before = (tuned / "adapter_model.safetensors").read_bytes()
    request = replace(request_of(tiny, key="c", epoch_count=1, batch_size=7, adapter_rank=2), start_from=str(tuned))
    held_out = replace(request_of(tiny, key="d", epoch_count=1, batch_size=7, learning_rate=1e-12), validation=EXAMPLES)
    observer = Recording(folder=tmp_path)
    (outcome,) = training.train([request], base, observer)
    assert outcome.failure is None
    (parent,) = training.train([replace(held_out, start_from=str(tuned))], base, Recording())
    assert observer.losses(request)[0] == pytest.approx(parent.metrics["validation/loss"], rel=1e-4)
    assert (tuned / "adapter_model.safetensors").read_bytes() == before
    assert json.loads((tmp_path / request.tuned_model_id / "adapter_config.json").read_text())["r"] == 8
    (missing,) = training.train([replace(request, start_from=str(tmp_path / "none"))], base, Recording())
    assert missing.failure is not None
    assert "does not hold a tuned model" in missing.failure.message


def test_answers_that_are_cancelled_end_at_the_next_token(generation: Generation) -> None:
    """Each answer keeps its tokens up to then; a prompt that is cancelled before it starts has none."""
    options = GenerateOptions(max_output_tokens=60, temperature=2.0)
    looks: list[int] = []

    def after_five(position: int) -> bool:
        looks.append(position)
        return looks.count(position) >= 5 and position != 1

    prompts = [Prompt(text, options) for text in INPUTS]
    answers = [answer for answer in generation.answer(prompts, None, after_five) if isinstance(answer, Answer)]
    assert [answer.tokens for answer in answers] == [4, 60, 4, 4, 4]
    none = generation.answer([Prompt("8", options)], None, lambda _position: True)
    assert [answer.tokens for answer in none if isinstance(answer, Answer)] == [0]
