"""Checksums of rows."""

from __future__ import annotations

from hashlib import blake2b

from tunerun.ledger.checksums import row_checksum


def test_a_large_row_has_the_checksum_that_it_always_had() -> None:
    """Reading it in pieces changes nothing, wherever a character of several bytes is."""
    values = ("digest", "zwölf 🙂" * 300_000, "x")
    whole = blake2b("\x1f".join(values).encode(), digest_size=8).digest()
    assert row_checksum(*values) == int.from_bytes(whole, "big", signed=True)
