"""How likely outputs are: the loss of training, by row, whatever is beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.engine import tiny_model, training
from tests.engine.observer import Recording
from tests.engine.test_generation import tune
from tests.engine.tiny_model import EXAMPLES, HELD_OUT, request_of
from tunerun.engine import shared_prefix
from tunerun.engine.forms.padded import Padded
from tunerun.engine.generation import Generation
from tunerun.engine.network import LoadedModel
from tunerun.errors import BaseModelError, InputError, NotFoundError
from tunerun.examples import Example
from tunerun.job import BaseModelRef

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

ROWS = (*EXAMPLES, *HELD_OUT)


@pytest.fixture(scope="module")
def tuned(base: LoadedModel, tiny: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tune(base, request_of(tiny, epoch_count=20, batch_size=7), tmp_path_factory.mktemp("tuned"))


@pytest.fixture
def generation(base: LoadedModel) -> Generation:
    return Generation(base)


def measured(
    generation: Generation, rows: tuple[Example, ...], adapter: Path | None, examples: tuple[Example, ...] = ()
) -> list[tuple[float, int]]:
    losses = generation.measure([(row.text_input, (row.output,)) for row in rows], adapter, examples)
    return [(one.nats, one.tokens) for (one,) in losses]


def test_losses_are_those_of_training(
    base: LoadedModel, tiny: BaseModelRef, generation: Generation, tmp_path: Path
) -> None:
    """All rows together give the validation loss that training measured, of the base model and of the tuned one."""
    request = request_of(tiny, epoch_count=5, validation=ROWS)
    folder = tune(base, request, tmp_path)
    (outcome,) = training.train([request], base, Recording())
    for adapter, name in ((None, "validation/base_loss"), (folder, "validation/loss")):
        losses = measured(generation, ROWS, adapter)
        loss = sum(nats for nats, _tokens in losses) / sum(tokens for _nats, tokens in losses)
        assert loss == pytest.approx(outcome.metrics[name], rel=1e-6)


def transformers_nats(folder: str, adapter: Path | None, turns: list[str], output: str) -> float:
    """The negative log likelihood of an answer by transformers and PEFT alone, a row at a time."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model = plain if adapter is None else PeftModel.from_pretrained(plain, adapter).eval()
    messages = [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(turns)]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    target = tokenizer(f"{output}<|im_end|>", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([prompt + target])).logits[0, len(prompt) - 1 : -1]
    return float(-logits.log_softmax(-1)[range(len(target)), target].sum())


@pytest.mark.parametrize("examples", [(), EXAMPLES[:2]])
def test_losses_are_those_of_transformers(
    generation: Generation, tuned: Path, tiny: BaseModelRef, examples: tuple[Example, ...]
) -> None:
    """For the base model and a tuned one, without and with examples before the input."""
    turns = [text for one in examples for text in (one.text_input, one.output)]
    for adapter in (None, tuned):
        losses = measured(generation, HELD_OUT, adapter, examples)
        for row, (nats, _tokens) in zip(HELD_OUT, losses, strict=True):
            expected = transformers_nats(tiny.source, adapter, [*turns, row.text_input], row.output)
            assert nats == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("examples", [(), EXAMPLES[:2]])
def test_what_prompts_share_is_computed_once_with_the_same_numbers(
    base: LoadedModel, generation: Generation, tuned: Path, examples: tuple[Example, ...]
) -> None:
    """Outputs of one prompt and prompts with a common prefix have the losses of whole sequences, for less work."""
    rows = [(row.text_input, tuple(one.output for one in ROWS)) for row in ROWS]
    tokens: list[int] = []
    hook = base.network.register_forward_hook(
        lambda _network, _args, given, _output: tokens.append(given["input_ids"].numel()), with_kwargs=True
    )
    for adapter in (None, tuned):
        shared = generation.measure(rows, adapter, examples)
        work = sum(tokens)
        # A form that was not probed is not trusted to follow a cached prefix, so nothing is shared.
        whole = Generation(replace(base, form=Padded())).measure(rows, adapter, examples)
        assert work < (sum(tokens) - work) / 2
        tokens.clear()
        for one, other in zip(shared, whole, strict=True):
            assert [each.tokens for each in one] == [each.tokens for each in other]
            assert [each.nats for each in one] == pytest.approx([each.nats for each in other], rel=1e-4)
    hook.remove()


def test_length_of_a_common_prefix() -> None:
    """It is shorter than every sequence."""
    assert shared_prefix.length([[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 4]]) == 2
    assert shared_prefix.length([[1, 2, 3], [1, 2, 3]]) == 2
    assert shared_prefix.length([[1, 2], [1, 2, 3]]) == 1
    assert shared_prefix.length([[7]]) == 0
    assert shared_prefix.length([[1, 2], [2, 1]]) == 0


def test_a_loss_does_not_depend_on_other_rows(generation: Generation, tuned: Path) -> None:
    """Losses are the same in any order and number of rows; the same call gives the same bits."""
    rows = ROWS * 4
    alone = {row: measured(generation, (row,), tuned)[0] for row in ROWS}
    for chosen in (rows, rows[::-1]):
        losses = measured(generation, chosen, tuned)
        assert losses == measured(generation, chosen, tuned)
        for row, (nats, tokens) in zip(chosen, losses, strict=True):
            assert nats == pytest.approx(alone[row][0], rel=1e-5)
            assert tokens == alone[row][1]


def test_a_row_that_is_too_long_is_named_before_any_is_measured(generation: Generation, base: LoadedModel) -> None:
    """The error names the first one and their number, also if only the examples make it too long."""
    forwards: list[int] = []
    hook = base.network.register_forward_hook(lambda *_: forwards.append(1))
    long = Example("1 " * tiny_model.CONTEXT_TOKENS, "2")
    with pytest.raises(InputError, match=r"2 of 3 inputs cannot be measured; number 2: it takes \d+ tokens"):
        measured(generation, (ROWS[0], long, long), None)
    with pytest.raises(InputError, match="1 of 1 inputs cannot be measured"):
        measured(generation, ROWS[:1], None, EXAMPLES * 10)
    hook.remove()
    assert not forwards


def test_what_cannot_be_measured_says_why(generation: Generation, tuned: Path, tmp_path: Path) -> None:
    """A folder without a tuned model, and a tuned model of another base model, are refused."""
    with pytest.raises(NotFoundError, match="does not hold a tuned model"):
        measured(generation, ROWS, tmp_path)
    record = (tuned / "tunerun.json").read_text()
    (tmp_path / "tunerun.json").write_text(record.replace(generation.base.identity, "folder:sha256:0"))
    with pytest.raises(BaseModelError, match="was tuned from folder:sha256:0"):
        measured(generation, ROWS, tmp_path)
