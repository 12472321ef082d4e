"""Running a teacher again on rows of a store; the teacher is a tiny one, the shards and the store are real."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedkd.config import Config, DataConfig, PrecomputeConfig
from embedkd.errors import IntegrityError, StoreError, TeacherError
from embedkd.live_verify import _judge, load_again, recorded_name, verify_live
from embedkd.precompute import precompute
from embedkd.records import DecodePolicy, RowStatus, ViewSpec, key_hash
from embedkd.sources.shards import index_shards, list_data
from embedkd.storage import LocalStorage
from embedkd.store import Pass, PassWriter, SlotRows, TeacherView, create_store, open_store
from embedkd.teachers import LoadOptions
from tests.tiny import OUTPUTS, SPEC, TinyTeacher, places_in, said_of, write_shard

ROWS = {"train-0.tar": 7, "val-0.tar": 4}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, LoadOptions]]:
    """Every name loads the tiny teacher; what was asked for is written down."""
    asked: list[tuple[str, LoadOptions]] = []

    def load(name: str, options: LoadOptions) -> TinyTeacher:
        asked.append((name, options))
        return TinyTeacher()

    monkeypatch.setattr("embedkd.teachers.load_teacher", load)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    return asked


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, list[str]]:
    return {name: write_shard(tmp_path / "data" / name, rows) for name, rows in ROWS.items()}


def write_store(
    folder: Path,
    keys: dict[str, list[str]],
    *,
    wrong: str = "",
    lost: str = "",
    slots: int = 2,
    view: ViewSpec | None = None,
) -> TeacherView:
    """Rows of the tiny teacher; of one key turned round, of another lost."""
    listing = list_data(str(folder / "data"))
    shards = index_shards(listing)
    store = create_store(
        LocalStorage(folder / "store.zarr"), shards, root="../data", classes=tuple("abc"), policy=DecodePolicy()
    )
    writer = PassWriter(store, replace(SPEC, view=view), Pass(OUTPUTS, 3, 1, "cpu"))
    for slot in store.slots[:slots]:
        names = keys[slot.shard.url]
        status = np.array([RowStatus.DECODE_ERROR if name == lost else RowStatus.OK for name in names], np.uint8)
        said = {o: np.stack([said_of(n, o) * (-1 if n == wrong else 1) for n in names]) for o in OUTPUTS}
        for rows in said.values():
            rows[status != RowStatus.OK] = np.nan
        source = {"url": slot.shard.url, "bytes": slot.shard.size_bytes, "blake2b": slot.shard.blake2b}
        hashes = np.array([key_hash(name) for name in names], np.uint64)
        labels = np.zeros(len(names), np.int32)
        places = places_in(folder / "data" / slot.shard.url)
        writer.write(slot, SlotRows(hashes, labels, places, said, dict.fromkeys(OUTPUTS, status), source), {})
    return open_store(store.storage).teacher()


def test_rows_of_the_teacher_pass(tmp_path: Path, keys: dict[str, list[str]]) -> None:
    checks = verify_live(write_store(tmp_path, keys), 100)
    assert [(check.output, check.rows, check.passed) for check in checks] == [("cls", 11, True), ("pooled", 11, True)]
    cls, pooled = checks
    assert 0 < cls.max_error < 2**-10  # float16 of values below 2
    assert pooled.max_error == 0  # stored in float32
    assert cls.cosine_min <= cls.cosine_mean <= 1 + 1e-12


def test_one_wrong_row_among_all_is_seen(tmp_path: Path, keys: dict[str, list[str]]) -> None:
    for check in verify_live(write_store(tmp_path, keys, wrong=keys["train-0.tar"][3]), 100):
        assert not check.passed
        assert check.cosine_min == pytest.approx(-1, abs=1e-6)


def test_so_many_samples_are_drawn_and_the_seed_chooses(tmp_path: Path, keys: dict[str, list[str]]) -> None:
    view = write_store(tmp_path, keys)
    assert {check.rows for check in verify_live(view, 5)} == {5}
    errors = {verify_live(view, 2, seed=seed)[0].max_error for seed in range(6)}
    assert len(errors) > 1
    assert verify_live(view, 2, seed=3) == verify_live(view, 2, seed=3)


def test_a_view_is_compared_with_what_is_said_of_its_parts(tmp_path: Path, keys: dict[str, list[str]]) -> None:
    shards = str(tmp_path / "data")
    settings = PrecomputeConfig(out=str(tmp_path / "v.zarr"), views=2, threads=1, decode_workers=0, device="cpu")
    store = open_store(precompute(Config(data=DataConfig(shards), precompute=settings)).store)
    views = [store.teacher(name) for name in store.views_of(store.teacher().teacher_id)]
    for view in views:
        assert [(check.output, check.rows, check.passed) for check in verify_live(view, 100)] == [("cls", 11, True)]
    whole = write_store(tmp_path, keys, view=views[0].spec.view)  # what was said of whole images, called a view
    assert [check.passed for check in verify_live(whole, 100)] == [False, False]


def test_lost_rows_and_holes_are_not_compared(tmp_path: Path, keys: dict[str, list[str]]) -> None:
    checks = verify_live(write_store(tmp_path, keys, lost=keys["train-0.tar"][0], slots=1), 100)
    assert {check.rows for check in checks} == {6}
    assert all(check.passed for check in checks)


def test_nothing_to_verify(tmp_path: Path, keys: dict[str, list[str]]) -> None:
    with pytest.raises(StoreError, match="holds no rows of packaged:efficientnet-lite0 yet"):
        verify_live(write_store(tmp_path, keys, slots=0), 3)


def test_other_shards_under_the_same_names(tmp_path: Path, keys: dict[str, list[str]]) -> None:
    view = write_store(tmp_path, keys)
    write_shard(tmp_path / "shorter" / "train-0.tar", 3)
    write_shard(tmp_path / "shorter" / "val-0.tar", 3)
    with pytest.raises(IntegrityError, match=r"has no sample \d; it is not the shard of this store"):
        verify_live(view, 100, data=str(tmp_path / "shorter"))
    for name in ROWS:
        write_shard(tmp_path / "other" / name, 9)
        (tmp_path / "other" / name).rename(tmp_path / "other" / f"{name}.tar")
        write_shard(tmp_path / "other" / name.replace("-0", "-1"), 9)
        (tmp_path / "other" / name.replace("-0", "-1")).rename(tmp_path / "other" / name)
    with pytest.raises(IntegrityError, match="is not of sample 'train-1/000'"):
        verify_live(view, 100, data=str(tmp_path / "other"))


def test_another_teacher_is_told_by_what_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TeacherError, match="is not the teacher of this store: weights_sha256 differ"):
        load_again(replace(SPEC, weights_sha256="1" * 64), None, "cpu", None)


def test_a_head_has_no_model_to_run() -> None:
    spec = replace(SPEC, model="linear head on cls of 0123", derived_from="vit:ViT-L-32 0123")
    with pytest.raises(StoreError, match="no model says them; verify vit:ViT-L-32 0123"):
        load_again(spec, None, "cpu", None)


def test_what_is_loaded_is_what_was_recorded(tmp_path: Path, tiny: list[tuple[str, LoadOptions]]) -> None:
    changes: list[tuple[dict[str, Any], str, int | None]] = [
        ({"source": "google/vit"}, "packaged:efficientnet-lite0", None),
        ({"source": str(tmp_path)}, f"packaged:efficientnet-lite0@{tmp_path}", None),
        ({"source": "random weights, seed 7"}, "packaged:efficientnet-lite0", 7),
    ]
    for change, name, seed in changes:
        spec = replace(SPEC, **change)
        load_again(spec, None, "cpu", "mine")
        assert tiny.pop() == (name, LoadOptions("cpu", "float32", seed, "mine"))
    load_again(SPEC, "vit:elsewhere", "cpu", None)
    assert tiny.pop()[0] == "vit:elsewhere"
    assert recorded_name(replace(SPEC, name="openclip:X@tag", source="org/x", revision="abc")) == "openclip:X@tag"


def test_rows_of_zeros_are_alike() -> None:
    zeros, row = np.zeros((1, 4)), np.ones((1, 4))
    assert _judge("cls", [(zeros, zeros)]).passed
    assert not _judge("cls", [(zeros, row)]).passed
