"""Number formats of the frozen weights; gradient checkpointing and micro-batches, which do not change results."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.engine import training
from tests.engine.observer import Recording
from tests.engine.tiny_model import EXAMPLES, HELD_OUT, request_of
from tunerun.backends import capabilities_of
from tunerun.backends.local import LocalSection
from tunerun.engine import loading, network, precision
from tunerun.engine.generation import Generation
from tunerun.engine.network import LoadedModel
from tunerun.engine.settings import EngineSettings
from tunerun.errors import BaseModelError, MissingPackageError
from tunerun.generation import GenerateOptions, Prompt
from tunerun.job import BaseModelRef

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def in_bf16(tiny: BaseModelRef, cache: Path) -> LoadedModel:
    return network.load(tiny, cache, network.choose_device("cpu"), EngineSettings(precision="bf16"))


def losses(base: LoadedModel, tiny: BaseModelRef, folder: Path | None = None, **settings: Any) -> list[float]:
    request, observer = request_of(tiny, validation=HELD_OUT, epoch_count=4, **settings), Recording(folder=folder)
    (outcome,) = training.train([request], base, observer)
    assert outcome.failure is None, outcome.failure
    return [*observer.losses(request), *(each.loss for each in observer.validation[request.key])]


def test_a_frozen_bf16_model_trains_an_fp32_adapter(
    base: LoadedModel, in_bf16: LoadedModel, tiny: BaseModelRef, tmp_path: Path
) -> None:
    """Losses equal those of float32 up to bfloat16's rounding; the adapter's file is float32."""
    assert {weight.dtype for weight in in_bf16.network.parameters()} == {torch.bfloat16}
    found, exact = losses(in_bf16, tiny, tmp_path), losses(base, tiny)
    assert found[:3] == pytest.approx(exact[:3], rel=1e-2)
    assert found == pytest.approx(exact, rel=0.1)
    weights = load_file(tmp_path / "tiny-a" / "adapter_model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    answers = Generation(in_bf16).answer([Prompt("1", GenerateOptions(max_output_tokens=4))])
    assert len(answers) == 1


def test_a_request_that_was_planned_for_another_format_is_refused(base: LoadedModel, tiny: BaseModelRef) -> None:
    """Its key would identify another result; a request for the engine's own format is accepted."""
    request = replace(request_of(tiny), precision="bfloat16")
    with pytest.raises(
        BaseModelError, match=r"planned for a base model in bfloat16, .* float32 on cpu; set backend\.prec"
    ):
        base.check_planned(request)
    base.check_planned(replace(request, precision="float32"))


def test_a_plan_knows_the_format_without_torch() -> None:
    """The configured format, or float32 for `auto` on this CPU."""
    settings = {"fp32": "float32", "bf16": "bfloat16", "auto": "float32"}
    code = (
        "import sys; from tunerun.engine import precision; from tunerun.engine.settings import EngineSettings as S\n"
        "print([precision.planned(S('cpu', None, p)) for p in sys.argv[1:]], 'torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code, *settings], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == f"{list(settings.values())} False"
    for name, expected in settings.items():
        assert precision.of_engine(EngineSettings(precision=name), CPU) == expected
        section = LocalSection(kind="local", device="cpu", precision=name)  # type: ignore[arg-type]
        assert capabilities_of(section).precision == expected


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [((), "float32"), (((7, 5),), "float32"), (((8, 0),), "bfloat16"), (((9, 0), (7, 0)), "float32")],
)
def test_auto_is_bf16_where_every_gpu_has_it(capabilities: tuple[tuple[int, int], ...], expected: str) -> None:
    """From compute capability 8.0 on; the least capable GPU decides, because several workers use one each."""
    assert precision._format(EngineSettings(), capabilities) == expected


def test_nodes_of_a_cluster_compute_what_was_planned_here() -> None:
    """The settings that are sent to them state the format, and a plan warns which one it is."""
    section = LocalSection.model_validate({"kind": "local", "device": "cpu", "workers": {"kind": "slurm"}})
    assert any("precision: auto is fp32 as on this machine" in text for text in capabilities_of(section).warnings)
    assert precision.stated(section.settings) == replace(section.settings, precision="fp32")
    assert not capabilities_of(section.model_copy(update={"precision": "bf16"})).warnings


def test_settings_survive_the_command_line() -> None:
    """They are passed to the engine as one JSON argument."""
    settings = EngineSettings("cuda", 3, "bf16", "4bit", 4, 2, gradient_checkpointing=True)
    assert EngineSettings.from_json(settings.to_json()) == settings
    section = LocalSection(kind="local", packing=4, micro_batch=2, gradient_checkpointing=True)
    assert section.settings == EngineSettings(packing=4, micro_batch=2, gradient_checkpointing=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "cpu"}, "quantization: 4bit needs a CUDA device, and device is cpu; set device to auto"),
        ({"precision": "fp32"}, "quantization: 4bit multiplies in bf16; set precision to auto or bf16"),
    ],
)
def test_four_bits_are_refused_where_they_cannot_be(settings: dict[str, Any], message: str) -> None:
    """A config that contradicts itself is refused."""
    with pytest.raises(ValueError, match=message):
        LocalSection(kind="local", quantization="4bit", **settings)
    found = capabilities_of(LocalSection(kind="local", quantization="4bit"))
    assert (found.precision, found.quantization) == ("bfloat16", "4bit")
    assert bool(found.problems) != torch.cuda.is_available()


def test_four_bits_need_cuda_and_a_package(tiny_folder: Path) -> None:
    """On another device the error says what to do; without the package it has the line that installs it."""
    with pytest.raises(BaseModelError, match=r"4bit needs a CUDA device, and this is cpu; set backend\.quantization"):
        loading.load_quantised("a model", tiny_folder, CPU)
    with pytest.raises(MissingPackageError, match=r"needs .*bitsandbytes.*; pip install 'tunerun\[quantized\]'"):
        loading.load_quantised("a model", tiny_folder, torch.device("cuda"))


def test_gradient_checkpointing_does_not_change_results(base: LoadedModel, tiny: BaseModelRef, cache: Path) -> None:
    """Losses have the same bits, and layers are computed twice."""
    settings = EngineSettings(gradient_checkpointing=True)
    loaded = network.load(tiny, cache, network.choose_device("cpu"), settings)
    calls: list[int] = []
    loaded.network.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    found = losses(loaded, tiny)
    assert found == losses(base, tiny)
    steps = 4 * -(-len(EXAMPLES) // 3)
    assert len(calls) > 2 * steps


def test_parts_of_a_batch_add_up_to_its_gradient(base: LoadedModel, tiny: BaseModelRef, cache: Path) -> None:
    """A batch in parts of two rows has the gradients of the whole, also in a pack with a trial of another batch size."""
    loaded = network.load(tiny, cache, network.choose_device("cpu"), EngineSettings(micro_batch=2))
    requests = [request_of(tiny, key="a", batch_size=7), request_of(tiny, key="b", batch_size=3, max_grad_norm=0.5)]
    found, whole = Recording(), Recording()
    assert not [o.failure for o in training.train(requests, loaded, found, most=2) if o.failure is not None]
    list(training.train(requests, base, whole, most=2))
    for request in requests:
        assert found.losses(request) == pytest.approx(whole.losses(request), rel=1e-4)
