"""Every pipeline file loads and does what its header says, and the demo's runs from image files to a report."""

import csv
import hashlib
import re
import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import embedkd.demo
from embedkd.config import load_config
from embedkd.demo import demo_config, run_demo, unpack_embedded
from embedkd.progress import Silent
from embedkd.sources.pack import read_source
from embedkd.sources.shards import list_data
from embedkd.training import train
from embedkd.training.terms import build_terms
from tests.any_teacher import stand_in
from tests.cli.conftest import invoke
from tests.data.small_cifar import write_archive
from tests.data.test_cifar100 import load_prepare

ROOT = Path(__file__).parent.parent
PIPELINES = sorted((ROOT / "pipelines").glob("*.toml"))
# What makes a run small; everything else is the file's.
SMALL = {
    "precompute": ("data.shards=data/cifar100/shards", "precompute.decode_workers=0", "precompute.threads=1"),
    "head": ("head.folds=2",),
    "train": (
        *("train.epochs=1", "train.global_batch_size=8", "train.workers=0", "train.device=cpu"),
        *("student.name=vit-tiny", "student.image_px=8", "student.patch_px=4"),
    ),
}
# Those that run a real teacher: tests of the demo and of tests/finetune do.
REAL = {"clipart", "finetune"}
DEMO_ROWS = {"train": 3, "val": 1, "test": 1}  # of each class, unless there is time for all


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_names_of_a_pipeline_exist(path: Path) -> None:
    config = load_config(path)
    assert build_terms(config.losses, config.loss_options)
    for run in config.demo.runs:
        assert build_terms(run.losses, config.loss_options)


def test_the_header_of_a_pipeline_says_how_to_run_it() -> None:
    for path in PIPELINES:
        header = [line for line in path.read_text().splitlines() if line.startswith("#")]
        for word in ("embedkd ", "hardware:", "time:", "expected:"):
            assert any(word in line for line in header), f"{path.name} lacks {word}"
        assert f"--config pipelines/{path.name}" in path.read_text(), f"{path.name} names another file"


def test_the_demo_takes_the_clipart_pipeline() -> None:
    assert load_config(demo_config()) == load_config(PIPELINES[0].parent / "clipart.toml")


@pytest.fixture(scope="module")
def small_cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``data/cifar100/shards`` of a small archive of the real format; nobody may change it."""
    folder = tmp_path_factory.mktemp("cifar")
    archive = write_archive(folder / "cifar-100-python.tar.gz")
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    load_prepare().build(archive, folder / "data" / "cifar100" / "shards", md5=md5)
    return folder


@pytest.mark.parametrize("path", [path for path in PIPELINES if path.stem not in REAL], ids=lambda path: path.stem)
def test_the_commands_of_a_pipeline_run(
    path: Path, small_cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One after the other as its header has them, small, with a stand-in of the teacher."""
    (tmp_path / "data").symlink_to(small_cifar / "data")
    (tmp_path / "pipelines").symlink_to(ROOT / "pipelines")
    monkeypatch.chdir(tmp_path)
    stand_in(monkeypatch)
    commands = re.findall(r"^#   embedkd (.*)$", path.read_text(), re.MULTILINE)
    assert commands
    for command in commands:
        name, *words = shlex.split(command)
        sets = [word for line in SMALL[name] for word in ("--set", line)]
        code, _, err = invoke(capsys, (name, *words, *sets))
        assert code == 0, f"{command}\n{err}"


def test_unpacked_images_keep_labels_captions_and_splits(tmp_path: Path) -> None:
    listing = list_data("data:clipart")
    source = read_source(unpack_embedded(tmp_path / "images"))
    assert source.classes == tuple(sorted(listing.classes or ()))
    assert len(source.items) == sum(shard.rows for shard in listing.indexed)
    assert {item.split for item in source.items} == {"train", "val", "test"}
    assert all(item.caption for item in source.items)


def unpack_few(folder: Path) -> Path:
    """The embedded data set with a few images of each class and split."""
    table = unpack_embedded(folder)
    with table.open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    seen: Counter[tuple[str, str]] = Counter()
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        for row in rows:
            _, label, _, split = row
            seen[label, split] += 1
            if seen[label, split] <= DEMO_ROWS[split]:
                writer.writerow(row)
    return table


def in_own_process_unless(known: Callable[..., Any], start: Callable[..., Any]) -> Callable[..., Any]:
    """A stand-in for what starts a process for a step: one step stays here, where everything is imported."""
    return lambda step, *args, **kwargs: step(*args, **kwargs) if step is known else start(step, *args, **kwargs)


def test_the_demo_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> None:
    """From image files to a report with the real teacher, which has a process of its own; one epoch."""
    if not pytestconfig.getoption("--storm"):
        monkeypatch.setattr(embedkd.demo, "unpack_embedded", unpack_few)
        monkeypatch.setattr(embedkd.demo, "_in_own_process", in_own_process_unless(train, embedkd.demo._in_own_process))
    demo = run_demo(load_config(demo_config(), sets=["train.epochs=1"]), tmp_path, Silent())
    runs = load_config(demo_config()).demo.runs
    assert [student.name for student in demo.students] == [run.name for run in runs]
    assert all(0 <= student.metrics["top1"]["value"] <= 1 for student in demo.students)
    page = demo.report.read_text()
    assert all(run.name in page for run in runs)
