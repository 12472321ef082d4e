"""Differences: counted against what the stores were made with."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedkd.errors import StoreError, UnknownNameError
from embedkd.records import DecodePolicy, OutputSpec
from embedkd.storage import LocalStorage
from embedkd.store import Pass, PassWriter, Selection, diff_stores, open_store, subset_store
from embedkd.store.comparing import PERCENTILES
from tests.store.conftest import _spec
from tests.store.samples import SHARDS, make, rows_of

SMALL, OTHER = _spec(), _spec("vit:Other", "1")
TEACHERS = {SMALL: (("cls", "pooled"),), OTHER: (("cls",),)}


@pytest.fixture(scope="module")
def whole(fast_disk: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("differences") / "s"
    make(folder, TEACHERS)
    return folder


def diff(one: Path, other: Path, **options: Any) -> Any:
    return diff_stores(LocalStorage(one), LocalStorage(other), **options)


def test_a_store_does_not_differ_from_itself(whole: Path) -> None:
    found = diff(whole, whole)
    assert (found.shards, found.only, found.changed) == (5, ((), ()), ())
    assert (found.same_classes, found.same_decoding, found.only_teachers) == (True, True, ((), ()))
    assert [(o.output, o.rows, o.equal, o.only, o.other_keys) for o in found.outputs] == [
        ("cls", 29, 29, (0, 0), 0),
        ("cls", 29, 29, (0, 0), 0),
        ("pooled", 29, 29, (0, 0), 0),
    ]
    for output in found.outputs:
        assert (output.cosine_mean, output.cosine_min) == (1.0, 1.0)
        assert set(output.cosine_percentiles.values()) == {1.0}


def test_the_same_rows_cut_in_another_way_do_not_differ(whole: Path, tmp_path: Path) -> None:
    make(tmp_path / "t", TEACHERS, SHARDS[::-1], capacity=4)
    assert all(output.rows == output.equal == 29 for output in diff(whole, tmp_path / "t").outputs)


def test_cosines_are_those_of_the_rows(whole: Path, tmp_path: Path) -> None:
    make(tmp_path / "t", {OTHER: (("cls",),)}, noise=0.3)
    (output,) = diff(whole, tmp_path / "t").outputs
    stores = [open_store(whole).teacher("vit:Other"), open_store(tmp_path / "t").teacher("vit:Other")]
    a, b = (np.concatenate([view.read(s, "cls").rows for s in view.store.slots]).astype(np.float64) for view in stores)
    ok = np.isfinite(a).all(axis=1)
    a, b = a[ok], b[ok]
    cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert (output.rows, output.equal) == (29, 0)
    assert output.cosine_mean == pytest.approx(cosines.mean())
    assert output.cosine_min == pytest.approx(cosines.min())
    for share in PERCENTILES:
        exact = np.percentile(cosines, share, method="inverted_cdf")
        assert 1 - output.cosine_percentiles[f"{share:g}"] == pytest.approx(1 - exact, rel=0.05)


def test_rows_of_one_side_alone_are_counted(whole: Path, tmp_path: Path) -> None:
    selection = Selection(labels=frozenset({0}))
    subset_store(LocalStorage(whole), LocalStorage(tmp_path / "t"), selection)
    for path in (tmp_path / "t").glob("teachers/vit-other-*/pass-*/commits/2.json"):
        path.unlink()
    found = {(o.teachers[0][:9], o.output): o for o in diff(whole, tmp_path / "t").outputs}
    label_0 = {shard.url: [i for i in range(shard.rows) if i % 3 == 0 and i % 5 != 4] for shard in SHARDS}
    usable = {shard.url: sum(i % 5 != 4 for i in range(shard.rows)) for shard in SHARDS}
    everywhere = sum(map(len, label_0.values()))
    assert found["vit-small", "cls"].rows == everywhere
    assert found["vit-small", "cls"].only == (sum(usable.values()) - everywhere, 0)
    assert found["vit-other", "cls"].rows == everywhere - len(label_0["train-1.tar"])
    assert found["vit-other", "cls"].only == (sum(usable.values()) - everywhere + len(label_0["train-1.tar"]), 0)
    back = diff(tmp_path / "t", whole)
    assert [o.only for o in back.outputs] == [o.only[::-1] for o in diff(whole, tmp_path / "t").outputs]


def test_data_and_teachers_that_differ_are_named(whole: Path, tmp_path: Path) -> None:
    shards = [SHARDS[0], replace(SHARDS[1], blake2b="0" * 64), replace(SHARDS[2], url="val-9.tar")]
    third = _spec("vit:Third", "2")
    make(
        tmp_path / "t", {OTHER: (("cls",),), third: (("cls",),)}, shards, classes=None, policy=DecodePolicy(exif=False)
    )
    found = diff(whole, tmp_path / "t")
    assert found.shards == 1
    assert found.only == (("val-2.tar", "test-3.tar", "train-4.tar"), ("val-9.tar",))
    assert found.changed == ("train-1.tar",)
    assert (found.same_classes, found.same_decoding) == (False, False)
    assert found.teachers == (OTHER.teacher_id,)
    assert found.only_teachers == ((SMALL.teacher_id,), (third.teacher_id,))
    assert [o.rows for o in found.outputs] == [9]


def test_two_teachers_can_be_compared(whole: Path) -> None:
    (output,) = diff(whole, whole, pairs=[("vit:Small", "vit:Other")]).outputs
    assert (output.teachers, output.output) == ((SMALL.teacher_id, OTHER.teacher_id), "cls")
    assert output.equal == 0
    assert abs(output.cosine_mean) < 0.5
    with pytest.raises(UnknownNameError):
        diff(whole, whole, pairs=[("vit:Small", "vit:None")])


def test_outputs_of_other_widths_are_not_compared(whole: Path, tmp_path: Path) -> None:
    wide = replace(OTHER, outputs=(OutputSpec("cls", 7),))
    make(tmp_path / "t", {wide: (("cls",),)}, SHARDS[:1])
    with pytest.raises(StoreError, match="no output of the same name and width"):
        diff(whole, tmp_path / "t", pairs=[("vit:Other", "vit:Other")])


def test_nothing_in_common_is_no_number(whole: Path, tmp_path: Path) -> None:
    make(tmp_path / "t", {OTHER: (("cls",),)}, [replace(SHARDS[0], url="x.tar")])
    (output,) = diff(whole, tmp_path / "t").outputs
    assert output.rows == 0
    assert np.isnan(output.cosine_mean)
    assert np.isnan(list(output.cosine_percentiles.values())).all()


def test_other_samples_in_what_seems_the_same_shard(whole: Path, tmp_path: Path) -> None:
    """The manifest says that the tar is the same, and two of its keys are not."""
    store = make(tmp_path / "t", {}, SHARDS[1:2])
    rows = rows_of(store.slots[0], OTHER, ("cls",))
    keys = rows.keys.copy()
    keys[1:3] ^= np.uint64(1)
    PassWriter(store, OTHER, Pass(("cls",), 8, 1, "x")).write(store.slots[0], replace(rows, keys=keys), {})
    (output,) = diff(whole, tmp_path / "t").outputs
    assert (output.other_keys, output.rows, output.equal) == (2, 2, 2)
