"""Small tokenizers of the kinds that base models have, learned from a few examples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tunerun.examples import Example


def of_bytes(examples: Sequence[Example], special_tokens: Sequence[str] = (), added_tokens: Sequence[str] = ()) -> Any:
    """Return a tokenizer of GPT-2's kind, with further tokens."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([f"{one.text_input} {one.output}" for one in examples], trainer)
    backend.add_special_tokens(list(special_tokens))
    backend.add_tokens(list(added_tokens))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )


def of_pieces(examples: Sequence[Example], *, is_legacy: bool) -> Any:
    """Return a tokenizer of Llama 2's kind: a space before a word belongs to it, and every text begins with one.

    Args:
        is_legacy: whether a text behind a special token begins with a space too, as in Llama 2's first files.
    """
    import tokenizers
    from tokenizers import decoders, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=200, show_progress=False)
    texts = [f"{one.text_input} {one.output} [INST] [/INST]" for one in examples]
    backend.train_from_iterator([*texts, *map(chr, range(33, 127))], trainer)
    learned = json.loads(backend.to_str())["model"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *learned["vocab"]]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    merges = [tuple(merge) for merge in learned["merges"]]
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    if is_legacy:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )


def of_unigram(examples: Sequence[Example]) -> Any:
    """Return a tokenizer of T5's kind, whose vocabulary holds the special tokens as words that cost nothing."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted({letter for one in examples for letter in f"{one.text_input}{one.output}"} - {" "})
    words = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((piece, -3.0) for piece in (*letters, *"▁</>\n|_"))]
    backend = tokenizers.Tokenizer(tokenizers.models.Unigram(list(dict(words).items()), unk_id=0))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    backend.decoder = tokenizers.decoders.Metaspace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )
