"""SIGKILL at any moment: what is there is whole or absent, and a rerun ends in the same bytes."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.storms import Bucket, BucketStorm, LocalStorm, Zygote
from tests.tiny import write_shard

Tell = Callable[[str], None]
SHARDS = {"train-0.tar": 7, "train-1.tar": 4, "train-2.tar": 8, "val-0.tar": 3}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name, rows in SHARDS.items():
        write_shard(folder / name, rows)
    return folder


@pytest.fixture
def storm(zygote: Zygote, data: Path, tmp_path: Path) -> LocalStorm:
    return LocalStorm(zygote, data, tmp_path)


@pytest.fixture
def bucket_storm(zygote: Zygote, data: Path, storm_bucket: Bucket) -> BucketStorm:
    return BucketStorm(zygote, data, storm_bucket)


def test_death_before_any_name_is_given_leaves_what_a_rerun_completes(
    storm: LocalStorm, thorough: bool, tell: Tell
) -> None:
    """Every state that a kill can leave on a disk, one after the other: between two names nothing visible happens."""
    deaths = 0
    for death in itertools.count(1, 1 if thorough else 4):
        if not storm.dies_at(f"{death}", death):
            break
        deaths += 1
        storm.complete(f"{death}")
    assert death > len(storm.whole)
    tell(f"{deaths} kills of 1 writer to a disk, each before the next name")


@pytest.mark.parametrize("writers", [1, 2])
def test_killed_writers_leave_what_a_rerun_completes(
    storm: LocalStorm, writers: int, storm_seed: int, tell: Tell
) -> None:
    tell(storm.rage(writers, 20, storm_seed))


def test_killed_writers_of_two_teachers_leave_what_a_rerun_completes(
    zygote: Zygote, data: Path, tmp_path: Path, storm_seed: int, tell: Tell
) -> None:
    tell(LocalStorm(zygote, data, tmp_path, teachers=2).rage(1, 10, storm_seed))


@pytest.mark.parametrize("writers", [1, 2])
def test_killed_writers_to_a_bucket_leave_what_a_rerun_completes(
    bucket_storm: BucketStorm, writers: int, storm_seed: int, tell: Tell
) -> None:
    tell(bucket_storm.rage(writers, 10, storm_seed))


@pytest.mark.storm
@pytest.mark.parametrize("writers", [1, 2, 3])
def test_a_thousand_kills_on_a_disk(storm: LocalStorm, writers: int, storm_seed: int, tell: Tell) -> None:
    tell(storm.rage(writers, 250, storm_seed + 1))


@pytest.mark.storm
@pytest.mark.parametrize("writers", [1, 2])
def test_hundreds_of_kills_over_a_network(bucket_storm: BucketStorm, writers: int, storm_seed: int, tell: Tell) -> None:
    tell(bucket_storm.rage(writers, 100, storm_seed + 1))
