"""Every pipeline file loads, and the demo's runs from image files to a report."""

from pathlib import Path

import pytest

from embedkd.config import load_config
from embedkd.demo import demo_config, run_demo, unpack_embedded
from embedkd.progress import Silent
from embedkd.sources.pack import read_source
from embedkd.sources.shards import list_data
from embedkd.training import train
from embedkd.training.terms import build_terms

PIPELINES = sorted((Path(__file__).parent.parent / "pipelines").glob("*.toml"))


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


def test_the_demo_takes_the_clipart_pipeline() -> None:
    assert load_config(demo_config()) == load_config(PIPELINES[0].parent / "clipart.toml")


def test_unpacked_images_keep_labels_captions_and_splits(tmp_path: Path) -> None:
    listing = list_data("data:clipart")
    source = read_source(unpack_embedded(tmp_path / "images"))
    assert source.classes == tuple(sorted(listing.classes or ()))
    assert len(source.items) == sum(shard.rows for shard in listing.indexed)
    assert {item.split for item in source.items} == {"train", "val", "test"}
    assert all(item.caption for item in source.items)


def test_both_pipelines_run(tmp_path: Path) -> None:
    """clipart.toml from image files to a report with one epoch; smoke.toml as it is, on the store that this left."""
    config = load_config(demo_config(), sets=["train.epochs=1"])
    demo = run_demo(config, tmp_path, Silent())
    assert [student.name for student in demo.students] == [run.name for run in config.demo.runs]
    assert all(0 <= student.metrics["top1"]["value"] <= 1 for student in demo.students)
    page = demo.report.read_text()
    assert all(run.name in page for run in config.demo.runs)
    places = {"train.targets": str(tmp_path / "store.zarr"), "train.out": str(tmp_path / "smoke")}
    smoke = train(load_config(PIPELINES[0].parent / "smoke.toml", values=places))
    assert smoke.steps == smoke.epochs * -(-smoke.train_rows // 64)
    assert smoke.teacher == "packaged:efficientnet-lite0"
