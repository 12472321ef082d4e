"""Places of samples: what cannot be one is refused, by writers and by readers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedkd.errors import IntegrityError
from embedkd.records import Shard
from embedkd.store import open_store
from embedkd.store.commits import ObjectRecord
from embedkd.store.documents import seal
from embedkd.store.encoding import encode_chunk
from embedkd.store.places import are_places
from embedkd.store.schema import row_schemas

SHARD = Shard("a.tar", "train", 10_240, 4, "0" * 64)
SOUND = [[0, 512, 7], [512, 1_024, 0], [2_048, 1, 2**32 - 1], [9_000, 1_240, 1]]
MOST = 2**64 - 1


def test_sound_places() -> None:
    assert are_places(np.array(SOUND, np.uint64), SHARD)
    assert are_places(np.zeros((0, 3), np.uint64), SHARD)


@pytest.mark.parametrize(
    ("row", "column", "value"),
    [
        pytest.param(1, 0, 511, id="begins in the one before"),
        pytest.param(0, 1, 513, id="ends in the next"),
        pytest.param(3, 1, 1_241, id="ends behind the tar"),
        pytest.param(3, 0, 10_241, id="begins behind the tar"),
        pytest.param(0, 0, MOST, id="begins nowhere"),
        pytest.param(3, 1, MOST, id="a size that wraps"),
        pytest.param(2, 1, 0, id="nothing"),
        pytest.param(0, 2, 2**32, id="a checksum of 33 bits"),
    ],
)
def test_what_is_no_place(row: int, column: int, value: int) -> None:
    places = np.array(SOUND, np.uint64)
    places[row, column] = value
    assert not are_places(places, SHARD)


def test_a_sample_of_any_length_is_no_reason_to_take_that_much_into_memory() -> None:
    large = Shard("a.tar", "train", 1 << 40, 1, "0" * 64)
    assert are_places(np.array([[0, 1 << 28, 7]], np.uint64), large)
    assert not are_places(np.array([[0, (1 << 28) + 1, 7]], np.uint64), large)


@pytest.mark.parametrize("made", [np.zeros((4, 2), np.uint64), np.zeros(12, np.uint64), np.zeros((4, 3), np.int64)])
def test_other_arrays_are_no_places(made: Any) -> None:
    assert not are_places(made, SHARD)


@given(st.lists(st.tuples(st.integers(0, MOST), st.integers(0, MOST), st.integers(0, MOST)), max_size=4))
def test_places_are_what_a_plain_loop_takes(rows: list[tuple[int, int, int]]) -> None:
    end, sound = 0, True
    for offset, size, checksum in rows:
        sound &= end <= offset < offset + size <= SHARD.size_bytes and checksum < 2**32
        end = offset + size
    assert are_places(np.array(rows, np.uint64).reshape(-1, 3), SHARD) == sound


def test_a_reader_refuses_places_that_were_forged(tmp_path: Path, kit: Any) -> None:
    """With a commit that vouches for them, as a stranger would write it."""
    store = kit.create(tmp_path / "s")
    kit.fill(store, kit.spec(), ("cls",))
    (commit,) = (tmp_path / "s").glob("teachers/*/pass-*/commits/0.json")
    schema = row_schemas(len(store.slots), store.capacity)[2]
    places = kit.rows(store.slots[0], kit.spec(), ("cls",)).places
    places[0, 0] = 2**63
    data = encode_chunk(schema, places)
    (tmp_path / "s" / schema.chunk_key(0)).write_bytes(data)
    document = json.loads(commit.read_bytes())
    del document["digest"]
    document["objects"][2] = ObjectRecord.of(schema.chunk_key(0), data).to_json()
    commit.write_bytes(seal(document))
    with pytest.raises(IntegrityError, match=r"rows/place of slot 0 are no places of samples in train-0.tar"):
        open_store(tmp_path / "s").teacher().read(0, "cls")
