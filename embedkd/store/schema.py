"""Store format 1: names, data types and Zarr metadata. No I/O; docs/store-format.md is the norm this follows."""

import re
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from embedkd.errors import FormatError
from embedkd.records import ENCODINGS, LOGITS, OutputSpec, canonical_json

FORMAT = 1
MAX_CAPACITY = 16_384
MAX_DIM = 65_536
MAX_SLOTS = 1_000_000
MAX_CLASSES = 1 << 20
MAX_PROMPTS = 1 << 10
MAX_CHUNK_BYTES = 1 << 30
NAMESPACE = "embedkd"
ROOT = "zarr.json"
_FILL = {"int32": -1, "int8": -128, "uint16": 0x7FC0}  # 0x7FC0 is a NaN in bfloat16
_PLAIN = ("float16", "float32")
PLACE_FACTS = 3  # offset, size and crc32c, see `records.Place`
_OUTPUT_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}(@-?[0-9]{1,3})?")
_RESERVED_OUTPUT = re.compile(r"(_status|_scale|_topk_index|_topk_value)$|^(classes|heads)$")
_SET_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_TEACHER_ID = re.compile(r"[a-z0-9][a-z0-9.-]{0,100}-[0-9a-f]{8}")


@dataclass(frozen=True)
class ArraySchema:
    """One Zarr array: where it lies and what it holds.

    Attributes:
        path: Path below the store's root.
        dtype: Name in Zarr format 3.
        shape: Of the whole array.
        chunk: Of one chunk.
        encoding: What its numbers mean, where they are not the values themselves; else empty.

    Raises:
        FormatError: A chunk would have more bytes than the format allows.
    """

    path: str
    dtype: str
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    encoding: str = ""

    def __post_init__(self) -> None:
        if self.chunk_bytes > MAX_CHUNK_BYTES:
            raise FormatError(f"{self.path}: expected chunks of up to {MAX_CHUNK_BYTES} bytes, got {self.chunk_bytes}")

    @property
    def fill(self) -> float | int:
        """What an absent row reads as: NaN for floats and bfloat16, -1 for labels, -128 for int8, else 0."""
        return float("nan") if self.dtype.startswith("float") else _FILL.get(self.dtype, 0)

    @property
    def chunk_bytes(self) -> int:
        """Length of one decoded chunk."""
        return prod(self.chunk) * np.dtype(self.dtype).itemsize

    @property
    def object_limit_bytes(self) -> int:
        """What the object of a chunk has at most: Blosc adds 16 bytes to what it cannot compress, crc32c four."""
        return self.chunk_bytes + 20

    def chunk_key(self, slot: int = 0) -> str:
        """Key of the object that holds one slot's rows (chunks are cut along the first axis alone)."""
        return "/".join([self.path, "c", str(slot), *("0" for _ in self.chunk[1:])])

    def of_slots(self, slots: int) -> "ArraySchema":
        """The same array of rows for another number of slots."""
        return replace(self, shape=(slots * self.chunk[0], *self.shape[1:]))

    def metadata(self) -> bytes:
        """The array's ``zarr.json``, byte for byte."""
        endian = {} if np.dtype(self.dtype).itemsize == 1 else {"configuration": {"endian": "little"}}
        blosc = {
            "typesize": np.dtype(self.dtype).itemsize,
            "cname": "lz4",
            "clevel": 5,
            "shuffle": "bitshuffle",
            "blocksize": 0,
        }
        return canonical_json(
            {
                "zarr_format": 3,
                "node_type": "array",
                "shape": list(self.shape),
                "data_type": self.dtype,
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(self.chunk)}},
                "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
                "fill_value": "NaN" if self.dtype.startswith("float") else self.fill,
                "codecs": [{"name": "bytes", **endian}, {"name": "blosc", "configuration": blosc}, {"name": "crc32c"}],
                "attributes": {NAMESPACE: {"encoding": self.encoding}} if self.encoding else {},
            }
        )


def group_metadata(attributes: dict[str, Any] | None = None) -> dict[str, Any]:
    """A group's ``zarr.json`` as a document; our attributes live in their own namespace."""
    content = {} if attributes is None else {NAMESPACE: attributes}
    return {"zarr_format": 3, "node_type": "group", "attributes": content}


def shelf_metadata() -> bytes:
    """``zarr.json`` of a folder that holds our JSON documents.

    An empty array: Zarr readers list the members of groups and warn about every entry that is no node, but never look
    into an array. Its only chunk key would be ``c/0``, which no document is named.
    """
    return ArraySchema("", "uint8", (0,), (1,)).metadata()


def row_schemas(slots: int, capacity: int) -> tuple[ArraySchema, ArraySchema, ArraySchema]:
    """``rows/key``, ``rows/label`` and ``rows/place``: what belongs to the samples, whoever the teacher is."""
    total = slots * capacity
    return (
        ArraySchema("rows/key", "uint64", (total,), (capacity,)),
        ArraySchema("rows/label", "int32", (total,), (capacity,)),
        ArraySchema("rows/place", "uint64", (total, PLACE_FACTS), (capacity, PLACE_FACTS)),
    )


def output_schemas(teacher_id: str, output: OutputSpec, slots: int, capacity: int) -> tuple[ArraySchema, ...]:
    """The arrays of one output in the order in which they are written, its status last."""
    base, encoding = f"{teacher_folder(teacher_id)}/{output.name}", output.encoding
    mark = "" if encoding in _PLAIN else encoding

    def rows(suffix: str, dtype: str, width: int) -> ArraySchema:
        return ArraySchema(f"{base}{suffix}", dtype, (slots * capacity, width), (capacity, width), mark)

    status = ArraySchema(f"{base}_status", "uint8", (slots * capacity,), (capacity,))
    if output.top is not None:
        return rows("_topk_index", "int32", output.top), rows("_topk_value", "float16", output.top), status
    if encoding == "int8":
        scale = ArraySchema(f"{base}_scale", "float32", (slots, output.dim), (1, output.dim), mark)
        return scale, rows("", "int8", output.dim), status
    return rows("", "uint16" if encoding == "bfloat16" else encoding, output.dim), status


def class_schemas(teacher_id: str, name: str, output: str, classes: int, dim: int) -> dict[str, ArraySchema]:
    """``mean``, ``count`` and ``spread`` of a class set."""
    base = class_folder(teacher_id, name, output)
    return {
        "mean": ArraySchema(f"{base}/mean", "float32", (classes, dim), (classes, dim)),
        "count": ArraySchema(f"{base}/count", "int64", (classes,), (classes,)),
        "spread": ArraySchema(f"{base}/spread", "float32", (classes,), (classes,)),
    }


def teacher_folder(teacher_id: str) -> str:
    """Folder of one teacher."""
    return f"teachers/{teacher_id}"


def class_folder(teacher_id: str, name: str, output: str) -> str:
    """Folder of one class set of one output."""
    return f"{teacher_folder(teacher_id)}/classes/{name}/{output}"


def check_output(output: OutputSpec) -> None:
    """Refuse an output that the format cannot hold.

    Raises:
        FormatError: Its name, width or encoding is outside what the format allows.
    """
    if not is_output_name(output.name):
        raise FormatError(f"expected an output name such as 'cls' or 'cls@-4', got {output.name!r}")
    if type(output.dim) is not int or not 1 <= output.dim <= MAX_DIM:
        raise FormatError(f"output {output.name}: expected a width of 1 to {MAX_DIM}, got {output.dim!r}")
    if output.top is None and output.encoding not in ENCODINGS:
        raise FormatError(
            f"output {output.name}: expected an encoding of {', '.join(ENCODINGS)} or top<K>, got {output.encoding!r}"
        )
    if output.top is not None and (output.name != LOGITS or output.top >= output.dim):
        raise FormatError(
            f"output {output.name} of width {output.dim}: expected top<K> of '{LOGITS}' alone, and K below its width, "
            f"got {output.encoding}"
        )


def check_capacity(capacity: int) -> None:
    """Refuse a capacity that is no power of two up to MAX_CAPACITY.

    Raises:
        FormatError: It is not.
    """
    if not 1 <= capacity <= MAX_CAPACITY or capacity & (capacity - 1):
        raise FormatError(f"expected a capacity that is a power of two up to {MAX_CAPACITY}, got {capacity}")


def is_teacher_id(name: str) -> bool:
    """Whether a TeacherSpec could derive this folder name: <model>-<8 hexadecimal digits>."""
    return _TEACHER_ID.fullmatch(name) is not None


def is_output_name(name: str) -> bool:
    """Whether an output can be called so."""
    return _OUTPUT_NAME.fullmatch(name) is not None and _RESERVED_OUTPUT.search(name) is None


def is_set_name(name: str) -> bool:
    """Whether a class set can be called so: a plain folder name of a-z, 0-9, dot, dash and underscore."""
    return _SET_NAME.fullmatch(name) is not None
