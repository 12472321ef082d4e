"""Captions: rows of `text`, each output with a status of its own."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from embedkd.errors import ShardError, TeacherError
from embedkd.records import RowStatus
from embedkd.storage import LocalStorage
from embedkd.store import open_store
from tests.tiny import TextTeacher, TinyTeacher, letters, picture, said_of

if TYPE_CHECKING:
    from tests.precompute.conftest import Bench

BOTH = ("image", "text")


@pytest.fixture
def mixed(empty: "Bench") -> "Bench":
    """Seven samples, with everything that can be wrong with a caption or an image."""
    empty.shard(
        "train-0.tar",
        [
            *[("a.png", picture("a")), ("a.txt", b"an ant")],
            *[("b.png", picture("b"))],
            *[("c.png", b"?"), ("c.txt", b"rain")],
            *[("d.png", picture("d")), ("d.txt", b"\xff\xfe")],
            *[("e.txt", "t\u00e9".encode())],
            *[("f.png", picture("f")), ("f.txt", b"")],
            *[("g.cls", b"1")],
        ],
    )
    return empty


def test_each_output_has_the_status_that_its_own_field_gives(mixed: "Bench") -> None:
    teacher = TextTeacher()
    store = mixed.run(teacher, outputs=BOTH)
    view = open_store(store.storage).teacher()
    image, text = (view.read(0, output) for output in BOTH)
    ok, missing, broken = RowStatus.OK, RowStatus.FIELD_MISSING, RowStatus.DECODE_ERROR
    assert image.status.tolist() == [ok, ok, broken, ok, missing, ok, missing]
    assert text.status.tolist() == [ok, missing, ok, broken, ok, ok, missing]
    for row, key in ((0, "a"), (1, "b"), (3, "d"), (5, "f")):
        np.testing.assert_array_equal(image.rows[row], -said_of(key, "cls").astype(np.float16))
    for row, caption in ((0, "an ant"), (2, "rain"), (4, "t\u00e9"), (5, "")):
        np.testing.assert_array_equal(text.rows[row], letters([caption]).float().sqrt()[0].half().numpy())
    assert (teacher.batches, teacher.texts) == ([2, 2], [2, 2])  # batches of three samples, without the bad ones


def test_text_alone_needs_no_images(empty: "Bench") -> None:
    empty.shard("train-0.tar", [("a.txt", b"ant"), ("b.png", b"?"), ("b.txt", b"tin"), ("c.jpg", b""), ("c.txt", b"r")])
    teacher = TextTeacher()
    store = empty.run(teacher, outputs=("text",), max_bad_fraction=0.0, workers=2)
    assert open_store(store.storage).teacher().read(0, "text").status.tolist() == [RowStatus.OK] * 3
    assert (teacher.batches, teacher.texts) == ([], [3])


def test_too_few_captions_stop_the_run(mixed: "Bench") -> None:
    with pytest.raises(
        ShardError,
        match=r"^3 of 7 samples of train-0\.tar have no caption that can be used \(first: 'b': no caption \(",
    ):
        mixed.run(TextTeacher(), outputs=("text",), max_bad_fraction=0.4)
    assert mixed.commits() == []


class Overflowing(TinyTeacher):
    """Says what no float can, of images whose first pixel is bright, and too much for float16 of some others."""

    def __init__(self, wrong: dict[int, float]) -> None:
        super().__init__()
        self._wrong = wrong
        self._row = 0

    def embed(self, pixels: torch.Tensor, outputs: Sequence[str]) -> dict[str, torch.Tensor]:
        said = super().embed(pixels, outputs)
        for at in range(len(pixels)):
            if self._row in self._wrong:
                said["cls"][at, 2] = self._wrong[self._row]
            self._row += 1
        return said


def test_values_that_are_not_finite_cost_their_row_of_their_output(bench: "Bench") -> None:
    wrong = {1: float("nan"), 4: float("inf"), 9: 1e6, 11: 6e4}
    store = bench.create(LocalStorage(bench.folder / "store.zarr"))
    processor = bench.processor(store, Overflowing(wrong))
    tally = processor.run(store.slots)
    assert dict(tally.bad) == {"non_finite": 3}
    view = open_store(store.storage).teacher()
    bad = RowStatus.NON_FINITE
    assert np.flatnonzero(view.read(0, "cls").status == bad).tolist() == [1, 4]
    assert np.flatnonzero(view.read(1, "cls").status == bad).tolist() == [9 - 7]
    assert view.read(0, "pooled").status.tolist() == [RowStatus.OK] * 7
    commit = view.commit(store.slots[0], "cls")
    assert commit is not None
    assert dict(commit.bad["cls"]) == {"non_finite": 2}


def test_too_many_of_them_stop_the_run_before_the_commit(bench: "Bench") -> None:
    wrong = {8: float("nan"), 9: float("nan")}
    with pytest.raises(
        TeacherError, match=r": cls is not finite for 2 of 5 samples of train-1\.tar\n.*max_bad_fraction"
    ):
        bench.run(Overflowing(wrong), max_bad_fraction=0.39)
    assert bench.commits() == ["0.json"]
