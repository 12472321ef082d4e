"""Batches: what is in them, and in which order they come."""

import pickle
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from embedkd.errors import ImageError, JoinError, ShardError
from embedkd.join import Batch, JoinedShards, Samples, shard_samples, stored_samples
from embedkd.records import RowStatus
from embedkd.seeding import stream_seed
from embedkd.sources.shards import index_shards, list_data
from tests.tiny import CLASSES, augmented, picture, pixels_of, said_of, sample, to_pixels, write_shard, write_tar

if TYPE_CHECKING:
    from tests.join.conftest import World, WorldMaker


def plain(image: Image.Image, _: int) -> torch.Tensor:
    return to_pixels(image)


def train(world: "World", **options: Any) -> Samples:
    return stored_samples(world.view, "train", ("cls", "pooled"), **options)


def batches(samples: Samples, **options: Any) -> list[Batch]:
    return list(JoinedShards(samples, augmented, **{"global_batch_size": 4, "epochs": 3, "seed": 5} | options))


def assert_equal(ours: Sequence[Batch], theirs: Sequence[Batch]) -> None:
    assert [b.keys for b in ours] == [b.keys for b in theirs]
    for a, b in zip(ours, theirs, strict=True):
        for name in ("pixels", "labels", "valid"):
            torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=0, atol=0)
        torch.testing.assert_close(dict(a.targets), dict(b.targets), rtol=0, atol=0)


def test_everything_in_a_batch_belongs_to_its_key(world: "World") -> None:
    for batch in JoinedShards(train(world), plain, global_batch_size=8, epochs=2):
        size = len(batch.keys)
        assert (batch.pixels.shape, batch.pixels.dtype) == ((size, 3, 6, 6), torch.float32)
        assert (batch.labels.dtype, batch.valid.dtype) == (torch.int64, torch.bool)
        assert {name: (rows.dtype, rows.shape[1]) for name, rows in batch.targets.items()} == {
            "cls": (torch.float32, 5),
            "pooled": (torch.float32, 3),
        }
        for i, key in enumerate(batch.keys):
            assert batch.labels[i] == int(key[-3:]) % CLASSES
            np.testing.assert_array_equal(batch.pixels[i].numpy(), pixels_of(key).transpose(2, 0, 1) / np.float32(255))
            np.testing.assert_array_equal(batch.targets["cls"][i].numpy(), said_of(key, "cls").astype(np.float16))
            np.testing.assert_array_equal(batch.targets["pooled"][i].numpy(), said_of(key, "pooled"))


def test_every_epoch_has_every_sample_once_and_another_order(world: "World") -> None:
    dataset = JoinedShards(train(world), plain, global_batch_size=4, epochs=3)
    assert (dataset.rows, dataset.steps_per_epoch) == (19, 5)
    found = list(dataset)
    assert [len(b.keys) for b in found] == [4, 4, 4, 4, 3] * 3
    assert all(b.valid.all() for b in found)
    epochs = [[key for batch in found[5 * e : 5 * e + 5] for key in batch.keys] for e in range(3)]
    everything = sorted(key for name in ("train-0.tar", "train-1.tar", "train-2.tar") for key in world.keys[name])
    assert [sorted(keys) for keys in epochs] == [everything] * 3
    assert len({tuple(keys) for keys in epochs}) == 3


def test_without_shuffling_samples_come_as_they_lie(world: "World") -> None:
    (batch,) = batches(train(world), shuffle=False, global_batch_size=100, epochs=1)
    assert list(batch.keys) == [key for name in sorted(world.keys)[:3] for key in world.keys[name]]


def test_the_same_arguments_give_the_same_batches_and_another_seed_others(world: "World") -> None:
    first = batches(train(world))
    assert_equal(batches(train(world)), first)
    assert [b.keys for b in batches(train(world), seed=6)] != [b.keys for b in first]


def test_starting_anywhere_gives_the_identical_rest(world: "World") -> None:
    samples = train(world)
    whole = batches(samples)
    for at in range(len(whole) + 1):
        assert_equal(batches(samples, start=divmod(at, 5)), whole[at:])


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_ranks_share_every_global_batch(world: "World", world_size: int) -> None:
    samples = train(world)
    whole = batches(samples)
    shares = [batches(samples, ranks=(rank, world_size)) for rank in range(world_size)]
    assert {len(share) for share in shares} == {len(whole)}
    for step, batch in enumerate(whole):
        parts = [share[step] for share in shares]
        assert len({len(part.keys) for part in parts}) == 1
        valid = torch.cat([part.valid for part in parts])
        keys = [key for part in parts for key in part.keys]
        assert [key for key, counts in zip(keys, valid.tolist(), strict=True) if counts] == list(batch.keys)
        for name in ("pixels", "labels"):
            joined = torch.cat([getattr(part, name) for part in parts])[valid]
            torch.testing.assert_close(joined, getattr(batch, name), rtol=0, atol=0)


def test_a_run_goes_on_with_another_number_of_ranks(world: "World") -> None:
    samples = train(world)
    counted: Counter[str] = Counter()
    for start, until, size in (((0, 0), 2, 1), ((0, 2), 3, 3), ((0, 5), 0, 2)):
        for rank in range(size):
            for batch in batches(samples, start=start, epochs=1, ranks=(rank, size))[:until]:
                counted.update(key for key, counts in zip(batch.keys, batch.valid.tolist(), strict=True) if counts)
    assert counted == Counter({key: 1 for name in sorted(world.keys)[:3] for key in world.keys[name]})


def test_augmentation_draws_from_seed_epoch_and_key_alone(world: "World") -> None:
    """Whatever the batch size, the rank or the place in the epoch."""
    samples = train(world)
    for options in ({}, {"global_batch_size": 7}, {"shuffle": False}, {"ranks": (1, 2)}):
        found = JoinedShards(samples, augmented, **{"global_batch_size": 4, "epochs": 2, "seed": 5} | options)
        for step, batch in enumerate(found):
            epoch = step // found.steps_per_epoch
            expected = [stream_seed(5, "augment", epoch, key) % 4096 for key in batch.keys]
            assert batch.pixels[:, 0, 0, 0].tolist() == expected


def test_samples_left_out_never_come_and_all_others_do(make_world: "WorldMaker") -> None:
    bad = {(0, 2): RowStatus.DECODE_ERROR, (2, 0): RowStatus.NON_FINITE}
    world = make_world({"train-0.tar": 7, "train-1.tar": 9, "train-2.tar": 3}, bad=bad, holes=(1,))
    found = [key for batch in batches(train(world, allow_partial=True), epochs=1) for key in batch.keys]
    first, last = world.keys["train-0.tar"], world.keys["train-2.tar"]
    assert sorted(found) == sorted([*first[:2], *first[3:], *last[1:]])


def test_only_wanted_outputs_are_read(world: "World") -> None:
    for path in world.store.glob("**/pooled/c/*/0"):
        path.unlink()
    found = batches(stored_samples(world.view, "train", ("cls",)))
    assert all(list(batch.targets) == ["cls"] for batch in found)


def other_shards(data: Path) -> None:
    for name, rows in (("train-0", 7), ("train-1", 9), ("train-2", 3)):
        write_shard(data / f"{name}.tar", rows, labels=False)


def edited(data: Path) -> None:
    path = data / "train-1.tar"
    old = path.read_bytes()
    path.write_bytes(old.replace(b"train-1/004.png", b"train-1/994.png"))


def swapped(data: Path) -> None:
    (data / "train-0.tar").rename(data / "x")
    (data / "train-1.tar").rename(data / "train-0.tar")
    (data / "x").rename(data / "train-1.tar")


def in_another_order(data: Path) -> None:
    keys = [f"train-1/{n:03d}" for n in reversed(range(9))]
    write_tar(data / "train-1.tar", [m for key in keys for m in sample(key, int(key[-3:]) % CLASSES)])


def cut(data: Path) -> None:
    path = data / "train-1.tar"
    path.write_bytes(path.read_bytes()[:-11264])


@pytest.mark.parametrize("change", [other_shards, edited, swapped, in_another_order, cut])
def test_other_shards_are_refused_before_their_first_sample_comes(world: "World", change: Any) -> None:
    samples = train(world)
    change(world.data)
    with pytest.raises(ShardError) as refused:
        batches(samples)
    assert 1 <= len(str(refused.value).splitlines()) <= 2


def test_a_key_that_is_not_the_store_s_is_refused(make_world: "WorldMaker") -> None:
    """A store whose rows belong to other samples of a tar that is right: a check behind the tar's own."""
    world = make_world({"train-0.tar": 3})
    dataset = JoinedShards(train(world), plain, global_batch_size=1, shuffle=False)
    dataset._reader._targets.get((0, 0)).table.keys[1] += 1
    dataset.batch(0, 0)
    with pytest.raises(
        JoinError, match=r"^sample 'train-0/001' of train-0\.tar \(number 1\) has another key in the sto"
    ):
        dataset.batch(0, 1)


def test_a_broken_image_of_plain_shards_is_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", [*sample("a", 0), ("b.png", picture("b")[:60]), ("b.cls", b"0")])
    listing = list_data(str(tmp_path))
    with pytest.raises(ImageError, match=r"^sample 'b' of x\.tar: cannot decode PNG"):
        batches(shard_samples(index_shards(listing), listing.root))


@pytest.mark.parametrize(
    "wrong", [{"global_batch_size": 0}, {"start": (0, -1)}, {"ranks": (2, 2)}, {"ranks": (-1, 2)}, {"ranks": (0, 0)}]
)
def test_numbers_outside_their_range_are_refused(world: "World", wrong: dict[str, Any]) -> None:
    with pytest.raises(JoinError, match="expected a global batch of at least 1"):
        batches(train(world), **wrong)


def test_a_split_without_samples_is_refused(world: "World") -> None:
    with pytest.raises(JoinError, match="no samples to read"):
        batches(stored_samples(world.view, "test", ("cls",)))


def test_a_dataset_in_use_pickles_without_what_it_has_open(world: "World") -> None:
    dataset = JoinedShards(train(world), augmented, global_batch_size=4, epochs=2)
    whole = list(dataset)
    assert_equal(list(pickle.loads(pickle.dumps(dataset))), whole)


def test_a_batch_moves_as_a_whole(world: "World") -> None:
    (batch,) = batches(train(world), global_batch_size=100, epochs=1)
    moved = batch.to("meta")
    tensors = [moved.pixels, moved.labels, moved.valid, *moved.targets.values()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert moved.keys == batch.keys
