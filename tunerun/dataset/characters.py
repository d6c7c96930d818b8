"""Characters that show that a text was decoded with the wrong encoding before it was written into the file."""

from __future__ import annotations

import re

_CONTINUATION = "[" + bytes(range(0x80, 0xC0)).decode("cp1252", errors="ignore") + "\x80-\x9f]"
"""The second and later bytes of a UTF-8 character, read as Windows-1252 or Latin-1."""

_MOJIBAKE = re.compile(
    f"[ÂÃ]{_CONTINUATION}|â{_CONTINUATION}{{2}}|ðŸ{_CONTINUATION}{{2}}"
    # One of these occurs in correct text ("é »" with a no-break space); two side by side do not.
    f"|(?:[Ä-ß]{_CONTINUATION}){{2}}|(?:[ã-ï]{_CONTINUATION}{{2}}){{2}}"
)

_KINDS = (
    (re.compile("\ufffd"), "U+FFFD, which replaces a character that could not be decoded"),
    (re.compile("\x00"), "NUL (U+0000)"),
    (re.compile("\ufeff"), "a byte order mark (U+FEFF) inside the text"),
    (_MOJIBAKE, "UTF-8 that was read as another encoding ('Ã©' for 'é')"),
)


def wrong_characters(text: str) -> list[str]:
    """Return descriptions of the characters in a text that show that it was decoded wrongly."""
    if text.isascii() and "\x00" not in text:
        return []
    return [kind for pattern, kind in _KINDS if pattern.search(text)]


def is_unicode(text: str) -> bool:
    """Whether a text can be encoded: an unpaired surrogate, which JSON can escape, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
