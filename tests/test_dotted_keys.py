"""Values of nested configs by dotted key."""

import pytest

from tunerun import dotted_keys
from tunerun.schema import HeldOut

CONFIG = {"a": {"b": [{"c": 1}, None]}, "held_out": HeldOut(fraction=0.5)}


def test_a_key_reaches_into_mappings_lists_and_sections() -> None:
    """Its parts may be given one by one, as pydantic locates errors."""
    assert dotted_keys.get(CONFIG, "a.b.0.c") == dotted_keys.get(CONFIG, ("a", "b", 0, "c")) == 1
    assert dotted_keys.get(CONFIG, "held_out.fraction") == 0.5


@pytest.mark.parametrize("key", ["x", "a.x", "a.b.2", "a.b.x", "a.b.0.c.d", "held_out.x", "held_out.fraction.real"])
def test_a_key_that_does_not_exist_has_the_default(key: str) -> None:
    """Attributes of texts and numbers are not keys."""
    assert dotted_keys.get(CONFIG, key, "default") == "default"
    assert not dotted_keys.has(CONFIG, key)


def test_none_is_a_value() -> None:
    """A key that is null exists."""
    assert dotted_keys.has(CONFIG, "a.b.1")


def test_a_value_is_set_in_place() -> None:
    """In a mapping, which gets the key, or in a list at an index that it has."""
    config = {"a": {"b": [1, 2]}}
    dotted_keys.put(config, "a.b.1", 3)
    dotted_keys.put(config, "a.c", 4)
    assert config == {"a": {"b": [1, 3], "c": 4}}
    with pytest.raises(KeyError, match=r"a\.x\.y"):
        dotted_keys.put(config, "a.x.y", 5)


def test_texts_are_located_through_mappings_and_lists() -> None:
    """Numbers and null are not texts."""
    config = {"a": {"b": ["x", {"c": "y"}, 1]}, "d": None}
    assert list(dotted_keys.texts(config)) == [(("a", "b", 0), "x"), (("a", "b", 1, "c"), "y")]


def test_leaves_are_the_same_however_mappings_are_nested() -> None:
    """Keys of a mapping may be dotted themselves; a list is a leaf."""
    assert dotted_keys.leaves({"a.b": {"c": [1]}, "d": {}}) == dotted_keys.leaves({"a": {"b.c": [1]}}) == {"a.b.c": [1]}
