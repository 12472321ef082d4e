"""A precompute to a bucket that is killed fifty times ends in a sealed store that is whole and can be trained on.

Shards and store lie in the bucket, so training needs no ``--data``: the store remembers where they are.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from embedkd.storage import open_storage
from embedkd.store import open_store
from tests.cli.conftest import Command, embedkd  # noqa: F401 - a fixture
from tests.faults.storms import Bucket, BucketStorm, Zygote, state_of
from tests.tiny import write_shard

KILLS = 50
SHARDS = {f"train-{n}.tar": 4 + n % 3 for n in range(6)} | {"val-0.tar": 4, "test-0.tar": 4}
TINY = ("student.image_px=8", "student.patch_px=4", "train.workers=0", "train.device=cpu", "augment.crop_padding_px=1")


@pytest.fixture
def data(tmp_path: Path, storm_bucket: Bucket) -> str:
    """Shards in the bucket."""
    url = storm_bucket.url("fifty/data")
    for name, rows in SHARDS.items():
        write_shard(tmp_path / name, rows)
        open_storage(url).put_new(name, (tmp_path / name).read_bytes())
    return url


def test_a_precompute_to_a_bucket_that_is_killed_fifty_times(
    zygote: Zygote,
    storm_bucket: Bucket,
    data: str,
    tmp_path: Path,
    embedkd: Command,  # noqa: F811
    storm_seed: int,
    tell: Callable[[str], None],
) -> None:
    storm = BucketStorm(zygote, data, storm_bucket)
    assert storm.wear_down("worn", KILLS, storm_seed) == KILLS
    tell(f"{KILLS} kills of 1 writer from a bucket to a bucket, 1 store of {len(storm.whole)} objects")
    storm.complete("worn")
    url = storm.url("worn")

    code, _, err = embedkd("store", "seal", url)
    assert code == 0, err
    sealed = open_store(url)
    assert sealed.catalogue is not None
    code, out, err = embedkd("store", "verify", url, "--json")
    assert code == 0, err
    (teacher,) = json.loads(out)["teachers"]
    assert {o["output"]: (o["committed"], o["usable"]) for o in teacher["outputs"]} == dict.fromkeys(
        ("cls", "pooled"), (len(SHARDS), sum(SHARDS.values()))
    )

    before = state_of(open_storage(url))
    run = tmp_path / "run"
    sets = [word for line in TINY for word in ("--set", line)]
    code, out, err = embedkd(
        *("train", "--targets", url, "--out", run, "--epochs", 1, "--batch-size", 8),
        *("--student", "vit-tiny", "--allow-view-mismatch", "--json", *sets),
    )
    assert code == 0, err
    assert json.loads(out)["train_rows"] == sum(rows for name, rows in SHARDS.items() if name.startswith("train"))
    assert state_of(open_storage(url)) == before, "training writes nothing"
