"""Normalisation of texts before they are compared."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence
from typing import Literal

Ignored = Literal["case", "punctuation", "articles", "white_space"]

_ARTICLES = re.compile(r"\b(a|an|the)\b", re.IGNORECASE)


def normalised(text: str, ignore: Sequence[Ignored] = ()) -> str:
    """Return a text without white space at its ends, and without the kinds of differences to ignore.

    The four steps and their order are those of SQuAD's evaluation script (Rajpurkar et al. 2016, `evaluate-v1.1.py`):
    `case` folds letters, `punctuation` drops ASCII punctuation and every character of a Unicode category P,
    `articles` drops the English words a, an and the, `white_space` makes one space of each run of white space.
    """
    if not ignore:
        return text.strip()
    if "case" in ignore:
        text = text.casefold()
    if "punctuation" in ignore:
        # The script drops ASCII only; with it alone a French or Chinese answer would keep its quotes and full stops.
        text = "".join(
            character
            for character in text
            if character not in string.punctuation and not unicodedata.category(character).startswith("P")
        )
    if "articles" in ignore:
        text = _ARTICLES.sub(" ", text)
    if "white_space" in ignore or "articles" in ignore:  # an article that is dropped leaves two spaces
        text = " ".join(text.split())
    return text.strip()
