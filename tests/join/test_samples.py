"""Which samples take part, and what is said where some cannot."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from embedkd.errors import IntegrityError, JoinError, StoreError, UnknownNameError
from embedkd.join import Samples, shard_samples, stored_samples
from embedkd.records import DecodePolicy, RowStatus, Shard
from embedkd.sources.shards import index_shards, list_data
from embedkd.store.view import SlotRead
from tests.tiny import SPEC, sample, write_tar

if TYPE_CHECKING:
    from tests.join.conftest import World, WorldMaker

BAD = {(0, 2): RowStatus.DECODE_ERROR, (0, 6): RowStatus.NON_FINITE, (2, 0): RowStatus.FIELD_MISSING}
SHARDS = {"train-0.tar": 7, "train-1.tar": 9, "train-2.tar": 3, "val-0.tar": 4}


def keys_of(samples: Samples) -> list[str]:
    reader = samples.reader()
    return [reader.read(at, number).key for at, count in enumerate(samples.counts) for number in range(count)]


def test_a_split_has_its_own_samples(world: "World") -> None:
    train, val, test = (stored_samples(world.view, split, ("cls",)) for split in ("train", "val", "test"))
    assert (train.rows, train.counts, train.left_out) == (19, (7, 9, 3), {})
    assert keys_of(train) == [key for name in sorted(SHARDS)[:3] for key in world.keys[name]]
    assert keys_of(val) == world.keys["val-0.tar"]
    assert (test.rows, test.slots) == (0, ())


def test_targets_and_labels_come_with_their_sample(world: "World") -> None:
    reader = stored_samples(world.view, "val", ("pooled", "cls")).reader()
    joined = reader.read(0, 3)
    read = world.view.read(3, "cls")
    assert (joined.key, joined.label) == (world.keys["val-0.tar"][3], 0)
    assert joined.targets["cls"].tolist() == read.rows[3].tolist()
    assert {name: rows.dtype.name for name, rows in joined.targets.items()} == {"pooled": "float32", "cls": "float16"}
    assert joined.where == "sample 'val-0/003' of val-0.tar"


@pytest.mark.parametrize("encoding", ["bfloat16", "int8"])
def test_encoded_rows_are_decoded_one_by_one(
    make_world: "WorldMaker", monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    world = make_world(SHARDS, spec=SPEC.encoded({"cls": encoding}), bad={(0, 2): RowStatus.DECODE_ERROR})
    samples = stored_samples(world.view, "train", ("cls",), allow_partial=True)
    expected = world.view.read(0, "cls").rows[[0, 1, 3, 4, 5, 6]]
    monkeypatch.delattr(SlotRead, "rows")  # of wide logits all rows of a slot do not fit into memory
    reader = samples.reader()
    found = np.stack([reader.read(0, number).targets["cls"] for number in range(6)])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


def test_bad_rows_and_holes_are_refused_with_their_numbers(make_world: "WorldMaker") -> None:
    world = make_world(SHARDS, bad=BAD, holes=(1,))
    with pytest.raises(JoinError) as refused:
        stored_samples(world.view, "train", ("cls",))
    message = str(refused.value)
    assert "12 of 19 train samples" in message
    assert "9 not precomputed, 3 without an embedding" in message
    assert "--allow-partial" in message
    assert len(message.splitlines()) == 1
    assert stored_samples(world.view, "val", ("cls",)).rows == 4


@pytest.mark.parametrize("outputs", [("cls",), ("pooled", "cls"), ()])
def test_bad_rows_and_holes_can_be_left_out(make_world: "WorldMaker", outputs: tuple[str, ...]) -> None:
    world = make_world(SHARDS, bad=BAD, holes=(1,))
    samples = stored_samples(world.view, "train", outputs, allow_partial=True)
    assert samples.counts == (5, 2)
    assert samples.left_out == {"not precomputed": 9, "without an embedding": 3}
    first, last = world.keys["train-0.tar"], world.keys["train-2.tar"]
    assert keys_of(samples) == [first[0], first[1], *first[3:6], *last[1:]]


def test_labels_that_are_missing(make_world: "WorldMaker") -> None:
    world = make_world(SHARDS, labels=False)
    with pytest.raises(
        JoinError, match=r"19 of 19 train samples .*\(19 without a label\); leave them out with --allow-partial"
    ):
        stored_samples(world.view, "train", ("cls",))
    assert stored_samples(world.view, "train", ("cls",), allow_partial=True).rows == 0
    samples = stored_samples(world.view, "train", ("cls",), labels_needed=False)
    assert (samples.rows, samples.left_out) == (19, {})
    assert samples.reader().read(0, 0).label == -1


def test_a_shard_of_several_slots(make_world: "WorldMaker") -> None:
    world = make_world({"train-0.tar": 70}, capacity=16, bad={(1, 0): RowStatus.DECODE_ERROR})
    samples = stored_samples(world.view, "train", ("cls",), allow_partial=True)
    assert samples.counts == (16, 15, 16, 16, 6)
    keys = world.keys["train-0.tar"]
    assert keys_of(samples) == [*keys[:16], *keys[17:]]
    joined = samples.reader().read(4, 5)
    assert joined.targets["cls"].tolist() == world.view.read(4, "cls").rows[5].tolist()


def test_a_shard_of_several_slots_without_its_store(make_world: "WorldMaker") -> None:
    world = make_world({"train-0.tar": 40}, capacity=16)
    samples = replace(stored_samples(world.view, "train", ("cls",)), store=None, teacher_id=None, targets=())
    assert keys_of(samples) == world.keys["train-0.tar"]


def test_unknown_outputs_are_named(world: "World") -> None:
    with pytest.raises(UnknownNameError, match="did you mean pooled"):
        stored_samples(world.view, "train", ("poled",))


def test_shards_may_lie_elsewhere(world: "World", tmp_path: Path) -> None:
    world.data.rename(tmp_path / "moved")
    samples = stored_samples(world.view, "val", ("cls",), data=str(tmp_path / "moved"))
    assert keys_of(samples) == world.keys["val-0.tar"]


def test_a_store_that_changes_its_mind_is_found(make_world: "WorldMaker") -> None:
    """Where the counts that a run began with are not those that a worker finds."""
    world = make_world(SHARDS)
    samples = stored_samples(world.view, "val", ("cls",))
    wrong = replace(samples, counts=(3,))
    with pytest.raises(JoinError, match="4 usable samples, expected 3: the store was changed"):
        wrong.reader().read(0, 0)


OBJECTS = ("rows/key/c/3", "rows/label/c/3", "cls/c/3/0", "cls_status/c/3", "pooled/c/3/0", "pooled_status/c/3")


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("fault", ["flip", "cut", "remove", "swap"])
def test_a_chunk_that_is_not_the_committed_one_is_found_before_a_sample_comes_out(
    world: "World", name: str, fault: str
) -> None:
    (path,) = world.store.glob(f"**/{name}")
    data = path.read_bytes()
    if fault == "remove":
        path.unlink()
    elif fault == "swap":
        sibling = path.parent.parent / "2" / "0" if name.endswith("/0") else path.parent / "2"
        path.write_bytes(sibling.read_bytes())
    else:
        path.write_bytes(data[:-7] if fault == "cut" else bytes([*data[:20], data[20] ^ 1, *data[21:]]))
    with pytest.raises(IntegrityError) as refused:
        stored_samples(world.view, "val", ("cls", "pooled")).reader().read(0, 0)
    assert len(str(refused.value).splitlines()) <= 2


def test_a_commit_that_was_removed_edited_or_swapped_is_found(world: "World") -> None:
    (commits,) = world.store.glob("**/commits")
    commit = commits / "3.json"
    data = commit.read_bytes()
    for bad in (data.replace(b'"rows":4', b'"rows":5'), (commits / "2.json").read_bytes(), b"", b"{}"):
        assert bad != data
        commit.write_bytes(bad)
        with pytest.raises(StoreError):
            stored_samples(world.view, "val", ("cls",))
    commit.unlink()
    with pytest.raises(JoinError, match="4 not precomputed"):
        stored_samples(world.view, "val", ("cls",))


def test_plain_shards_join_nothing(world: "World") -> None:
    listing = list_data(str(world.data))
    shards = index_shards(listing)
    samples = shard_samples(shards, listing.root)
    assert (samples.rows, samples.counts, samples.policy) == (23, (7, 9, 3, 4), DecodePolicy())
    assert keys_of(samples) == [key for name in sorted(SHARDS) for key in world.keys[name]]
    joined = samples.reader().read(3, 2)
    assert (joined.key, joined.label, joined.targets) == (world.keys["val-0.tar"][2], 2, {})


def plain(path: Path, members: list[tuple[str, bytes]], *, labels_needed: bool) -> Samples:
    write_tar(path, members)
    listing = list_data(str(path))
    return shard_samples(index_shards(listing), listing.root, labels_needed=labels_needed)


def test_plain_shards_without_a_label_or_an_image(tmp_path: Path) -> None:
    members = [*sample("a", None), ("b.cls", b"1"), ("c.jpg", b"1"), ("c.cls", b"cat")]
    reader = plain(tmp_path / "x.tar", members, labels_needed=False).reader()
    assert reader.read(0, 0).label == -1
    with pytest.raises(JoinError, match=r"^sample 'b' of x\.tar has no image; .*$"):
        reader.read(0, 1)
    strict = plain(tmp_path / "x.tar", members, labels_needed=True).reader()
    with pytest.raises(JoinError, match=r"^sample 'a' of x\.tar has no label; .*$"):
        strict.read(0, 0)


def test_empty_shards_take_no_part() -> None:
    assert shard_samples([Shard("x.tar", "train", 10, 0, "0" * 64)], ".").rows == 0
