"""CIFAR archives of the real layout, tiny, and pickles that nobody should load."""

import io
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedkd.errors import SourceError
from embedkd.sources.cifar import read_cifar
from embedkd.sources.images import decode_image

RNG = np.random.default_rng(0)


def python2_pickle(array: np.ndarray[Any, np.dtype[np.uint8]], labels: list[int], filenames: list[str]) -> bytes:
    """A batch as Python 2 and an old numpy wrote it: byte strings and ``numpy.core.multiarray``, opcode by opcode."""

    def text(value: bytes) -> bytes:
        return b"T" + len(value).to_bytes(4, "little") + value

    def number(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little", signed=True)

    rows, width = array.shape
    dtype = b"cnumpy\ndtype\n(" + text(b"u1") + number(0) + number(1) + b"tR("
    dtype += number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    data = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + number(0) + b"t" + text(b"b") + b"tR("
    data += number(1) + b"(" + number(rows) + number(width) + b"t" + dtype + b"I00\n" + text(array.tobytes()) + b"tb"
    lists = text(b"labels") + b"(" + b"".join(map(number, labels)) + b"l"
    lists += text(b"filenames") + b"(" + b"".join(text(name.encode()) for name in filenames) + b"l"
    return b"\x80\x02(" + text(b"data") + data + lists + text(b"batch_label") + text(b"testing batch 1 of 1") + b"d."


def archive(path: Path, files: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def pixels(rows: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return RNG.integers(0, 256, (rows, 3072), dtype=np.uint8)


META_10 = pickle.dumps({b"label_names": [b"airplane", b"automobile"], b"num_vis": 3072}, protocol=2)


def cifar10(path: Path, **changed: bytes) -> Path:
    train, test = pixels(3), pixels(2)
    files = {
        "batches.meta": META_10,
        "data_batch_1": python2_pickle(train, [0, 1, 1], ["jet_s_000004.png", "race_car_s_1.png", "x_s_2.png"]),
        "test_batch": python2_pickle(test, [1, 0], ["y_s_1.png", "z_s_2.png"]),
        "readme.html": b"<p>",
    }
    return archive(path, {f"cifar-10-batches-py/{name}": data for name, data in (files | changed).items()})


class TestRealLayout:
    def test_the_fixture_is_what_numpy_reads(self) -> None:
        array = pixels(2)
        blob = python2_pickle(array, [0, 1], ["a.png", "b.png"]).replace(b"numpy.core.", b"numpy._core.")
        document = pickle.loads(blob, encoding="bytes")
        np.testing.assert_array_equal(document[b"data"], array)
        assert document[b"labels"] == [0, 1]

    def test_cifar_10(self, tmp_path: Path) -> None:
        source = read_cifar(cifar10(tmp_path / "cifar-10-python.tar.gz"))
        assert source.classes == ("airplane", "automobile")
        assert [(i.name, i.label, i.split, i.caption) for i in source.items] == [
            ("data_batch_1/00000", 0, "train", "jet"),
            ("data_batch_1/00001", 1, "train", "race car"),
            ("data_batch_1/00002", 1, "train", "x"),
            ("test_batch/00000", 1, "test", "y"),
            ("test_batch/00001", 0, "test", "z"),
        ]

    def test_pixels_are_channel_first_in_the_file_and_rgb_when_decoded(self, tmp_path: Path) -> None:
        array = pixels(1)
        batch = python2_pickle(array, [0], ["a_s_1.png"])
        (item, *_) = read_cifar(cifar10(tmp_path / "c.tar.gz", data_batch_1=batch)).items
        assert item.suffix == "ppm"
        np.testing.assert_array_equal(
            np.asarray(decode_image(item.read())), array.reshape(3, 32, 32).transpose(1, 2, 0)
        )

    def test_cifar_100_with_pickles_of_python_3(self, tmp_path: Path) -> None:
        names = {"fine_label_names": ["apple", "aquarium fish"], "coarse_label_names": ["food"]}
        batch = {
            "data": pixels(2),
            "fine_labels": [1, 0],
            "coarse_labels": [0, 0],
            "filenames": ["a_s_1.png", "b_s_2.png"],
        }
        files = {
            name: pickle.dumps(value, protocol=2)
            for name, value in (("meta", names), ("train", batch), ("test", batch))
        }
        source = read_cifar(archive(tmp_path / "c.tar.gz", {f"cifar-100-python/{k}": v for k, v in files.items()}))
        assert source.classes == ("apple", "aquarium fish")
        assert [(i.label, i.split) for i in source.items] == [(1, "train"), (0, "train"), (1, "test"), (0, "test")]

    def test_without_file_names_there_are_no_captions(self, tmp_path: Path) -> None:
        batch = pickle.dumps({"data": pixels(1), "labels": [0]}, protocol=2)
        source = read_cifar(cifar10(tmp_path / "c.tar.gz", data_batch_1=batch))
        assert source.items[0].caption is None


class _Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("pickle-ran-code",)


class TestHostile:
    @pytest.mark.parametrize("protocol", [0, 2, 4])
    def test_a_pickle_that_runs_code_is_refused_and_does_not_run(
        self, tmp_path: Path, protocol: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        evil = pickle.dumps({"data": _Runs()}, protocol=protocol)
        with pytest.raises(
            SourceError, match=r"data_batch_1 is not a pickle of plain arrays and lists: it asks for posix"
        ):
            read_cifar(cifar10(tmp_path / "c.tar.gz", data_batch_1=evil))
        assert not (tmp_path / "pickle-ran-code").exists()

    @pytest.mark.parametrize(
        "module", ["numpy.core.multiarray\nfromstring", "builtins\neval", "numpy\nload", "os\nsystem"]
    )
    def test_no_other_name_is_looked_up(self, tmp_path: Path, module: str) -> None:
        evil = b"c" + module.encode() + b"\n."
        with pytest.raises(SourceError, match="it asks for"):
            read_cifar(cifar10(tmp_path / "c.tar.gz", test_batch=evil))

    def test_bytes_in_another_encoding_are_refused(self, tmp_path: Path) -> None:
        evil = b"c_codecs\nencode\n(X\x01\0\0\0aX\x03\0\0\0hextR."
        with pytest.raises(SourceError, match="bytes in the encoding hex"):
            read_cifar(cifar10(tmp_path / "c.tar.gz", test_batch=evil))

    @pytest.mark.parametrize(
        "array",
        [
            np.zeros((2, 3072), np.float32),
            np.zeros((2, 3072), np.int8),
            np.zeros((2, 3071), np.uint8),
            np.zeros(6144, np.uint8),
            np.zeros((3072, 2), np.uint8).T,
            [0] * 6144,
            None,
        ],
    )
    def test_other_arrays_are_refused(self, tmp_path: Path, array: object) -> None:
        batch = pickle.dumps({"data": array, "labels": [0, 0]}, protocol=2)
        with pytest.raises(SourceError, match="no array of 3072 bytes an image"):
            read_cifar(cifar10(tmp_path / "c.tar.gz", data_batch_1=batch))

    def test_a_shape_that_lies_is_refused(self, tmp_path: Path) -> None:
        batch = python2_pickle(pixels(2), [0, 0], ["a", "b"])
        lying = batch.replace(b"J\x02\0\0\0J\x00\x0c\0\0", b"J\xff\xff\xff\x7fJ\x00\x0c\0\0")
        assert lying != batch
        with pytest.raises(SourceError, match="no array of 3072 bytes an image"):
            read_cifar(cifar10(tmp_path / "c.tar.gz", data_batch_1=lying))

    @pytest.mark.parametrize(
        ("labels", "message"),
        [([0, 2], "outside its 2 classes"), ([0, -1], "outside"), ([0], "not as many"), ("ab", "not as")],
    )
    def test_labels_that_do_not_fit(self, tmp_path: Path, labels: object, message: str) -> None:
        batch = pickle.dumps({"data": pixels(2), "labels": labels}, protocol=2)
        with pytest.raises(SourceError, match=message):
            read_cifar(cifar10(tmp_path / "c.tar.gz", data_batch_1=batch))

    @pytest.mark.parametrize("meta", [{}, {"label_names": "ab"}, {"label_names": [1, 2]}])
    def test_class_names_that_are_none(self, tmp_path: Path, meta: dict[str, object]) -> None:
        with pytest.raises(SourceError, match="no list of names"):
            read_cifar(cifar10(tmp_path / "c.tar.gz", **{"batches.meta": pickle.dumps(meta, protocol=2)}))

    @pytest.mark.parametrize("blob", [b"", b"garbage", b"\x80\x02]."])
    def test_damaged_pickles(self, tmp_path: Path, blob: bytes) -> None:
        with pytest.raises(SourceError, match="is not a pickle of plain arrays and lists"):
            read_cifar(cifar10(tmp_path / "c.tar.gz", data_batch_1=blob))

    def test_a_cut_archive(self, tmp_path: Path) -> None:
        path = cifar10(tmp_path / "c.tar.gz")
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(SourceError, match=r"cannot read .* as a CIFAR archive"):
            read_cifar(path)

    def test_another_archive(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match="holds no CIFAR batches"):
            read_cifar(archive(tmp_path / "c.tar", {"a.txt": b""}, "w"))

    def test_no_archive_at_all(self, tmp_path: Path) -> None:
        (tmp_path / "c.tar.gz").write_bytes(b"no tar")
        with pytest.raises(SourceError, match="cannot read"):
            read_cifar(tmp_path / "c.tar.gz")

    def test_an_archive_of_many_files(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match="too large or one file too many"):
            read_cifar(archive(tmp_path / "c.tar.gz", {f"f{i}": b"" for i in range(65)}))
