"""Keys: safe, unique, and not longer than a tar header holds."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedkd.errors import SourceError
from embedkd.sources.keys import sample_keys

NAMES = st.lists(st.text(st.characters(codec="utf-8"), max_size=120), unique=True, max_size=12)


@given(NAMES)
def test_any_names_give_safe_distinct_keys(names: list[str]) -> None:
    keys = sample_keys(names)
    assert list(keys) == names
    assert len({key.casefold() for key in keys.values()}) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,88}", key) for key in keys.values())


@given(NAMES)
def test_a_key_does_not_depend_on_the_order(names: list[str]) -> None:
    assert sample_keys(names) == sample_keys(names[::-1])


def test_plain_names_stay_readable() -> None:
    assert sample_keys(["cat/IMG_001.JPG", "café/a b.png"]) == {
        "cat/IMG_001.JPG": "cat_IMG_001",
        "café/a b.png": "cafe_a_b",
    }


@pytest.mark.parametrize("name", ["../../etc/passwd.jpg", "/absolute.png", "a/../b.png", "__meta__.jpg", "..", ""])
def test_hostile_names_cannot_leave_or_hide(name: str) -> None:
    (key,) = sample_keys([name]).values()
    assert "/" not in key
    assert "." not in key
    assert not key.startswith("_")


@pytest.mark.parametrize(
    "names", [["a/1.jpg", "a/1.png"], ["a/1.jpg", "A/1.jpg"], ["猫.jpg", "犬.jpg"], ["a.b/c", "a/b/c"]]
)
def test_names_that_become_equal_get_a_hash_each(names: list[str]) -> None:
    keys = sample_keys(names)
    assert all(re.search(r"(^|-)[0-9a-f]{16}$", key) for key in keys.values())


def test_a_name_twice_is_refused() -> None:
    with pytest.raises(SourceError, match="share a name"):
        sample_keys(["a.jpg", "a.jpg"])
