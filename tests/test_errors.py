"""Messages that people can read, whatever strangers wrote into what they are about."""

import pickle
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedkd.errors import EmbedKDError, FormatError, UnknownNameError, printable, printable_lines


def test_a_name_that_is_near_to_none_lists_all_of_a_short_table() -> None:
    assert str(UnknownNameError("loss", "zzz", ["b", "a"])) == "unknown loss 'zzz'; known: a, b"
    assert str(UnknownNameError("loss", "zzz", [])) == "unknown loss 'zzz'; known: none"


def test_a_long_table_is_not_poured_out() -> None:
    error = UnknownNameError("loss", "zzz", [f"name{number:03d}" for number in range(1000)])
    assert str(error).endswith("name029 and 970 more")
    assert len(error.valid) == 1000


def test_an_unknown_name_crosses_processes() -> None:
    error = UnknownNameError("loss", "mee", ["mse"])
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.valid) == ("unknown loss 'mee'; did you mean mse?", ("mse",))


def test_every_character_that_a_terminal_acts_on_is_spelt_out() -> None:
    """By Unicode's own tables: controls, line and paragraph ends, halves of surrogates, all that turns text around."""
    turning = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    for character in map(chr, range(sys.maxunicode + 1)):
        kind, direction = unicodedata.category(character), unicodedata.bidirectional(character)
        if kind in {"Cc", "Zl", "Zp", "Cs"} or direction in turning:
            shown = printable(character)
            assert shown.isascii(), hex(ord(character))
            assert shown.isprintable(), hex(ord(character))


@pytest.mark.parametrize("text", ["", "plain", "ä 日本語 עברית", "a\u200db", "1\N{NO-BREAK SPACE}234", "\\n"])
def test_text_that_is_harmless_stays_as_it_is(text: str) -> None:
    assert printable(text) == text
    assert printable_lines(f"{text}\n{text}") == f"{text}\n{text}"


@given(st.text(), st.integers(3, 50))
def test_any_text_becomes_one_short_line_that_can_be_encoded(text: str, limit: int) -> None:
    shown = printable(text, limit)
    assert len(shown.encode().decode().splitlines()) <= 1
    assert len(shown) <= 10 * limit
    assert printable(shown) == shown


def test_no_message_carries_an_escape_of_a_stranger() -> None:
    name = "\x1b]0;owned\x07\u202etxt.exe"
    for error in (EmbedKDError(f"no {name}"), FormatError(name), UnknownNameError("class", name, [name, "a" + name])):
        for message in (str(error), f"{error}", str(pickle.loads(pickle.dumps(error)))):
            assert message.isprintable()
            assert "owned" in message


def test_the_line_ends_of_a_message_stay() -> None:
    assert str(EmbedKDError("expected this\ndo that")) == "expected this\ndo that"


def test_a_table_of_a_stranger_is_looked_at_in_bounds() -> None:
    names = ["x" * 4096 + str(number) for number in range(20_000)]
    assert len(str(UnknownNameError("class", "y" * 10**6, names))) < 5000
