"""The whole of `embedkd precompute` with a teacher of no weight: begun, stopped, gone on, finished."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from embedkd.config import Config, DataConfig, PrecomputeConfig
from embedkd.errors import Interrupted, StoreError
from embedkd.precompute import precompute
from embedkd.progress import Silent
from embedkd.sources.shards import index_shards, list_data
from embedkd.storage import LocalStorage
from embedkd.store import append_shards, open_store, seal_store
from tests.tiny import OUTPUTS, SPEC, TinyTeacher, lasting, write_shard

Load = Callable[[TinyTeacher | None], None]


class Interrupting(TinyTeacher):
    """Is interrupted at its fourth batch behind the one that tries the batch size."""

    def embed(self, pixels: torch.Tensor, outputs: Sequence[str]) -> dict[str, torch.Tensor]:
        if len(self.batches) == 4:
            raise KeyboardInterrupt
        return super().embed(pixels, outputs)


class Watch(Silent):
    """Remembers steps and lines."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int, str]] = []
        self.lines: list[str] = []
        self.done = 0

    def begin(self, task: str, total: int, unit: str) -> None:
        self.steps.append((task, total, unit))

    def advance(self, count: int, note: str = "") -> None:
        self.done += count

    def line(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Choose the teacher that every name loads."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)

    def choose(teacher: TinyTeacher | None) -> None:
        monkeypatch.setattr("embedkd.teachers.load_teacher", lambda name, options: teacher)

    choose(TinyTeacher())
    return choose


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, rows in (("train-0.tar", 7), ("train-1.tar", 5), ("val-0.tar", 4)):
        write_shard(tmp_path / "data" / name, rows)
    return tmp_path / "data"


@pytest.fixture
def config(tmp_path: Path, data: Path, load: Load) -> Config:
    return into(tmp_path / "store.zarr", data)


def into(store: Path, data: Path, outputs: tuple[str, ...] = OUTPUTS) -> Config:
    settings = PrecomputeConfig(
        teachers=(SPEC.name,), out=str(store), outputs=outputs, batch_size=3, threads=1, decode_workers=0, device="cpu"
    )
    return Config(data=DataConfig(shards=str(data)), precompute=settings)


def test_from_shards_to_class_means(config: Config) -> None:
    watch = Watch()
    result = precompute(config, watch)
    (entry,) = result.teachers
    assert (result.rows, result.computed, entry.computed, entry.bad) == (16, 16, 16, {})
    assert (entry.outputs, entry.teacher_id, entry.name) == (("cls", "pooled"), SPEC.teacher_id, SPEC.name)
    assert entry.class_sets == {"cls": ("n100-seed0",), "pooled": ("n100-seed0",)}
    assert watch.steps == [("index", 3, "shards"), ("precompute", 16, "images")]
    assert watch.done == 3 + 16
    view = open_store(result.store).teacher()
    assert view.class_set(None, "cls").count.tolist() == [5, 4, 3]
    assert view.read(2, "cls").status.tolist() == [1] * 4


def test_a_finished_store_answers_without_a_teacher(config: Config, load: Load) -> None:
    first = precompute(config)
    before = lasting(Path(first.store))
    load(None)
    again = precompute(config)
    assert (again.computed, again.seconds) == (0, 0.0)
    assert again.rows == first.rows
    assert again.teachers == tuple(replace(entry, computed=0) for entry in first.teachers)
    assert lasting(Path(first.store)) == before


def test_a_finished_store_answers_without_heavy_imports(config: Config, data: Path) -> None:
    store = precompute(config).store
    question = (
        "import sys\n"
        "from embedkd.config import Config, DataConfig, PrecomputeConfig\n"
        "from embedkd.precompute import precompute\n"
        f"settings = PrecomputeConfig(teachers=({SPEC.name!r},), out={store!r})\n"
        f"result = precompute(Config(data=DataConfig(shards={str(data)!r}), precompute=settings))\n"
        "heavy = {'torch', 'timm', 'transformers', 'webdataset', 'sklearn', 'zarr'} & set(sys.modules)\n"
        "print(result.computed, sorted(heavy))"
    )
    ran = subprocess.run([sys.executable, "-c", question], capture_output=True, text=True, check=True)
    assert ran.stdout == "0 []\n"


def test_ctrl_c_keeps_what_is_committed_and_the_same_command_goes_on(
    config: Config, data: Path, load: Load, tmp_path: Path
) -> None:
    whole = precompute(into(tmp_path / "whole.zarr", data))
    load(Interrupting())
    with pytest.raises(Interrupted, match=r"^stopped: 1 of 3 shards are committed in .*; the same command goes on"):
        precompute(config)
    teacher = TinyTeacher()
    load(teacher)
    result = precompute(config)
    assert (result.rows, result.computed, sum(teacher.batches)) == (16, 9, 9)
    assert lasting(Path(result.store)) == lasting(Path(whole.store))


def test_outputs_that_are_added_leave_the_others_as_they_are(config: Config, data: Path) -> None:
    store = Path(config.precompute.out)
    precompute(into(store, data, ("pooled",)))
    before = lasting(store)
    result = precompute(into(store, data, ("cls",)))
    assert (result.teachers[0].outputs, result.computed) == (("cls",), 16)
    assert before.items() <= lasting(store).items()
    assert precompute(config).computed == 0


@pytest.mark.parametrize("change", ["more", "fewer", "other"])
def test_a_store_of_other_shards_is_refused_and_kept(config: Config, data: Path, change: str) -> None:
    store = Path(precompute(config).store)
    before = lasting(store)
    if change == "fewer":
        (data / "train-1.tar").unlink()
    else:
        write_shard(data / ("train-2.tar" if change == "more" else "train-1.tar"), 5, labels=False)
    with pytest.raises(StoreError, match=r"was made from other shards .*; use another --out$"):
        precompute(config)
    assert lasting(store) == before


def test_without_labels_there_are_no_class_means(config: Config, data: Path) -> None:
    for path in data.glob("*.tar"):
        write_shard(path, 3, labels=False)
    watch = Watch()
    result = precompute(config, watch)
    assert result.teachers[0].class_sets == {"cls": (), "pooled": ()}
    assert "no class means of cls: no training sample has a label and an embedding" in watch.lines
    assert precompute(config).computed == 0


@pytest.mark.parametrize("sealed", [False, True])
def test_new_shards_are_appended_and_computed(config: Config, data: Path, sealed: bool) -> None:
    store = Path(precompute(config).store)
    before = {path: path.read_bytes() for path in store.glob("**/c/**/*") if path.is_file()}
    if sealed:
        seal_store(LocalStorage(store))
    write_shard(data / "a-new-one.tar", 5)  # sorted before the others, and yet behind them in the store
    with pytest.raises(StoreError, match="embedkd store append adds the new ones"):
        precompute(config)
    append_shards(LocalStorage(store), index_shards(list_data(str(data))))
    result = precompute(config)
    assert sum(teacher.computed for teacher in result.teachers) == 5
    view = open_store(store).teacher()
    assert open_store(store).shards[-1].url == "a-new-one.tar"
    assert not any(view.holes(output) for output in view.outputs)
    assert all(path.read_bytes() == data for path, data in before.items())
    assert {name for names in result.teachers[0].class_sets.values() for name in names} >= {"n100-seed0-g1"}
    again = precompute(config)
    assert sum(teacher.computed for teacher in again.teachers) == 0
