"""Problems of a base model that only transformers can detect are reported when it is prepared, before a sweep."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine import tiny_model
from tests.engine.test_model_facts import configured
from tunerun.engine import loading, prepared_model
from tunerun.errors import BaseModelError


def lacking(*names: str) -> Callable[[Path], None]:
    """Return a change that leaves weights out."""

    def change(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / "model.safetensors")
        for name in names:
            del weights[name]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return change


def not_a_number(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def more_tokens(folder: Path) -> None:
    """Give the tokenizer a word that the weights do not have."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["elephant"])
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lacking("model.layers.1.mlp.up_proj.weight"),
            r"the files lack 1 weight \(model\.layers\.1\.mlp\.up_proj\.wei",
        ),
        (
            lacking("lm_head.weight"),
            r"the files lack 1 weight \(lm_head\.weight\), which would be initialised at random",
        ),
        (configured(num_hidden_layers=1), r"the files have 2 layers, config\.json states 1"),
        (configured(intermediate_size=48), r"6 weights \(.*\) have another shape .*: \[32, 64\], not \[32, 48\]\)"),
        (configured(num_attention_heads=5), r"\(32\) is not a multiple of the number of attention heads \(5\); choose"),
        (configured(hidden_act="nosuch"), r"cannot be loaded: KeyError: 'nosuch'; choose another base model"),
        (configured(model_type="nosuch"), r"its architecture 'nosuch' is not known to the installed transformers \d"),
        (configured(model_type="nosuch", auto_map={"AutoConfig": "a.B"}), r"needs Python code of its own \(auto_map"),
        (configured(model_type="vit", architectures=[]), r"its architecture 'vit' is not a causal language model"),
        (not_a_number, r"its weights contain or produce NaN or infinity"),
        (
            more_tokens,
            r"its tokenizer has token numbers up to \d+, but the weights have \d+ tokens; use the tokenizer",
        ),
    ],
)
def test_model_that_cannot_be_loaded(
    change: Callable[[Path], None], message: str, tiny_folder: Path, tmp_path: Path
) -> None:
    """Missing weights, wrong shapes, custom code and unknown architectures are refused in one sentence, each time."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    change(folder)
    for _ in range(2):  # what was refused leaves nothing in the cache that would be trusted later
        with pytest.raises(BaseModelError, match=message) as refused:
            prepared_model.prepare(tiny_model.model_of(folder), tmp_path / "cache")
        assert "\n" not in str(refused.value)
        assert "trust_remote_code" not in str(refused.value)


def test_tied_weight_may_be_missing(tiny_folder: Path, tmp_path: Path) -> None:
    """An output layer that shares the weights of the embedding may be missing from the files."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    lacking("lm_head.weight")(folder)
    configured(tie_word_embeddings=True)(folder)
    assert prepared_model.prepare(tiny_model.model_of(folder), tmp_path / "cache") == folder


def test_network_that_is_not_causal(tmp_path: Path) -> None:
    """A network in which a later token changes earlier logits is refused, whatever its config states."""
    from transformers import BertConfig, BertLMHeadModel

    config = BertConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, is_decoder=True
    )
    BertLMHeadModel(config).save_pretrained(tmp_path)
    loading.load_network("a decoder", tmp_path)
    configured(is_decoder=False)(tmp_path)
    with pytest.raises(BaseModelError, match="it is not causal: a token changes the logits of the tokens before"):
        loading.load_network("an encoder", tmp_path)


def test_memory_runs_out_while_loading(tiny_folder: Path, tmp_path: Path) -> None:
    """If the weights exceed the memory limit of the process, the error is one sentence."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    rows, columns = 4_000_000, 32  # 512 MB, more than the limit below leaves; a hole in the file, so it costs no disk
    configured(vocab_size=rows, tie_word_embeddings=True, num_hidden_layers=1)(folder)
    size = rows * columns * 4
    entry = {"dtype": "F32", "shape": [rows, columns], "data_offsets": [0, size]}
    header = json.dumps({"model.embed_tokens.weight": entry}).encode()
    with (folder / "model.safetensors").open("wb") as weights:
        weights.write(struct.pack("<Q", len(header)) + header)
        weights.truncate(8 + len(header) + size)
    code = (
        "import resource, sys, torch, transformers\n"
        "from pathlib import Path\n"
        "from tunerun.engine import loading\n"
        "loading.load_network('a small one', Path(sys.argv[2]))\n"
        "used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 200_000_000,) * 2)\n"
        "try:\n"
        "    loading.load_network('the base model', Path(sys.argv[1]))\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(tiny_folder)], capture_output=True, text=True, check=True
    )
    assert "BaseModelError the base model does not fit this machine's memory" in done.stdout, done.stdout + done.stderr
