"""The script that packs CIFAR-100, on a small archive of the same format."""

import hashlib
import importlib.util
import io
import json
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest

from embedkd.sources.images import decode_image
from embedkd.sources.reader import ShardStream
from embedkd.sources.shards import list_data
from tests.data.small_cifar import write_archive
from tests.tiny import tar_at

FOLDER = Path(__file__).parents[2] / "data" / "cifar100"


def load_prepare() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cifar100_prepare", FOLDER / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def prepare() -> ModuleType:
    return load_prepare()


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_archive(tmp_path / "cifar-100-python.tar.gz")


def md5_of(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_a_tenth_of_each_class_validates_and_the_test_images_stay(
    prepare: ModuleType, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shards"
    assert prepare.main([str(small), str(out), "--md5", md5_of(small)]) == 0
    assert "3 classes, 27 train, 3 val, 6 test" in capsys.readouterr().out
    listing = list_data(str(out))
    assert listing.classes == ("apple", "aquarium fish", "baby")
    found: dict[str, list[tuple[str, int, str]]] = {}
    for shard in listing.indexed:
        with ShardStream(tar_at(out / shard.url)) as stream:
            for sample in stream:
                label = int(sample.fields["cls"])
                pixels = decode_image(sample.fields["ppm"]).resize((1, 1)).getpixel((0, 0))
                assert isinstance(pixels, tuple)
                assert pixels.index(max(pixels)) == label, "the image is that of its label"
                found.setdefault(shard.split, []).append((sample.key, label, sample.fields["txt"].decode()))
    assert sorted(label for _, label, _ in found["val"]) == [0, 1, 2]
    assert {key.split("_")[0] for key, *_ in found["test"]} == {"test"}
    keys = [key for rows in found.values() for key, *_ in rows]
    assert len(set(keys)) == len(keys) == 36
    assert {caption for *_, caption in found["train"]} == {"apple", "aquarium fish", "baby"}


def test_the_same_archive_gives_the_same_bytes_and_all_images_where_none_validates(
    prepare: ModuleType, small: Path, tmp_path: Path
) -> None:
    made = [prepare.build(small, tmp_path / name, md5=md5_of(small)).shards for name in ("one", "two")]
    assert made[0] == made[1]
    whole = prepare.build(small, tmp_path / "whole", val=0.0, md5=md5_of(small))
    assert [(shard.split, shard.rows) for shard in whole.shards] == [("train", 30), ("test", 6)]
    assert json.loads((tmp_path / "whole" / "index.json").read_text())["classes"][1] == "aquarium fish"


def test_another_archive_is_refused_before_it_is_read(
    prepare: ModuleType, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare.main([str(small), str(tmp_path / "out")]) == 1
    assert prepare.MD5 in capsys.readouterr().err
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(small.read_bytes()[:-9])
    assert prepare.main([str(cut), str(tmp_path / "out"), "--md5", md5_of(small)]) == 1
    assert prepare.main([str(tmp_path / "none"), str(tmp_path / "out")]) == 1
    assert "--download" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


class Stopping(io.BytesIO):
    """An answer that ends before its end."""

    headers: ClassVar = {"Content-Length": "9"}

    def __init__(self) -> None:
        super().__init__(bytes(8))


def test_a_download_is_whole_or_has_no_name(
    prepare: ModuleType, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "fetched" / "c.tar.gz"
    prepare.download(small.as_uri(), there)
    assert there.read_bytes() == small.read_bytes()
    other = tmp_path / "other.tar.gz"
    monkeypatch.setattr(prepare, "URL", (tmp_path / "missing.tar.gz").as_uri())
    assert prepare.main([str(other), str(tmp_path / "out"), "--download"]) == 1
    assert not other.exists()
    monkeypatch.setattr(prepare.urllib.request, "urlopen", lambda url, timeout: Stopping())
    with pytest.raises(OSError, match="stopped after 8 of 9 bytes"):
        prepare.download("https://example.org/x", other)
    assert not other.exists()
