"""CIFAR-10 and CIFAR-100 as their authors publish them: a tar.gz of Python pickles, read without running any of it.

A pickle is a program. The reader here knows five names, each bound to something small of this file that only remembers
what it was given; no numpy object is built by the pickle, and any other name ends the reading.

Source: https://www.cs.toronto.edu/~kriz/cifar.html ("python version").
"""

import io
import pickle
import re
import tarfile
import zlib
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkd.errors import SourceError
from embedkd.sources.items import PackItem, PackSource

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from embedkd.records import Split

_SIDE_PX = 32
_PIXEL_BYTES = 3 * _SIDE_PX * _SIDE_PX
_MAX_MEMBER_BYTES = 256 << 20
_MAX_MEMBERS = 64
_BATCHES: "dict[str, Split]" = {
    **{f"data_batch_{number}": "train" for number in range(1, 6)},
    "test_batch": "test",
    "train": "train",
    "test": "test",
}
_NAMES = {"batches.meta": "label_names", "meta": "fine_label_names"}


def read_cifar(archive: "Path") -> PackSource:
    """The samples of ``cifar-10-python.tar.gz`` or ``cifar-100-python.tar.gz``, with the split that they come in.

    Pixels are written as PPM, whose bytes depend on no library's version: the same archive gives the same shards
    everywhere, so an embedding store made from them fits everybody's copy.

    Raises:
        SourceError: The archive is cut, is no such archive, or holds pickles with anything but arrays, lists and text.
    """
    documents = _documents(archive)
    tables = [documents[name].get(key) for name, key in _NAMES.items() if name in documents]
    batches = [name for name in _BATCHES if name in documents]
    if not batches or not tables:
        raise SourceError(
            f"{archive} holds no CIFAR batches with their class names; expected the 'python version' archive"
        )
    classes = tuple(_texts(tables[0], archive))
    items = [item for name in batches for item in _items(name, documents[name], len(classes), archive)]
    return PackSource(tuple(items), classes)


def _documents(archive: "Path") -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    try:
        with tarfile.open(archive, "r:*") as tar:
            for count, member in enumerate(tar):
                if count >= _MAX_MEMBERS or member.size > _MAX_MEMBER_BYTES:
                    raise SourceError(f"{archive} is no CIFAR archive: {member.name} is too large or one file too many")
                name = PurePosixPath(member.name).name
                file = tar.extractfile(member) if member.isreg() and (name in _BATCHES or name in _NAMES) else None
                if file is not None:
                    found[name] = _load(file.read(), f"{archive}: {name}")
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise SourceError(f"cannot read {archive} as a CIFAR archive: {error}") from error
    return found


class _Array:
    """What a pickle says about an ndarray."""

    def __init__(self, *_: object) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state


class _Dtype:
    """What a pickle says about a dtype."""

    def __init__(self, code: object = None, *_: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        return


def _encoded(text: str, encoding: str) -> bytes:
    """Bytes as Python 3 writes them with protocol 2; only latin-1 is ever used for that."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding}")
    return text.encode("latin1")


_KNOWN: dict[tuple[str, str], object] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encoded,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        """One of the known stand-ins; the names in the file are never imported."""
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _KNOWN[module, name]


def _load(data: bytes, where: str) -> dict[str, Any]:
    try:
        pairs = _Unpickler(io.BytesIO(data), encoding="bytes").load().items()
        return {key.decode() if isinstance(key, bytes) else str(key): value for key, value in pairs}
    except Exception as error:  # damaged pickles raise whatever their opcodes stumble over
        raise SourceError(f"{where} is not a pickle of plain arrays and lists: {error}") from error


def _items(batch: str, document: dict[str, Any], classes: int, archive: "Path") -> list[PackItem]:
    where = f"{archive}: {batch}"
    images = _pixels(document.get("data"), where)
    labels = document.get("fine_labels", document.get("labels"))
    names = _texts(document.get("filenames", [b""] * len(images)), archive)
    if not isinstance(labels, list) or not len(labels) == len(images) == len(names):
        raise SourceError(f"{where} has {len(images)} images and not as many labels and file names")
    if not all(type(label) is int and 0 <= label < classes for label in labels):
        raise SourceError(f"{where} holds a label outside its {classes} classes")
    return [
        PackItem(f"{batch}/{row:05d}", "ppm", label, partial(_ppm, images[row]), _caption(name), _BATCHES[batch])
        for row, (label, name) in enumerate(zip(labels, names, strict=True))
    ]


def _pixels(array: object, where: str) -> "NDArray[np.uint8]":
    """Uint8 [n, 3072], channel first, from what the pickle said."""
    match array:
        case _Array(state=(_, (int(rows), int(width)), _Dtype(code=code), fortran, bytes(raw))):
            usable = code in ("u1", b"u1") and not fortran and width == _PIXEL_BYTES and rows * width == len(raw)
            if usable:
                return np.frombuffer(raw, np.uint8).reshape(rows, width)
    raise SourceError(f"{where} holds no array of {_PIXEL_BYTES} bytes an image; expected the 'python version' archive")


def _ppm(row: "NDArray[np.uint8]") -> bytes:
    pixels = row.reshape(3, _SIDE_PX, _SIDE_PX).transpose(1, 2, 0)
    return b"P6 %d %d 255\n" % (_SIDE_PX, _SIDE_PX) + pixels.tobytes()


def _texts(values: object, archive: "Path") -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, bytes | str) for value in values):
        raise SourceError(f"{archive} holds no list of names where one belongs; expected the 'python version' archive")
    return [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in values]


def _caption(filename: str) -> str | None:
    """The noun that an image was found with: "camion_s_000148.png" gives "camion"."""
    noun = re.sub(r"(_s)?_\d+\.png$", "", filename)
    return noun.replace("_", " ").strip() or None
