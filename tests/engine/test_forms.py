"""Forms: in every layout of a pass, each row has the loss and the gradients that it has alone."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunerun.engine import forms, lora, passes, shared_prefix
from tunerun.engine.encoding import EncodedExample
from tunerun.engine.forms import masks, probe
from tunerun.engine.forms.layout import lay_out
from tunerun.engine.forms.packed import Packed
from tunerun.engine.forms.padded import Padded, PrefixCache
from tunerun.engine.lora import LearningAdapter
from tunerun.engine.network import LoadedModel
from tunerun.job import TuningHyperparameters

pytestmark = pytest.mark.engine

TOKENS, PREFIX = 64, 11
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "vocab_size": TOKENS,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
HEADS = SMALL | {"head_dim": 8}
WINDOWED = HEADS | {"sliding_window": 8}
BOTH_KINDS = WINDOWED | {"layer_types": ["sliding_attention", "full_attention"]}
OLDER = {  # names of settings before Llama
    "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "num_layers": 2, "num_heads": 4,
    "vocab_size": TOKENS, "hidden_size": 32, "initializer_range": 0.3, "pad_token_id": 0,
}  # fmt: skip
MPT = {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 128, "vocab_size": TOKENS, "initializer_range": 0.3}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
MAMBA = {
    "attn_layer_indices": [1], "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
}  # fmt: skip
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "shared_expert_intermediate_size": 16,
}  # fmt: skip
OPT = {"ffn_dim": 64, "word_embed_proj_dim": 32}
GPT_NEO = OLDER | {"attention_types": [[["global", "local"], 1]], "window_size": 8, "max_position_embeddings": 128}
DEEPSEEK = {
    "num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
    "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "q_lora_rank": 16, "kv_lora_rank": 16,
    "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "n_shared_experts": 1,
}  # fmt: skip
LRU = {"num_hidden_layers": 3, "num_key_value_heads": 1, "lru_width": 32, "attention_window_size": 8}

# Architecture, settings, the form that is right and whether packs are. The silently wrong ones, which give other losses
# without any error (feasibility page, 1a): a plain mask where there is a window, a shared prefix where distances are
# counted in the sequence (mpt, gpt_neo), any packing where there is a state or a convolution.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any], str, bool]] = {
    "llama": ("llama", SMALL, "shared prefix", True),
    "qwen2": ("qwen2", SMALL, "shared prefix", True),
    "qwen3": ("qwen3", HEADS, "shared prefix", True),
    "smollm3": ("smollm3", SMALL, "shared prefix", True),
    "phi3": ("phi3", SMALL, "shared prefix", True),
    "phi3 with a window": ("phi3", SMALL | {"sliding_window": 8}, "shared prefix", True),
    "mistral with a window": ("mistral", WINDOWED, "shared prefix", True),
    "starcoder2 with a window": ("starcoder2", SMALL | {"sliding_window": 8}, "shared prefix", True),
    "qwen2 with a window in some layers": (
        "qwen2", SMALL | {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, "shared prefix", True
    ),
    "gemma2": ("gemma2", WINDOWED, "shared prefix", True),
    "gemma3": ("gemma3_text", BOTH_KINDS, "shared prefix", True),
    "exaone4": ("exaone4", BOTH_KINDS, "shared prefix", True),
    "gpt_oss": ("gpt_oss", WINDOWED | {"num_local_experts": 4, "num_experts_per_tok": 2}, "shared prefix", True),
    "cohere": ("cohere", SMALL | {"logit_scale": 0.5}, "shared prefix", True),
    "granite": ("granite", SMALL | {"logits_scaling": 4.0}, "shared prefix", True),
    "glm4": ("glm4", HEADS, "shared prefix", True),
    "gpt2": ("gpt2", OLDER, "shared prefix", True),
    "falcon": ("falcon", SMALL, "shared prefix", True),
    "mixtral": ("mixtral", SMALL | {"num_local_experts": 4}, "shared prefix", True),
    "qwen3_moe": ("qwen3_moe", HEADS | EXPERTS, "shared prefix", True),
    "opt": ("opt", SMALL | OPT, "shared prefix", False),
    "deepseek_v3": ("deepseek_v3", SMALL | DEEPSEEK, "shared prefix", False),
    "mpt": ("mpt", MPT, "packed", True),
    "gpt_neo": ("gpt_neo", GPT_NEO, "packed", True),
    "falcon with alibi": ("falcon", SMALL | {"alibi": True}, "prefix cache", False),
    "bloom": ("bloom", OLDER, "prefix cache", False),
    "lfm2": ("lfm2", SMALL | {"layer_types": ["conv", "full_attention"]}, "padded", False),
    "bamba": ("bamba", SMALL | MAMBA, "padded", False),
    "qwen3_next": ("qwen3_next", HEADS | EXPERTS | LINEAR, "padded", False),
    "recurrent_gemma": ("recurrent_gemma", HEADS | LRU, "padded", False),
}  # fmt: skip

FOLLOWS = {  # what keeps keys and values of all tokens, and does not count distances in the sequence
    "llama", "qwen2", "qwen3", "smollm3", "phi3", "cohere", "granite", "glm4", "gpt2", "falcon", "mixtral", "qwen3_moe",
    "opt", "deepseek_v3", "falcon with alibi", "bloom",
}  # fmt: skip


def build(name: str) -> LoadedModel:
    """Return a random model of an architecture as a loaded base model."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.set_num_threads(1)  # two would wait for each other longer than they work
    architecture, sizes, *_expected = ARCHITECTURES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        made = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **sizes))
    made.float().eval().requires_grad_(False)
    facts: dict[str, Any] = dict.fromkeys(("identity", "tokenizer", "chat", "turns", "public_name", "context_tokens"))
    keeps_logits = "logits_to_keep" in inspect.signature(made.forward).parameters
    return LoadedModel(
        network=made, device=torch.device("cpu"), stop_ids=[2], pad_id=0, keeps_logits=keeps_logits, **facts
    )


def adapters_of(base: LoadedModel, ranks: Sequence[int]) -> list[LearningAdapter]:
    adapters = [lora.fresh(base, TuningHyperparameters(adapter_rank=rank), seed) for seed, rank in enumerate(ranks)]
    numbers = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for adapter in adapters:
            for _down, up in adapter.matrices.values():
                up.copy_(torch.randn(up.shape, generator=numbers) * 0.02)
    return adapters


def computed(
    form: forms.Form, base: LoadedModel, members: Sequence[Sequence[EncodedExample]], adapters: list[LearningAdapter]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return the losses of all rows, and the gradients of each adapter as one vector."""
    parameters = [adapter.parameters() for adapter in adapters]
    with lora.on(base.network, adapters):
        losses = form.row_losses(base, members)
        flat = [one for each in parameters for one in each]
        found = iter(torch.autograd.grad(losses.sum(), flat, allow_unused=True, materialize_grads=True))
    return losses.detach(), [torch.cat([next(found).flatten() for _one in each]) for each in parameters]


def differences(
    form: forms.Form, base: LoadedModel, members: Sequence[Sequence[EncodedExample]], ranks: Sequence[int]
) -> tuple[float, float]:
    """Return the relative differences of losses and gradients from those of each row alone."""
    adapters = adapters_of(base, ranks)
    losses, gradients = computed(form, base, members, adapters)
    alone = [
        [computed(Padded(), base, [[row]], [adapter]) for row in rows]
        for rows, adapter in zip(members, adapters, strict=True)
    ]
    expected = torch.cat([one for each in alone for one, _gradients in each])
    sums = [torch.stack([own for _losses, (own,) in each]).sum(0) for each in alone]
    return (
        float(((losses - expected).abs() / expected.abs()).max()),
        max(float((one - other).norm() / other.norm()) for one, other in zip(gradients, sums, strict=True)),
    )


def after_cached_prefix(form: forms.Form, base: LoadedModel) -> float:
    """Return the relative difference of losses from those of each row alone, if rows follow a cached prefix."""
    (rows,) = fixed_members(1)
    prefix = shared_prefix.compute(base, rows[0].prompt[:PREFIX])
    losses = form.row_losses(base, [[row.without(PREFIX) for row in rows]], prefix)
    alone = torch.cat([Padded().row_losses(base, [[row]]) for row in rows])
    return float(((losses - alone).abs() / alone.abs()).max())


def some(count: int, numbers: torch.Generator) -> list[int]:
    return torch.randint(TOKENS, (count,), generator=numbers).tolist()


def fixed_members(count: int) -> list[list[EncodedExample]]:
    """Return rows longer than every window here, with a common prefix; one of them is a conversation."""
    numbers = torch.Generator().manual_seed(5)
    members = []
    for _member in range(count):
        prefix = some(PREFIX, numbers)
        first = EncodedExample(prefix + some(9, numbers), some(4, numbers), ((13, 15), (17, 18)))
        members.append(
            [first, *(EncodedExample(prefix + some(length, numbers), some(3, numbers)) for length in (2, 14))]
        )
    return members


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_form_of_an_architecture_gives_the_results_of_single_rows(name: str) -> None:
    """The cheapest right form is chosen, its losses and gradients agree, and the network is unchanged."""
    *_model, expected, takes_packs = ARCHITECTURES[name]
    base = build(name)
    before = {**base.network.state_dict()}, repr(base.network), base.network.config.to_dict()
    form = forms.choose(base)
    assert (form.name, form.takes_packs) == (expected, takes_packs)
    assert form.can_follow == (name in FOLLOWS)
    count = 2 if takes_packs else 1
    losses, gradients = differences(form, base, fixed_members(count), [3, 1][:count])
    assert losses < 1e-5
    assert gradients < 1e-5
    if form.can_follow:
        assert after_cached_prefix(form, base) < 1e-5
    after = {**base.network.state_dict()}, repr(base.network), base.network.config.to_dict()
    assert before[1:] == after[1:]
    assert all(value is after[0][key] or torch.equal(value, after[0][key]) for key, value in before[0].items())
    assert not any(one.requires_grad for one in base.network.parameters())


@pytest.fixture(scope="module")
def windowed() -> LoadedModel:
    """A model with full and with windowed attention, whose windows are shorter than most rows."""
    return build("gemma3")


@pytest.fixture(scope="module")
def llama() -> LoadedModel:
    return build("llama")


@st.composite
def rows_of_a_trial(draw: st.DrawFn) -> list[EncodedExample]:
    """Rows with something in common, or nothing; some conversations that learn earlier answers; some rows alike."""
    tokens = st.integers(0, 3) | st.integers(0, TOKENS - 1)  # few, so that rows begin alike by chance as well
    prefix = draw(st.lists(tokens, max_size=14))
    rows = []
    for _row in range(draw(st.integers(1, 4))):
        own = draw(st.lists(tokens, min_size=1, max_size=10))
        prompt = [*prefix, *own]
        edges = sorted(draw(st.sets(st.integers(1, len(prompt)), max_size=4)))
        pairs = zip(edges[::2], edges[1::2], strict=False)
        rows.append(EncodedExample(prompt, draw(st.lists(tokens, min_size=1, max_size=5)), tuple(pairs)))
    return rows


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(members=st.lists(st.tuples(rows_of_a_trial(), st.integers(1, 4)), min_size=1, max_size=3))
def test_every_form_gives_the_results_of_single_rows(
    windowed: LoadedModel, llama: LoadedModel, members: list[tuple[list[EncodedExample], int]]
) -> None:
    """For random rows, prefixes, conversations, members and ranks, with both kinds of masks."""
    rows, ranks = [rows for rows, _rank in members], [rank for _rows, rank in members]
    for base in (windowed, llama):
        for form in (Packed(shares_prefix=True), Packed(shares_prefix=False)):
            assert max(differences(form, base, rows, ranks)) < 1e-5
    for side_by_side in (PrefixCache(), Padded()):
        assert max(differences(side_by_side, llama, rows[:1], ranks[:1])) < 1e-5


@given(rows=rows_of_a_trial())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_a_token_attends_to_the_earlier_tokens_of_its_row(rows: list[EncodedExample]) -> None:
    """In their order, and to no others; each learned token is predicted from its own row."""
    for shares in (True, False):
        layout = lay_out(rows, shares=shares)
        seen = [
            [other for other in range(place + 1) if place < layout.ends[other]] for place in range(len(layout.tokens))
        ]
        expected = [
            (number, (row.prompt + row.target)[: place + 1], label)
            for number, row in enumerate(rows)
            for place, label in enumerate(row.labels(1))
            if label >= 0
        ]
        found = [
            (number, [layout.tokens[other] for other in seen[place]], label) for place, label, number in layout.learned
        ]
        assert sorted(found) == sorted(expected)
        assert all(layout.positions[place] == len(seen[place]) - 1 for place in range(len(seen)))


class PlainMasks(Packed):
    """Packed rows whose masks ignore windows and kinds of layers."""

    def mask(self, network: Any, ends: torch.Tensor, positions: torch.Tensor, before: int) -> masks.Mask:
        config = SimpleNamespace(_attn_implementation=network.config.get_text_config()._attn_implementation)
        config.get_text_config = lambda: config
        return masks.build(SimpleNamespace(config=config, dtype=network.dtype), ends, positions, before)


@pytest.mark.parametrize("name", ["mistral with a window", "gemma3", "mpt", "gpt_neo", "lfm2", "bamba", "qwen3_next"])
def test_a_form_that_is_silently_wrong_is_refused(name: str) -> None:
    """With masks that ignore windows, distances within the sequence, states and convolutions give wrong losses."""
    base = build(name)
    assert max(differences(PlainMasks(shares_prefix=True), base, fixed_members(1), [3])) > 2e-4, "nothing is wrong here"
    form = probe.first_right(base, [PlainMasks(shares_prefix=shares) for shares in (True, False)])
    assert form.name == ("packed" if name in {"mpt", "gpt_neo"} else "padded")
    assert not form.can_follow or after_cached_prefix(form, base) < 1e-5


@pytest.mark.parametrize("weights", [torch.nan, 0.0])
def test_a_model_with_unusable_weights_has_padded_rows(weights: float) -> None:
    """If a wrong form would give the same losses, no form but the plainest is trusted."""
    base = build("llama")
    with torch.no_grad():
        for weight in base.network.parameters():
            weight.fill_(weights)
    assert forms.choose(base).name == "padded"


def test_weights_of_16_bits_are_probed_in_float32() -> None:
    """The form is the one of the same weights in float32, and the weights are unchanged."""
    base = build("mpt")
    base.network.to(torch.bfloat16)
    before = {name: weight.clone() for name, weight in base.network.named_parameters()}
    assert forms.choose(base).name == "packed"
    assert all(torch.equal(before[name], weight) for name, weight in base.network.named_parameters())
    assert {weight.dtype for weight in base.network.parameters()} == {torch.bfloat16}


class CoarseLinear(torch.nn.Linear):
    """A linear layer whose weight is stored as bytes and multiplied in bfloat16, as in 4-bit layers."""

    @classmethod
    def of(cls, layer: torch.nn.Linear) -> CoarseLinear:
        coarse = cls(layer.in_features, layer.out_features, bias=False)
        codes = layer.weight.detach().to(torch.bfloat16).view(torch.uint8)
        coarse.weight = torch.nn.Parameter(codes, requires_grad=False)
        return coarse

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        weight = self.weight.view(torch.bfloat16)
        return torch.nn.functional.linear(inputs.to(torch.bfloat16), weight).to(inputs.dtype)


@pytest.mark.parametrize("name", ["llama", "mpt"])
def test_rounding_is_distinguished_from_a_wrong_form(name: str) -> None:
    """Weights that cannot be used in float32 lead to the same form."""
    base = build(name)
    output = base.network.get_output_embeddings()
    for parent in list(base.network.modules()):
        for part, layer in list(parent.named_children()):
            if isinstance(layer, torch.nn.Linear) and layer is not output:
                setattr(parent, part, CoarseLinear.of(layer))
    assert forms.choose(base).name == ARCHITECTURES[name][2]


def test_parts_are_small_enough_for_a_pass(llama: LoadedModel, windowed: LoadedModel) -> None:
    """Each row is in one part, a common prefix is counted once, and the losses of the parts add up to the whole."""
    numbers = torch.Generator().manual_seed(1)
    prefix = some(300, numbers)
    rows = [EncodedExample([*prefix, *some(40, numbers)], some(5, numbers)) for _row in range(30)]
    shared = passes.parts(llama, rows)
    assert sorted(position for part in shared for position in part) == list(range(30))
    assert len(shared) == 3
    assert [len(part) for part in passes.parts(llama, rows[:10], most_rows=4)] == [3, 3, 4]
    assert len(passes.parts(llama, rows, members=8)) == 6
    side_by_side = build("lfm2")
    assert [len(part) for part in passes.parts(side_by_side, rows[:4])] == [1, 1, 1, 1]
    assert passes.parts(llama, []) == []
    some_rows = fixed_members(2)[0] + fixed_members(2)[1]
    form = forms.choose(llama)
    whole = form.losses(llama, [some_rows])
    divided = passes.parts(llama, some_rows, most_rows=2)
    sums = sum(form.losses(llama, [[some_rows[position] for position in part]]) for part in divided)
    assert float(sums) == pytest.approx(float(whole), rel=1e-6)
