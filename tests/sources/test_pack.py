"""pack: what lands in the shards, that it is always the same bytes, and that nothing is left behind."""

import errno
import io
import pickle
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from webdataset.tariterators import group_by_keys, tar_file_iterator

from embedkd import storage
from embedkd.errors import ConfigError, SourceError, StorageError
from embedkd.records import Shard, blake2b_hex, canonical_json
from embedkd.sources import pack as pack_module
from embedkd.sources.fields import NO_LABEL
from embedkd.sources.items import PackItem
from embedkd.sources.pack import PackedData, pack, write_shards
from embedkd.sources.shards import list_data

# A store made from packed shards fits only these bytes: where they change on purpose, the changelog says so.
GOLDEN = [(2, "e49fc62f07638a80"), (3, "e45cb3f3ade70bbc")]
CLASSES = ("ant", "bee", "cat")


def image_bytes(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), colour).save(buffer, "PNG")
    return buffer.getvalue()


def folder(root: Path, rows: int = 20, prefix: str = "") -> Path:
    for label, name in enumerate(CLASSES):
        for row in range(rows):
            path = root / prefix / name / f"{row:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image_bytes((label, row, 0)))
    return root


def members(shard: Path) -> dict[str, bytes]:
    with tarfile.open(shard) as tar:
        return {info.name: file.read() for info in tar if (file := tar.extractfile(info)) is not None}


def item(name: str, data: bytes = b"x", **fields: Any) -> PackItem:
    defaults: dict[str, Any] = {"suffix": "jpg", "label": 0, "read": lambda: data, "split": "train"}
    return PackItem(name, **(defaults | fields))


class TestContent:
    def test_a_folder_becomes_shards_with_an_index(self, tmp_path: Path) -> None:
        source = folder(tmp_path / "in")
        (source / "ant" / "notes.txt").write_text("no image")
        packed = pack(source, tmp_path / "out", rows_per_shard=20, val=0.15, test=0.1)
        assert packed.classes == CLASSES
        assert packed.ignored == 1
        assert [(s.url, s.split, s.rows) for s in packed.shards] == [
            ("train-000000.tar", "train", 15),
            ("train-000001.tar", "train", 15),
            ("train-000002.tar", "train", 15),
            ("val-000000.tar", "val", 9),
            ("test-000000.tar", "test", 6),
        ]
        assert (packed.rows("train"), packed.rows("val"), packed.rows("test")) == (45, 9, 6)
        assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
            ["index.json", *(s.url for s in packed.shards)]
        )

    def test_files_are_copied_unmodified_with_their_label(self, tmp_path: Path) -> None:
        source = folder(tmp_path / "in", rows=4)
        packed = pack(source, tmp_path / "out")
        found = {name: data for shard in packed.shards for name, data in members(packed.folder / shard.url).items()}
        assert found == {
            name: data
            for label, cls in enumerate(CLASSES)
            for row in range(4)
            for name, data in (
                (f"{cls}_{row:03d}.png", (source / cls / f"{row:03d}.png").read_bytes()),
                (f"{cls}_{row:03d}.cls", str(label).encode()),
            )
        }

    def test_the_index_tells_the_truth_and_is_canonical(self, tmp_path: Path) -> None:
        packed = pack(folder(tmp_path / "in"), tmp_path / "out", rows_per_shard=7)
        listing = list_data(str(tmp_path / "out"))
        shards = listing.indexed
        assert (listing.classes, shards) == (CLASSES, packed.shards)
        for shard in shards:
            data = (tmp_path / "out" / shard.url).read_bytes()
            assert (len(data), blake2b_hex(data)) == (shard.size_bytes, shard.blake2b)
            assert sum(name.endswith(".cls") for name in members(tmp_path / "out" / shard.url)) == shard.rows
        document = {"classes": list(CLASSES), "format": 1, "shards": [vars(shard) for shard in shards]}
        assert (tmp_path / "out" / "index.json").read_bytes() == canonical_json(document)

    def test_the_sources_own_splits_are_kept(self, tmp_path: Path) -> None:
        for split, rows in (("train", 5), ("val", 2), ("test", 3)):
            folder(tmp_path / "in", rows, split)
        packed = pack(tmp_path / "in", tmp_path / "out", val=0.4, test=0.4)
        assert [packed.rows(split) for split in ("train", "val", "test")] == [15, 6, 9]
        assert "val_bee_001.png" in members(tmp_path / "out" / "val-000000.tar")

    def test_shards_mix_the_classes(self, tmp_path: Path) -> None:
        packed = pack(folder(tmp_path / "in", 40), tmp_path / "out", rows_per_shard=24, val=0, test=0)
        for shard in packed.shards:
            labels = Counter(d for name, d in members(packed.folder / shard.url).items() if name.endswith(".cls"))
            assert min(labels[str(label).encode()] for label in range(3)) >= 3

    def test_a_sample_without_a_label_has_no_field_for_it(self, tmp_path: Path) -> None:
        items = [item("a.jpg", label=NO_LABEL), item("b.jpg")]
        write_shards(items, tmp_path / "out", classes=["ant"])
        (tar,) = (tmp_path / "out").glob("*.tar")
        with tarfile.open(tar) as archive:
            assert sorted(Path(name).suffix for name in archive.getnames()) == [".cls", ".jpg", ".jpg"]

    def test_a_csv_gives_captions(self, tmp_path: Path) -> None:
        (folder(tmp_path / "in", 2) / "list.csv").write_text(
            "path,label,caption\nant/000.png,x,un café\nbee/001.png,y,\n"
        )
        pack(tmp_path / "in" / "list.csv", tmp_path / "out", val=0, test=0)
        found = members(tmp_path / "out" / "train-000000.tar")
        assert found["ant_000.txt"].decode() == "un café"
        assert "bee_001.txt" not in found

    def test_webdataset_reads_what_was_written(self, tmp_path: Path) -> None:
        pack(folder(tmp_path / "in", 3), tmp_path / "out", val=0, test=0)
        with (tmp_path / "out" / "train-000000.tar").open("rb") as file:
            samples = list(group_by_keys({**member, "__url__": ""} for member in tar_file_iterator(file)))
        assert len(samples) == 9
        assert all({"__key__", "png", "cls"} <= set(sample) for sample in samples)

    def test_the_reader_of_data_sets_finds_it(self, tmp_path: Path) -> None:
        packed = pack(folder(tmp_path / "in", 4), tmp_path / "out")
        listing = list_data(str(tmp_path / "out"))
        assert (listing.classes, listing.indexed) == (CLASSES, packed.shards)

    def test_a_cifar_archive_keeps_its_splits(self, tmp_path: Path) -> None:
        batch = {"data": np.zeros((3, 3072), np.uint8), "labels": [0, 1, 0]}
        files = {"batches.meta": {"label_names": ["a", "b"]}, "data_batch_1": batch, "test_batch": batch}
        with tarfile.open(tmp_path / "c.tar.gz", "w:gz") as tar:
            for name, document in files.items():
                data = pickle.dumps(document, protocol=2)
                info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        packed = pack(tmp_path / "c.tar.gz", tmp_path / "out")
        assert [(s.url, s.rows) for s in packed.shards] == [("train-000000.tar", 3), ("test-000000.tar", 3)]
        assert "test_batch_00001.ppm" in members(tmp_path / "out" / "test-000000.tar")

    def test_progress_is_told_shard_by_shard(self, tmp_path: Path) -> None:
        told: list[Shard] = []
        packed = pack(folder(tmp_path / "in"), tmp_path / "out", rows_per_shard=10, on_shard=told.append)
        assert tuple(told) == packed.shards


class TestSameBytes:
    def test_twice_the_same(self, tmp_path: Path) -> None:
        source = folder(tmp_path / "in")
        first, second = (pack(source, tmp_path / name, rows_per_shard=8, seed=3) for name in ("a", "b"))
        assert first.shards == second.shards
        assert (tmp_path / "a" / "index.json").read_bytes() == (tmp_path / "b" / "index.json").read_bytes()

    def test_neither_times_nor_modes_of_files_matter(self, tmp_path: Path) -> None:
        source = folder(tmp_path / "in", 3)
        first = pack(source, tmp_path / "a")
        (source / "ant" / "000.png").chmod(0o755)
        (source / "ant" / "001.png").touch()
        assert pack(source, tmp_path / "b").shards == first.shards

    def test_another_seed_gives_another_order(self, tmp_path: Path) -> None:
        source = folder(tmp_path / "in")
        first, second = (pack(source, tmp_path / str(seed), val=0, test=0, seed=seed) for seed in (0, 1))
        assert first.shards != second.shards

    def test_the_bytes_of_version_1(self, tmp_path: Path) -> None:
        items = [item(f"{i}.jpg", bytes([i]) * i, label=i, caption=f"number {i}") for i in range(5)]
        packed = write_shards(items, tmp_path / "out", classes=["a"], rows_per_shard=3)
        assert [(s.rows, s.blake2b[:16]) for s in packed.shards] == GOLDEN

    def test_headers_carry_no_time_and_no_owner(self, tmp_path: Path) -> None:
        write_shards([item("a/b.jpg")], tmp_path / "out", classes=["a"])
        with tarfile.open(tmp_path / "out" / "train-000000.tar") as tar:
            for info in tar:
                assert (info.mtime, info.uid, info.gid, info.uname, info.gname, info.mode) == (0, 0, 0, "", "", 0o644)
        assert (tmp_path / "out" / "train-000000.tar").stat().st_size % tarfile.RECORDSIZE == 0

    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(sizes=st.lists(st.integers(0, 2000), min_size=1, max_size=30), rows=st.integers(1, 12))
    def test_every_sample_lands_once_and_shards_are_even(
        self, tmp_path_factory: pytest.TempPathFactory, sizes: list[int], rows: int
    ) -> None:
        out = tmp_path_factory.mktemp("any") / "out"
        items = [item(f"{i}.jpg", b"d" * size, label=i) for i, size in enumerate(sizes)]
        packed = write_shards(items, out, classes=["a"], rows_per_shard=rows)
        assert sum(s.rows for s in packed.shards) == len(sizes)
        assert max(s.rows for s in packed.shards) <= rows
        assert max(s.rows for s in packed.shards) - min(s.rows for s in packed.shards) <= 1
        found = [entry for shard in packed.shards for entry in members(out / shard.url).items()]
        assert sorted(found) == sorted(
            [(f"{i}.jpg", b"d" * size) for i, size in enumerate(sizes)]
            + [(f"{i}.cls", b"%d" % i) for i in range(len(sizes))]
        )


class TestRefusals:
    def test_a_folder_that_is_not_empty_is_left_alone(self, tmp_path: Path) -> None:
        out = tmp_path / "out"
        out.mkdir()
        (out / "precious.txt").write_text("mine")
        with pytest.raises(StorageError, match=r"is not empty \(it holds precious\.txt\)"):
            pack(folder(tmp_path / "in"), out)
        assert [p.name for p in out.iterdir()] == ["precious.txt"]

    def test_packing_twice_is_refused(self, tmp_path: Path) -> None:
        source = folder(tmp_path / "in", 2)
        pack(source, tmp_path / "out")
        with pytest.raises(StorageError, match="is not empty"):
            pack(source, tmp_path / "out")

    def test_an_empty_folder_will_do(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        assert pack(folder(tmp_path / "in", 2), tmp_path / "out").rows("train") == 6

    def test_a_file_is_no_folder(self, tmp_path: Path) -> None:
        (tmp_path / "out").write_text("file")
        with pytest.raises(StorageError, match="is a file"):
            pack(folder(tmp_path / "in", 2), tmp_path / "out")

    @pytest.mark.parametrize(
        ("name", "message"), [("none", "there is no"), ("data.parquet", "cannot pack"), ("list.tsv", "cannot pack")]
    )
    def test_unknown_sources(self, tmp_path: Path, name: str, message: str) -> None:
        if name != "none":
            (tmp_path / name).write_text("data")
        with pytest.raises(SourceError, match=message):
            pack(tmp_path / name, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_splits_for_some_rows_only(self, tmp_path: Path) -> None:
        (folder(tmp_path / "in", 2) / "list.csv").write_text("path,label,split\nant/000.png,x,train\nbee/001.png,y,\n")
        with pytest.raises(SourceError, match="gives 1 of 2 samples a split"):
            pack(tmp_path / "in" / "list.csv", tmp_path / "out")

    @pytest.mark.parametrize("options", [{"val": 0.6, "test": 0.4}, {"rows_per_shard": 0}])
    def test_options_that_make_no_sense(self, tmp_path: Path, options: dict[str, Any]) -> None:
        with pytest.raises(ConfigError):
            pack(folder(tmp_path / "in", 2), tmp_path / "out", **options)

    def test_one_name_twice(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match="share a name"):
            write_shards([item("a.jpg"), item("a.jpg")], tmp_path / "out", classes=["a"])


def sources_of(tmp_path: Path) -> PackedData:
    return pack(folder(tmp_path / "in"), tmp_path / "out", rows_per_shard=5)


class TestFaults:
    def test_a_file_that_vanishes_leaves_nothing(self, tmp_path: Path) -> None:
        calls = iter(range(100))

        def read() -> bytes:
            if next(calls) == 7:
                raise SourceError("cannot read it")
            return b"data"

        with pytest.raises(SourceError, match="cannot read it"):
            write_shards(
                [item(f"{i}.jpg", read=read) for i in range(20)], tmp_path / "out", classes=["a"], rows_per_shard=3
            )
        assert list((tmp_path / "out").iterdir()) == []

    def test_a_full_disk_is_said_and_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_all, calls = storage.write_all, iter(range(100))

        def full(handle: int, data: bytes) -> None:
            if next(calls) == 12:
                raise OSError(errno.ENOSPC, "No space left on device")
            write_all(handle, data)

        monkeypatch.setattr(pack_module, "write_all", full)
        with pytest.raises(StorageError, match="no space left"):
            sources_of(tmp_path)
        assert list((tmp_path / "out").iterdir()) == []

    def test_ctrl_c_leaves_nothing(self, tmp_path: Path) -> None:
        def interrupt(_: Shard) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            pack(folder(tmp_path / "in"), tmp_path / "out", on_shard=interrupt)
        assert list((tmp_path / "out").iterdir()) == []

    def test_the_index_comes_last(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(path: Path, data: bytes) -> None:
            assert len(list(path.parent.glob("*.tar"))) == 14
            raise StorageError("index")

        monkeypatch.setattr(pack_module, "write_atomic", fail)
        with pytest.raises(StorageError, match="index"):
            sources_of(tmp_path)
        assert list((tmp_path / "out").iterdir()) == []
