"""Characters that show that a text was decoded wrongly."""

import pytest

from tunerun.dataset.characters import wrong_characters


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("I can\ufffdt log in", "U+FFFD"),
        ("a\x00b", "NUL"),
        ("a\ufeffb", "byte order mark"),
        ("\ufeff", "byte order mark"),
        *(
            (good.encode().decode("cp1252", errors="ignore"), "read as another")
            for good in ("café", "can’t", "a – b", "naïve", "5 °", "📦")
        ),
        *(
            (good.encode().decode("latin-1"), "read as another")
            for good in ("café", "can’t", "привет", "日本語", "γειά", "żółw")
        ),
    ],
)
def test_wrong(text: str, kind: str) -> None:
    """A text that was decoded wrongly is found, and its kind is named."""
    (found,) = wrong_characters(text)
    assert kind in found


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "café",
        "can’t",
        "« café\xa0»",
        "“CAFÉ”",
        "NÃO",
        "Âge",
        "привет",
        "日本語",
        "شكرا",
        "📦",
        "a\u200bb",
        "5\xa0°",
        "É…",
    ],
)
def test_right(text: str) -> None:
    """Good text in any language is left alone."""
    assert wrong_characters(text) == []
