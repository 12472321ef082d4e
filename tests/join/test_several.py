"""Rows of several stores, and of stored views, beside one and the same samples."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from embedkd.errors import JoinError
from embedkd.join import Batch, JoinedShards, Samples, Wanted, joined_samples
from embedkd.records import DecodePolicy, RowStatus, TeacherSpec, ViewSpec
from embedkd.sources.images import decode_image
from embedkd.sources.views import crop_view
from embedkd.store import EmbeddingStore, Slot, SlotRead, TeacherView, open_store
from tests.join.conftest import add_store
from tests.tiny import SPEC, picture, said_of, to_pixels

if TYPE_CHECKING:
    from tests.join.conftest import World, WorldMaker

SHARDS = {"train-0.tar": 20, "train-1.tar": 5, "train-2.tar": 13, "val-0.tar": 4}
OTHER = replace(SPEC, name="packaged:another", model="tiny too")
VIEWS = tuple(ViewSpec(3, index, 0.4, 0.5) for index in range(3))


def negated(spec: TeacherSpec, key: str, output: str) -> NDArray[np.float32]:
    """What the other teacher says, and what a view says: telling which one it is."""
    row = -said_of(key, output) if spec.name == OTHER.name else said_of(key, output)
    return row + (0 if spec.view is None else 10 * (1 + spec.view.index))


@pytest.fixture
def world(make_world: "WorldMaker") -> "World":
    """A store of slots of 8 rows, so that a tar is several."""
    return make_world(SHARDS, capacity=8)


def wanted(*stores: EmbeddingStore, output: str = "cls") -> list[Wanted]:
    return [Wanted(store.teacher(), {f"{store.storage.url[-6]}:{output}": output}) for store in stores]


def own(world: "World") -> EmbeddingStore:
    return open_store(world.store)


def batches(samples: Samples, **options: Any) -> list[Batch]:
    return list(JoinedShards(samples, lambda image, seed: to_pixels(image), **{"global_batch_size": 7, **options}))


def rows_by_key(found: list[Batch], name: str) -> dict[str, torch.Tensor]:
    return {
        key: row
        for batch in found
        for key, row, counts in zip(batch.keys, batch.targets[name], batch.valid.tolist(), strict=True)
        if counts
    }


@pytest.mark.parametrize("capacity", [4, 8, 32])
@pytest.mark.parametrize("encoding", ["float16", "int8"])
def test_rows_of_stores_with_other_slots_meet(world: "World", capacity: int, encoding: str) -> None:
    spec = OTHER.encoded({"cls": encoding})
    other = add_store(
        world, "b.zarr", specs=(spec,), says=negated, capacity=capacity, shards=sorted(SHARDS, reverse=True)
    )
    found = batches(joined_samples(wanted(own(world), other), "train"))
    mine, theirs = rows_by_key(found, "e:cls"), rows_by_key(found, "b:cls")
    assert len(mine) == len(theirs) == 38
    for key, row in mine.items():
        expected = torch.from_numpy(said_of(key, "cls"))
        torch.testing.assert_close(row, expected, atol=2e-3, rtol=0)
        torch.testing.assert_close(theirs[key], -expected, atol=2e-2 if encoding == "int8" else 2e-3, rtol=0)


def test_no_order_of_names_changes_the_order_of_samples(world: "World") -> None:
    other = add_store(world, "b.zarr", specs=(OTHER,), says=negated, shards=sorted(SHARDS, reverse=True))
    one, two = (joined_samples(wanted(*stores), "train") for stores in ((own(world), other), (other, own(world))))
    assert (one.slots, one.counts, one.store) == (two.slots, two.counts, two.store)
    first, second = (batches(samples, seed=5) for samples in (one, two))
    assert [batch.keys for batch in first] == [batch.keys for batch in second]
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(dict(a.targets), dict(b.targets), rtol=0, atol=0)


def test_a_store_beside_another_of_the_same_slots_leaves_the_order_as_it_was(world: "World") -> None:
    other = add_store(world, "b.zarr", specs=(OTHER,), says=negated, capacity=8)
    alone = joined_samples(wanted(own(world)), "train")
    both = joined_samples(wanted(own(world), other), "train")
    assert [b.keys for b in batches(alone)] == [b.keys for b in batches(both)]


def test_two_teachers_of_one_store(world: "World") -> None:
    store = add_store(world, "b.zarr", specs=(SPEC, OTHER), says=negated)
    views = [store.teacher(name) for name in (SPEC.name, OTHER.name)]
    found = batches(joined_samples([Wanted(v, {v.spec.model: "pooled"}) for v in views], "val"))
    mine, theirs = rows_by_key(found, "tiny"), rows_by_key(found, "tiny too")
    assert sorted(mine) == world.keys["val-0.tar"]
    assert all(torch.equal(mine[key], -theirs[key]) for key in mine)


def test_shards_that_a_store_lacks_are_told_or_left_out(world: "World") -> None:
    other = add_store(world, "b.zarr", specs=(OTHER,), says=negated, shards=("train-2.tar", "val-0.tar"))
    both = wanted(own(world), other)
    with pytest.raises(JoinError) as refused:
        joined_samples(both, "train")
    expected = r"b.zarr covers 1 of 3 train shards (it lacks train-0.tar, train-1.tar); precompute the rest, or"
    assert expected in str(refused.value)
    samples = joined_samples(both, "train", allow_partial=True)
    assert (samples.rows, samples.left_out) == (13, {f"not in {other.storage.url}": 25})
    assert sorted(rows_by_key(batches(samples), "b:cls")) == world.keys["train-2.tar"]
    assert joined_samples(both, "val").rows == 4


def test_a_sample_must_be_usable_in_every_store(world: "World") -> None:
    bad = {(0, 1): RowStatus.DECODE_ERROR, (1, 4): RowStatus.NON_FINITE}
    other = add_store(world, "b.zarr", specs=(OTHER,), says=negated, bad=bad, holes=(2,))
    for stores in ((own(world), other), (other, own(world))):
        with pytest.raises(
            JoinError, match=r"15 of 38 train samples .* cannot be used \(13 not precomputed, 2 without"
        ):
            joined_samples(wanted(*stores), "train")
        samples = joined_samples(wanted(*stores), "train", allow_partial=True)
        keys = {*world.keys["train-0.tar"], *world.keys["train-1.tar"]}
        keys -= {world.keys["train-0.tar"][1], world.keys["train-1.tar"][4]}
        assert set(rows_by_key(batches(samples), "b:cls")) == keys
        assert samples.rows == 23


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shards": ("val-0.tar",)}, "have no train shard in common"),
        ({"split": "test"}, r"train-0.tar is of the split train in .* and of test in .*b.zarr; a student would learn"),
        ({"classes": ("c", "b", "a")}, r"are of other classes: label 0 is 'a' and 'c'"),
        ({"classes": ("a", "b", "c", "d")}, r"are of other classes: 3 and 4"),
        ({"policy": DecodePolicy(exif=False)}, "were decoded in other ways"),
    ],
)
def test_stores_that_do_not_belong_together_are_told_apart(
    world: "World", changes: dict[str, Any], message: str
) -> None:
    named = add_store(world, "a.zarr", classes=("a", "b", "c"))
    other = add_store(world, "b.zarr", specs=(OTHER,), **{"classes": ("a", "b", "c"), **changes})
    with pytest.raises(JoinError, match=message) as refused:
        joined_samples(wanted(named, other), "train", allow_partial=True)
    assert len(str(refused.value).splitlines()) <= 2


def test_the_same_tar_must_mean_the_same_samples(world: "World") -> None:
    """A store that was written by other software: its tars are right, and its labels are not."""
    other = add_store(world, "b.zarr", specs=(OTHER,), labels=False)
    samples = joined_samples(wanted(own(world), other), "train", labels_needed=False)
    with pytest.raises(JoinError, match=r"sample \d+ of train-.*tar has another label in .*\.zarr than in"):
        batches(samples)


def with_views(world: "World", name: str, spec: TeacherSpec, views: tuple[ViewSpec, ...], **options: Any) -> Wanted:
    specs = [spec, *(replace(spec, view=view) for view in views)]
    store = add_store(world, name, specs=specs, says=negated, **options)
    teachers = {teacher.view: TeacherView(store, key) for key, teacher in store.teachers.items()}
    return Wanted(teachers[None], {f"{name[0]}:cls": "cls"}, tuple(teachers[view] for view in views))


def test_each_epoch_has_one_view_and_every_view_its_turn(world: "World") -> None:
    one, two = with_views(world, "a.zarr", SPEC, VIEWS), with_views(world, "b.zarr", OTHER, VIEWS, capacity=32)
    samples = joined_samples([one, two], "train")
    assert samples.views == VIEWS
    dataset = JoinedShards(samples, lambda image, seed: to_pixels(image), global_batch_size=100, epochs=6, seed=1)
    seen = [dataset.view(epoch) for epoch in range(6)]
    assert seen[:3] == seen[3:]
    assert set(seen) == set(VIEWS)
    assert {JoinedShards(samples, to_pixels, global_batch_size=1, seed=s).view(0) for s in range(20)} == set(VIEWS)  # type: ignore[arg-type]
    for batch, view in zip(dataset, seen, strict=True):
        assert view is not None
        for at, key in enumerate(batch.keys):
            image = crop_view(decode_image(picture(key), samples.policy), view, key)
            assert torch.equal(batch.pixels[at], to_pixels(image))
            expected = torch.from_numpy(said_of(key, "cls"))
            tells = 10.0 * (1 + view.index)
            torch.testing.assert_close(batch.targets["a:cls"][at], expected + tells, atol=2e-2, rtol=0)
            torch.testing.assert_close(batch.targets["b:cls"][at], tells - expected, atol=2e-2, rtol=0)


def test_an_epoch_reads_the_rows_of_its_view_alone(world: "World", monkeypatch: pytest.MonkeyPatch) -> None:
    samples = joined_samples([with_views(world, "a.zarr", SPEC, VIEWS)], "train")
    read: list[ViewSpec | None] = []
    honest = TeacherView.read

    def watched(self: TeacherView, slot: Slot, output: str) -> SlotRead:
        read.append(self.spec.view)
        return honest(self, slot, output)

    monkeypatch.setattr(TeacherView, "read", watched)
    dataset = JoinedShards(samples, lambda image, seed: to_pixels(image), global_batch_size=100)
    list(dataset)
    assert len(read) == len(samples.slots)
    assert set(read) == {dataset.view(0)}


def test_a_row_that_one_view_lacks_is_left_out_of_all_epochs(world: "World") -> None:
    one = with_views(world, "a.zarr", SPEC, VIEWS, bad={(0, 3): RowStatus.NON_FINITE})  # of the last view
    samples = joined_samples([one], "train", allow_partial=True)
    assert samples.rows == 37
    for epoch in range(3):
        keys = rows_by_key(batches(samples, epochs=epoch + 1, start=(epoch, 0)), "a:cls")
        assert world.keys["train-0.tar"][3] not in keys
        assert len(keys) == 37


def test_whole_images_where_no_rows_of_views_are_read(world: "World") -> None:
    one = with_views(world, "a.zarr", SPEC, VIEWS)
    for plain in (replace(one, outputs={}), replace(one, views=())):
        samples = joined_samples([plain], "val")
        assert samples.views == ()
        (batch,) = batches(samples)
        assert torch.equal(batch.pixels[0], to_pixels(decode_image(picture(batch.keys[0]), samples.policy)))


def test_teachers_with_other_views_do_not_meet(world: "World") -> None:
    one = with_views(world, "a.zarr", SPEC, VIEWS)
    for name, views in (("b.zarr", VIEWS[:2]), ("c.zarr", ()), ("d.zarr", (*VIEWS[:2], ViewSpec(4, 2, 0.4, 0.5)))):
        with pytest.raises(JoinError, match="expected one set of stored views of all teachers, got 3 ") as refused:
            joined_samples([one, with_views(world, name, OTHER, views)], "train")
        assert len(str(refused.value).splitlines()) == 1


def test_resuming_within_a_view_gives_the_same_rest(world: "World", tmp_path: Path) -> None:
    samples = joined_samples([with_views(world, "a.zarr", SPEC, VIEWS)], "train")
    whole = batches(samples, epochs=3, seed=2, global_batch_size=10)
    rest = batches(samples, epochs=3, seed=2, global_batch_size=10, start=(1, 2))
    for a, b in zip(whole[6:], rest, strict=True):
        assert a.keys == b.keys
        assert torch.equal(a.pixels, b.pixels)
        assert torch.equal(a.targets["a:cls"], b.targets["a:cls"])
