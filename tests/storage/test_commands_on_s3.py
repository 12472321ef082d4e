"""Commands as a person types them, with shards and stores in a bucket."""

from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path

import pytest

from embedkd.evaluation import evaluate_run
from embedkd.sources.pack import pack
from embedkd.storage import open_storage
from tests.cli.conftest import draw, invoke
from tests.storage.servers import PLANTED

Command = Callable[..., str]


@pytest.fixture
def embedkd(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command that must succeed; what it printed, standard error behind standard output."""

    def run(*arguments: object) -> str:
        code, out, err = invoke(capsys, arguments)
        assert code == 0, err
        assert not any(planted in out + err for planted in PLANTED)
        return out + err

    return run


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of eight images, as shards with an index."""
    images = tmp_path_factory.mktemp("images")
    for label, name in enumerate(("blue", "green", "red")):
        (images / name).mkdir()
        for number in range(8):
            draw(images / name / f"{number}.png", label, number)
    return pack(images, tmp_path_factory.mktemp("data") / "shards", rows_per_shard=8, val=0.25, test=0.25).folder


@pytest.fixture
def fresh_workers() -> Iterator[None]:
    """Workers inherit the environment of the process that forks them, so no other test may have started it."""
    stop = forkserver._forkserver._stop  # type: ignore[attr-defined]
    stop()
    yield
    stop()


def upload(folder: Path, url: str, *, index: bool = True) -> str:
    storage = open_storage(url)
    for path in sorted(folder.iterdir()):
        if index or path.suffix == ".tar":
            storage.put_new(path.name, path.read_bytes())
    return url


@pytest.mark.usefixtures("fresh_workers")
def test_a_bucket_from_end_to_end(embedkd: Command, shards: Path, bucket: str, tmp_path: Path) -> None:
    """One store and one run beside their shards; workers are processes of their own, which open what they read."""
    data, store, run = upload(shards, f"s3://{bucket}/data"), f"s3://{bucket}/stores/s.zarr", tmp_path / "run"
    said = embedkd("precompute", "--data", data, "--out", store, "--outputs", "pooled")
    assert "24 of 24 rows computed" in said
    assert "is finished: 24 rows" in embedkd("precompute", "--data", data, "--out", store, "--outputs", "pooled")
    assert open_storage(store).get("manifest/0.json").count(b'"root":"../../data"') == 1
    embedkd("store", "seal", store)
    flags = ("--epochs", 1, "--batch-size", 8, "--out", run, "--set", "train.workers=1")
    embedkd("train", "--targets", store, "--student", "vit-tiny", *flags)
    assert evaluate_run(run, data=data, workers=0)["rows"] == evaluate_run(run, workers=0)["rows"] == 6
    assert "pooled" in embedkd("store", "verify", store, "--live", 4)


def test_unindexed_shards_in_a_bucket_and_a_store_on_the_disk(
    embedkd: Command, shards: Path, bucket: str, tmp_path: Path
) -> None:
    data, store = upload(shards, f"s3://{bucket}", index=False), tmp_path / "s.zarr"
    pattern = f"{data}/{{train-*,val-000000,test-000000}}.tar"
    said = embedkd("precompute", "--data", pattern, "--out", store, "--outputs", "pooled")
    assert "24 of 24 rows computed" in said
    flags = ("--epochs", 1, "--batch-size", 8, "--set", "train.workers=0")
    embedkd("train", "--targets", store, "--data", data, *flags, "--out", tmp_path / "run")
    embedkd("head", store, "--output", "pooled")
