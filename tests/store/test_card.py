"""Cards: complete, the same every time, and harmless whatever strangers wrote into a store."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedkd.errors import StoreError
from embedkd.storage import LocalStorage
from embedkd.store import card, open_store, seal_store, write_card
from embedkd.store.card import escaped
from tests.store.conftest import _spec
from tests.store.samples import SHARDS, make

HOSTILE = "<script>alert(1)</script> [x](javascript:y) | `z` ![i](http://e) # H\u202e *b* &amp; https://evil.example"


@pytest.fixture
def folder(whole_store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole_store, tmp_path / "s"))


def test_a_card_says_what_people_ask(folder: Path) -> None:
    text = card(open_store(folder))
    for wanted in (
        "| shards | 4, 22.5 kB |",
        "| samples | 19 (16 train, 3 val, 0 test) |",
        "| classes | 3: ant, bee, cat |",
        r"## Teacher vit\:Small",
        "| licence of the weights | not given\\: ask before you use it |",
        "| `cls` | 6 | float16 | 5 of 5 | 15 | 4 decode error |",
        "| `logits` | 4 | float16 | 5 of 5 | 11 | 4 decode error, 4 non finite |",
        "| `n2-seed0` | `cls` | up to 2 samples | 2 of 3 |",
        "embedkd train --targets STORE",
    ):
        assert wanted in text, wanted


def test_a_card_is_written_and_renewed(folder: Path) -> None:
    text = write_card(LocalStorage(folder))
    assert (folder / "README.md").read_text() == text
    assert write_card(LocalStorage(folder)) == text
    seal_store(LocalStorage(folder))
    renewed = write_card(LocalStorage(folder))
    assert "| sealed | yes, number 0 |" in renewed
    assert (folder / "README.md").read_text() == renewed


def test_a_dry_run_writes_nothing(folder: Path) -> None:
    assert write_card(LocalStorage(folder), dry_run=True) == card(open_store(folder))
    assert not (folder / "README.md").exists()


def harmless(text: str) -> None:
    assert "<" not in text
    assert not re.search(r"(?<!\\)[\[\]|*`!]", text)
    assert not re.search(r"(?<!\\)://", text)
    assert "\n" not in text
    assert "\u202e" not in text


@given(st.text())
def test_no_text_does_anything(text: str) -> None:
    harmless(escaped(text))


def test_no_stranger_writes_on_the_card(tmp_path: Path) -> None:
    spec = _spec(source=HOSTILE, licence=HOSTILE, model=HOSTILE, libraries=((HOSTILE, HOSTILE),), revision=HOSTILE)
    spec = replace(spec, name=f"vit:{HOSTILE}")
    store = make(
        tmp_path / "s", {spec: (("cls",),)}, SHARDS[:1], classes=(HOSTILE, "x" * 4000, "c"), root="data:" + HOSTILE
    )
    text = card(store)
    assert "<script" not in text
    assert "](javascript" not in text
    assert "x" * 300 not in text
    assert "\u202e" not in text
    lines = [line for line in text.splitlines() if line.startswith("#")]
    assert [line.split(" ")[0] for line in lines] == ["#", "##", "##", "###", "##"]
    rows = [line for line in text.splitlines() if line.startswith("| licence")]
    (cells,) = ([cell for cell in re.split(r"(?<!\\)\|", row) if cell.strip()] for row in rows)
    assert len(cells) == 2


def test_a_broken_store_has_no_card(folder: Path) -> None:
    path: Any = next(folder.glob("teachers/*/classes/*/cls/mean/c/0/0"))
    path.write_bytes(b"broken")
    with pytest.raises(StoreError):
        write_card(LocalStorage(folder))
