"""Held-out samples: a share of each class, by seed and key alone, and never on both sides."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedkd.errors import JoinError
from embedkd.join import JoinedShards, shard_samples, stored_samples
from embedkd.join.held_out import held_out, split_held_out
from embedkd.records import RowStatus, key_hash
from embedkd.sources.shards import index_shards, list_data
from tests.join.conftest import WorldMaker
from tests.tiny import CLASSES, augmented, said_of, sample, write_shard, write_tar

KEYS = np.array([key_hash(str(i)) for i in range(400)], np.uint64)


@given(st.integers(0, 5), st.integers(1, 200), st.floats(0.05, 0.6))
def test_every_class_gives_its_share_and_keeps_some(seed: int, rows: int, share: float) -> None:
    labels = np.arange(rows) % 3 - 1
    chosen = held_out(KEYS[:rows], labels, share=share, seed=seed)
    for label in np.unique(labels):
        members = int((labels == label).sum())
        expected = 0 if members == 1 or label < 0 else min(max(round(share * members), 1), members - 1)
        assert int(chosen[labels == label].sum()) == expected


def test_the_order_of_samples_does_not_matter_and_the_seed_does() -> None:
    labels = np.arange(400) % 7
    chosen = held_out(KEYS, labels, share=0.1, seed=0)
    np.testing.assert_array_equal(held_out(KEYS[::-1], labels[::-1], share=0.1, seed=0)[::-1], chosen)
    assert not np.array_equal(held_out(KEYS, labels, share=0.1, seed=1), chosen)


def test_samples_with_one_key_stay_together() -> None:
    keys = np.repeat(KEYS[:40], 2)
    chosen = held_out(keys, np.zeros(80, np.int64), share=0.3, seed=0)
    assert set(keys[chosen].tolist()).isdisjoint(keys[~chosen].tolist())
    assert int(chosen.sum()) == 24


def test_the_two_parts_are_all_samples_of_the_shards(tmp_path: Path) -> None:
    keys = write_shard(tmp_path / "train-0.tar", 30) + write_shard(tmp_path / "train-1.tar", 2)
    keys += write_shard(tmp_path / "train-2.tar", 13)
    listing = list_data(str(tmp_path))
    whole = shard_samples(index_shards(listing), listing.root, labels_needed=True)
    train, val = split_held_out(whole, share=0.2, seed=0)
    assert (train.rows, val.rows) == (36, 9)
    parts = []
    for part in (train, val):
        data = JoinedShards(pickle.loads(pickle.dumps(part)), augmented, global_batch_size=4, seed=3)
        batches = list(data)
        assert len(batches) == data.steps_per_epoch
        parts.append([key for batch in batches for key in batch.keys])
        for batch in batches:
            expected = [int(key.split("/")[1]) % CLASSES for key in batch.keys]
            assert batch.labels.tolist() == expected
    assert sorted(parts[0] + parts[1]) == sorted(keys)
    hashes = np.array([key_hash(key) for key in keys], np.uint64)
    labels = np.array([int(key.split("/")[1]) % CLASSES for key in keys])
    mask = held_out(hashes, labels, share=0.2, seed=0)
    assert sorted(parts[1]) == sorted(np.array(keys)[mask].tolist())


def test_stored_samples_keep_their_targets(make_world: WorldMaker) -> None:
    """Rows that cannot be used are on neither side, and numbers still meet the right rows."""
    bad = {(0, 1): RowStatus.DECODE_ERROR, (1, 0): RowStatus.DECODE_ERROR}
    world = make_world({"train-0.tar": 10, "train-1.tar": 7}, bad=bad)
    whole = stored_samples(world.view, "train", ["cls"], allow_partial=True)
    train, val = split_held_out(whole, share=0.3, seed=1)
    assert train.rows + val.rows == 15
    seen: list[str] = []
    for part in (train, val):
        for batch in JoinedShards(part, augmented, global_batch_size=4):
            seen += batch.keys
            for key, row in zip(batch.keys, batch.targets["cls"], strict=True):
                np.testing.assert_allclose(row.numpy(), said_of(key, "cls"), atol=2e-3)
    lost = {world.keys["train-0.tar"][1], world.keys["train-1.tar"][0]}
    assert sorted(seen) == sorted({*world.keys["train-0.tar"], *world.keys["train-1.tar"]} - lost)


def test_too_few_to_hold_any_out(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", [*sample("a", 0), *sample("b", 1)])
    listing = list_data(str(tmp_path))
    whole = shard_samples(index_shards(listing), listing.root, labels_needed=True)
    with pytest.raises(JoinError, match="expected 2 samples of a class to hold one out for validation, got 2"):
        split_held_out(whole, share=0.1, seed=0)
    with pytest.raises(JoinError, match="got none"):
        split_held_out(shard_samples([], listing.root), share=0.1, seed=0)
