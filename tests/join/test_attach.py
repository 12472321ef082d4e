"""Stored targets in somebody's own webdataset pipeline."""

import gc
import pickle
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import webdataset as wds

from embedkd.errors import FormatError, JoinError, StoreError, UnknownNameError
from embedkd.join import AttachTargets, attach_targets
from embedkd.join.attach import find_shard
from embedkd.records import RowStatus, Shard
from tests.tiny import said_of, sample, write_shard, write_tar

if TYPE_CHECKING:
    from tests.join.conftest import World, WorldMaker

# webdataset leaves open tars to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


Pipeline = Callable[..., wds.WebDataset]


@pytest.fixture
def pipeline() -> Iterator[Pipeline]:
    """Webdataset over a world's tars, with a stage."""

    def make(world: "World", stage: AttachTargets, pattern: str = "*.tar") -> wds.WebDataset:
        urls = sorted(str(path) for path in world.data.glob(pattern))
        return wds.WebDataset(urls, shardshuffle=False).compose(stage)

    yield make
    gc.collect()


def assert_joined(found: list[dict[str, Any]]) -> None:
    for joined in found:
        key = joined["__key__"]
        np.testing.assert_array_equal(joined["cls.npy"], said_of(key, "cls").astype(np.float16))
        np.testing.assert_array_equal(joined["pooled.npy"], said_of(key, "pooled"))
        assert (joined["cls.npy"].dtype, joined["pooled.npy"].dtype) == (np.float16, np.float32)
        assert joined["cls.npy"].base is None  # a row alone, which does not hold its slot in memory


@pytest.fixture
def stage(world: "World") -> AttachTargets:
    return attach_targets(world.store, ["cls", "pooled"])


def test_every_sample_gets_its_rows_and_keeps_its_fields(
    pipeline: Pipeline, world: "World", stage: AttachTargets
) -> None:
    found = list(pipeline(world, stage))
    assert [s["__key__"] for s in found] == [key for name in sorted(world.keys) for key in world.keys[name]]
    assert_joined(found)
    assert {"png", "txt", "cls", "__url__"} <= set(found[0])
    assert stage.skipped == {}


@pytest.mark.usefixtures("pipeline")
def test_behind_shuffles_filters_and_decoding(world: "World", stage: AttachTargets) -> None:
    urls = sorted(str(path) for path in world.data.glob("*.tar"))
    found = list(
        wds.WebDataset(urls, shardshuffle=10, seed=3)
        .shuffle(100, rng=random.Random(1))
        .select(lambda sample: int(sample["cls"]) != 1)
        .decode("rgb8")
        .compose(stage)
        .shuffle(10, rng=random.Random(2))
    )
    assert len(found) == 16
    assert_joined(found)
    assert found[0]["png"].shape == (6, 6, 3)


def test_decoding_behind_it(pipeline: Pipeline, world: "World", stage: AttachTargets) -> None:
    found = list(pipeline(world, stage).decode("rgb8", partial=True).to_tuple("cls", "cls.npy", "pooled.npy"))
    label, row, _ = found[1]
    assert label == 1
    np.testing.assert_array_equal(row, said_of(world.keys["train-0.tar"][1], "cls").astype(np.float16))


def test_fields_survive_a_tar(pipeline: Pipeline, world: "World", stage: AttachTargets, tmp_path: Path) -> None:
    """The name of the field is the one that webdataset writes and decodes as an array."""
    with wds.TarWriter(str(tmp_path / "joined.tar")) as writer:
        for joined in pipeline(world, stage):
            writer.write({name: data for name, data in joined.items() if name != "__url__"})
    assert_joined(
        [
            {**s, "cls.npy": s["cls.npy"].copy()}
            for s in wds.WebDataset([str(tmp_path / "joined.tar")], shardshuffle=False).decode()
        ]
    )


def test_in_worker_processes(pipeline: Pipeline, world: "World", stage: AttachTargets) -> None:
    list(pipeline(world, stage))  # it was in use before it is sent
    loader = torch.utils.data.DataLoader(
        pipeline(world, stage), batch_size=None, num_workers=1, multiprocessing_context="forkserver"
    )
    found = [{**s, **{n: s[n].numpy().copy() for n in ("cls.npy", "pooled.npy")}} for s in loader]
    assert len(found) == 23
    assert_joined(found)


def test_it_pickles_without_what_it_has_open(pipeline: Pipeline, world: "World", stage: AttachTargets) -> None:
    list(pipeline(world, stage))
    again = pickle.loads(pickle.dumps(stage))
    assert len(pickle.dumps(stage)) < 1000
    assert_joined(list(pipeline(world, again)))


def test_a_shard_of_several_slots(pipeline: Pipeline, make_world: "WorldMaker") -> None:
    world = make_world({"train-0.tar": 70}, capacity=16)
    assert_joined(found := list(pipeline(world, attach_targets(world.store, ("cls", "pooled")))))
    assert len(found) == 70


def test_many_shards_are_read_again_rather_than_kept(
    pipeline: Pipeline, make_world: "WorldMaker", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedkd.join.attach._OPEN_SHARDS", 1)
    world = make_world({"a.tar": 3, "b.tar": 3})
    found = list(pipeline(world, attach_targets(world.store, ["cls", "pooled"])))
    assert_joined(
        list(
            attach_targets(world.store, ["cls", "pooled"])(
                {"__key__": s["__key__"], "__url__": s["__url__"]} for s in found[::3] + found[::2]
            )
        )
    )


def test_a_sample_without_a_row_or_an_embedding(make_world: "WorldMaker") -> None:
    world = make_world({"a.tar": 4}, bad={(0, 1): RowStatus.DECODE_ERROR})
    samples = [{"__key__": key, "__url__": "a.tar"} for key in ("a/000", "a/001", "b/000", "a/003")]
    strict, lenient = (attach_targets(world.store, ["cls"], on_missing=policy) for policy in ("error", "skip"))
    with pytest.raises(
        JoinError, match=r"^sample 'a/001' of a\.tar has no embedding in .*store\.zarr; .*on_missing='skip'$"
    ):
        list(strict(samples))
    with pytest.raises(JoinError, match=r"^sample 'b/000' of a\.tar has no row in .*store\.zarr"):
        list(strict(samples[2:]))
    assert [s["__key__"] for s in lenient(samples)] == ["a/000", "a/003"]
    assert lenient.skipped == {"has no embedding": 1, "has no row": 1}


def test_a_shard_that_was_not_precomputed(pipeline: Pipeline, make_world: "WorldMaker") -> None:
    world = make_world({"a.tar": 4, "b.tar": 4}, holes=(1,))
    with pytest.raises(StoreError, match=r"b\.tar"):
        list(pipeline(world, attach_targets(world.store, ["cls"])))


def test_other_shards_are_refused(pipeline: Pipeline, world: "World", stage: AttachTargets, tmp_path: Path) -> None:
    write_shard(world.data / "more.tar", 2)
    with pytest.raises(JoinError, match=r"more\.tar' names none of the store's shards"):
        list(pipeline(world, stage, "more.tar"))
    write_shard(world.data / "val-0.tar", 40)
    with pytest.raises(JoinError, match=r"val-0\.tar has \d+ bytes, the store was made from one of \d+"):
        list(pipeline(world, stage, "val-0.tar"))


def test_rows_that_were_swapped_are_found(pipeline: Pipeline, world: "World", stage: AttachTargets) -> None:
    (rows,) = world.store.glob("**/cls/c")
    shutil.copy(rows / "0" / "0", rows / "1" / "0")
    with pytest.raises(StoreError):
        list(pipeline(world, stage))


@pytest.mark.parametrize("missing", ["__key__", "__url__"])
def test_samples_without_a_key_or_a_url(stage: AttachTargets, missing: str) -> None:
    joined = {"__key__": "a", "__url__": "val-0.tar", "png": b""}
    del joined[missing]
    with pytest.raises(JoinError, match="expected samples with __key__ and __url__, got"):
        list(stage([joined]))


def test_targets_are_attached_once(pipeline: Pipeline, world: "World", stage: AttachTargets) -> None:
    with pytest.raises(JoinError, match=r"has a field cls\.npy already"):
        list(pipeline(world, stage).compose(attach_targets(world.store, ["cls"])))


def test_names_are_checked_at_once(world: "World", tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean cls"):
        attach_targets(world.store, ["pooled", "clss"])
    with pytest.raises(UnknownNameError):
        attach_targets(world.store, [])
    with pytest.raises(UnknownNameError):
        attach_targets(world.store, ["cls"], teacher="another")
    with pytest.raises(FormatError):
        attach_targets(tmp_path / "none.zarr", ["cls"])


def shards(*urls: str) -> list[Shard]:
    return [Shard(url, "train", 10240, 1, "0" * 64) for url in urls]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("train-0.tar", "train-0.tar"),
        ("./train-0.tar", "train-0.tar"),
        ("file:/elsewhere/train-0.tar", "train-0.tar"),
        ("https://example.org/data/train-0.tar", "train-0.tar"),
        ("pipe:cat /data/a/x.tar", "a/x.tar"),
        ("/data/a/x.tar", "a/x.tar"),
        ("/data/b/x.tar", "b/x.tar"),
        ("/moved/y.tar", "deep/y.tar"),
    ],
)
def test_a_url_names_a_shard_by_its_path_or_its_file_name(url: str, expected: str) -> None:
    assert find_shard(url, shards("train-0.tar", "a/x.tar", "b/x.tar", "deep/y.tar")).url == expected


@pytest.mark.parametrize(
    ("url", "reason"),
    [("/moved/x.tar", "'/moved/x.tar' names several"), ("z.tar", "'z.tar' names none"), ("", "'' names none")],
)
def test_a_url_that_names_none_or_several(url: str, reason: str) -> None:
    with pytest.raises(JoinError, match=reason):
        find_shard(url, shards("a/x.tar", "b/x.tar"))


def test_one_key_twice_in_a_shard(world: "World", tmp_path: Path) -> None:
    """Refused when shards are indexed; here again, since a store may come from elsewhere."""
    write_tar(tmp_path / "x.tar", sample("a", 0))
    stage = attach_targets(world.store, ["cls"])
    read = stage._view.read(3, "cls")
    read.keys[1] = read.keys[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(stage._view), "read", lambda *_: read)
        with pytest.raises(JoinError, match=r"two samples of val-0\.tar have one key"):
            list(stage([{"__key__": "val-0/000", "__url__": "val-0.tar"}]))
