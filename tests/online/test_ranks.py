"""A teacher in the loop of each of two ranks: together they learn what one does."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from embedkd.rundir import RunDir
from embedkd.store import TeacherView
from tests.training.test_processes import Zygote


@pytest.fixture
def zygote() -> Iterator[Zygote]:
    made = Zygote()
    yield made
    made.close()


def test_two_ranks_learn_what_one_does(view: TeacherView, tmp_path: Path, zygote: Zygote) -> None:
    """13 samples in batches of 4: of the last step one rank has a sample, the other none."""
    found = []
    for ranks in (1, 2):
        out, errors = tmp_path / str(ranks), tmp_path / "errors.txt"
        sets = [
            *(f"train.targets={view.store.storage.url}", f"train.out={out}", "train.online_teacher=true"),
            *("losses={cross_entropy=0.5, mse=1, sample_contrastive=0.5}", "augment.flip=0.5", "train.epochs=2"),
            *("augment.min_crop_area=0.5", "train.global_batch_size=4", "train.workers=0", "train.device=cpu"),
            *("student.image_px=8", "student.patch_px=4"),
        ]
        assert zygote.run("learns_online", sets, ranks=ranks, errors=errors) == [0] * ranks, errors.read_text()
        found.append(RunDir(out).read_metrics("train"))
    assert [len(lines) for lines in found] == [8, 8]
    for alone, together in zip(*found, strict=True):
        assert together["terms"] == pytest.approx(alone["terms"], rel=1e-3, abs=1e-5)
