"""Running a teacher over slots: rows, statuses, and what is refused."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from embedkd.errors import ShardError, TeacherError
from embedkd.progress import Silent
from embedkd.records import RowStatus, key_hash
from embedkd.storage import LocalStorage
from embedkd.store import EmbeddingStore, open_store
from tests.tiny import CLASSES, OUTPUTS, TinyTeacher, lasting, picture, said_of, sample, write_shard

if TYPE_CHECKING:
    from tests.precompute.conftest import Bench

Members = list[tuple[str, bytes]]


def assert_rows(store: EmbeddingStore, keys: Sequence[Sequence[str]], bad: dict[str, RowStatus] | None = None) -> None:
    """Every slot holds what a plain loop over these keys says; bad samples are NaN, and nothing else moves."""
    view = open_store(store.storage).teacher()
    for slot, names in zip(store.slots, keys, strict=True):
        for output in OUTPUTS:
            read = view.read(slot, output)
            assert read.keys.tolist() == [key_hash(key) for key in names]
            assert read.status.tolist() == [(bad or {}).get(key, RowStatus.OK) for key in names]
            for key, row in zip(names, read.rows, strict=True):
                expected = np.full(row.shape, np.nan) if key in (bad or {}) else said_of(key, output)
                np.testing.assert_array_equal(row, expected.astype(row.dtype))


def test_rows_are_those_of_a_plain_loop(bench: "Bench") -> None:
    store = bench.run()
    keys = [[f"{name}/{n:03d}" for n in range(rows)] for name, rows in (("train-0", 7), ("train-1", 5), ("val-0", 4))]
    assert_rows(store, keys)
    labels = open_store(store.storage).teacher().read(0, "cls").labels
    assert labels.tolist() == [n % CLASSES for n in range(7)]


def test_bad_samples_keep_their_place(empty: "Bench") -> None:
    broken = picture("broken")
    empty.shard(
        "train-0.tar",
        [
            *sample("a", 0),
            ("cut.png", broken[:60]),
            ("cut.cls", b"1"),
            *sample("b", None),
            ("text.txt", b"no image"),
            ("nothing.png", b""),
            *sample("c", 2),
            ("lie.jpg", b"<html>"),
        ],
    )
    progress = Recorder()
    store = empty.run(progress=progress)
    bad = {
        "cut": RowStatus.DECODE_ERROR,
        "text": RowStatus.FIELD_MISSING,
        "nothing": RowStatus.DECODE_ERROR,
        "lie": RowStatus.DECODE_ERROR,
    }
    assert_rows(store, [["a", "cut", "b", "text", "nothing", "c", "lie"]], bad)
    read = open_store(store.storage).teacher().read(0, "cls")
    assert read.labels.tolist() == [0, 1, -1, -1, -1, 2, -1]
    assert [line.partition(" has ")[0] for line in progress.lines] == [f"sample {key!r} of train-0.tar" for key in bad]
    assert progress.count == 7


class Recorder(Silent):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.count = 0

    def line(self, text: str) -> None:
        self.lines.append(text)

    def advance(self, count: int, note: str = "") -> None:
        self.count += count


def test_only_the_first_bad_samples_are_told_and_all_are_counted(empty: "Bench") -> None:
    for name in ("train-0.tar", "train-1.tar"):
        empty.shard(name, [(f"{name[:7]}{n}.{kind}", b"?") for n in range(4) for kind in ("png",)] + sample("z", 1))
    progress = Recorder()
    store = empty.create(LocalStorage(empty.folder / "store.zarr"))
    tally = empty.processor(store, progress=progress).run(store.slots)
    assert (tally.rows, dict(tally.bad), len(progress.lines)) == (10, {"decode_error": 8}, 5)
    assert tally.decode_s > 0
    assert tally.teacher_s > 0


def test_nothing_but_bad_samples_never_reaches_the_teacher(empty: "Bench") -> None:
    empty.shard("train-0.tar", [("a.txt", b"1"), ("b.txt", b"2")])
    teacher = TinyTeacher()
    store = empty.run(teacher)
    assert teacher.batches == []
    assert_rows(store, [["a", "b"]], {"a": RowStatus.FIELD_MISSING, "b": RowStatus.FIELD_MISSING})


def test_too_many_bad_samples_stop_the_run(empty: "Bench") -> None:
    empty.shard("train-0.tar", [*sample("a", 0), *sample("b", 0), ("c.png", b"x"), ("d.txt", b"")])
    with pytest.raises(
        ShardError, match=r"^2 of 4 samples of train-0\.tar cannot be read \(first: 'c': .*max_bad_frac"
    ):
        empty.run(max_bad_fraction=0.49)
    assert empty.commits() == []
    empty.run(max_bad_fraction=0.5)
    assert empty.commits() == ["0.json"]


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([*sample("b", 3)], r"^sample 'b' of train-1\.tar has label 3, the data has 3 classes \(0 to 2\)$"),
        (
            [*sample("b", None), ("b.cls", b"cat")],
            r"^sample 'b' of train-1\.tar: expected a class number in \.cls, got b'c",
        ),
        ([("b.z.jpg", b""), ("b.w.jpg", b"")], r"^sample 'b' of train-1\.tar holds 2 images"),
    ],
)
def test_what_the_data_s_owner_must_mend_stops_the_run(empty: "Bench", members: Members, reason: str) -> None:
    empty.shard("train-0.tar", sample("a", 0))
    empty.shard("train-1.tar", members)
    with pytest.raises(ShardError, match=reason) as refused:
        empty.run()
    assert len(str(refused.value).splitlines()) == 1
    assert empty.commits() == ["0.json"]  # what was complete is kept


def flipped(path: Path) -> None:
    data = path.read_bytes()
    at = data.index(b"IDAT")
    path.write_bytes(data[:at] + b"X" + data[at + 1 :])


def shortened(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9216])


def replaced(path: Path) -> None:
    write_shard(path, 6)


@pytest.mark.parametrize("change", [flipped, shortened, replaced, Path.unlink])
def test_a_shard_that_changed_after_it_was_indexed_is_not_committed(
    bench: "Bench", change: Callable[[Path], None]
) -> None:
    store = bench.create(LocalStorage(bench.folder / "store.zarr"))
    change(bench.data / "train-1.tar")
    with pytest.raises(ShardError, match=r"shard train-1\.tar") as refused:
        bench.processor(store).run(store.slots)
    assert len(str(refused.value).splitlines()) == 1
    assert bench.commits() == ["0.json"]


def test_a_shard_of_several_slots(empty: "Bench") -> None:
    keys = write_shard(empty.data / "train-0.tar", 10)
    more = write_shard(empty.data / "train-1.tar", 3)
    teacher = TinyTeacher()
    store = empty.run(teacher, capacity=4)
    assert_rows(store, [keys[:4], keys[4:8], keys[8:], more])
    assert teacher.batches == [3, 1, 3, 1, 2, 3]  # a batch of 3 never spans two slots


def test_a_finished_slot_is_not_computed_again(bench: "Bench") -> None:
    before = lasting(Path(bench.run().storage.url))
    teacher = TinyTeacher()
    store = bench.run(teacher)
    assert teacher.batches == []
    assert lasting(Path(store.storage.url)) == before


class WrongTeacher(TinyTeacher):
    """Says something else than its specification promises."""

    def __init__(self, said: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self._said = said

    def embed(self, pixels: torch.Tensor, outputs: Sequence[str]) -> dict[str, torch.Tensor]:
        return self._said


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"cls": torch.zeros(3, 4), "pooled": torch.zeros(3, 3)}, r"expected cls of shape \(3, 5\), got \(3, 4\)"),
        ({"cls": torch.zeros(3, 5), "pooled": torch.zeros(2, 3)}, r"expected pooled of shape \(3, 3\), got \(2, 3\)"),
        ({"cls": torch.zeros(3, 5)}, r"expected pooled of shape \(3, 3\), got none"),
    ],
)
def test_a_teacher_that_breaks_its_promise(bench: "Bench", said: dict[str, torch.Tensor], reason: str) -> None:
    with pytest.raises(TeacherError, match=reason):
        bench.run(WrongTeacher(said))
    assert bench.commits() == []
