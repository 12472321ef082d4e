"""Frozen records that cross layers. They hold facts and know nothing of files, tensors or configs."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, replace
from enum import IntEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import google_crc32c

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import TypeGuard

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
MAX_SAMPLE_BYTES = 256 << 20  # of one sample in its tar: a store's word is no reason to take more into memory at once
# What a store remembers of data that no path leads to from where it lies, as from a bucket to a disk.
ELSEWHERE = "data:elsewhere"
MAX_VIEWS = 1 << 16  # of one seed
LAYERED_OUTPUTS = ("cls", "patch_mean")
LOGITS = "logits"
ENCODINGS = ("float16", "float32", "bfloat16", "int8")
_TOP = re.compile(r"top([1-9][0-9]{0,4})")
_LAYER = re.compile(r"0|-?[1-9][0-9]{0,2}")


def canonical_json(document: object) -> bytes:
    r"""Serialise to the one byte form that digests are computed over.

    Keys sorted, no spaces, UTF-8, no NaN or infinity.

    >>> canonical_json({"b": 1, "a": "é"})
    b'{"a":"\xc3\xa9","b":1}'

    Raises:
        ValueError: The document holds a NaN or an infinity, which JSON cannot say.
    """
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def is_shallow(document: object, levels: int) -> bool:
    """Whether no more than so many lists and objects of a JSON value lie in one another; found without recursion.

    >>> is_shallow({"a": [1]}, 2), is_shallow({"a": [1]}, 1), is_shallow(1, 0)
    (True, False, True)
    """
    level = [document]
    for _ in range(levels):
        values = [list(value.values()) if isinstance(value, dict) else value for value in level if _holds(value)]
        level = [one for inner in values for one in inner]
    return not any(map(_holds, level))


def _holds(value: object) -> "TypeGuard[dict[str, object] | list[object]]":
    return isinstance(value, dict | list)


def blake2b_hex(data: "bytes | bytearray | memoryview") -> str:
    """BLAKE2b with a 32-byte digest, as 64 hexadecimal digits."""
    return hashlib.blake2b(data, digest_size=32).hexdigest()


def crc32c(data: bytes, before: int = 0) -> int:
    """CRC-32C (Castagnoli) as an unsigned number; of bytes in parts, where the checksum of those before is given.

    >>> crc32c(b"789", crc32c(b"123456")) == crc32c(b"123456789") == 0xE3069283
    True
    """
    return int(google_crc32c.extend(before, data))


def key_hash(key: str) -> int:
    """BLAKE2b-64 of a sample's key, as the little-endian u64 of ``rows/key``."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


class RowStatus(IntEnum):
    """What became of one sample and one output; stored as u8 beside the rows."""

    ABSENT = 0
    OK = 1
    DECODE_ERROR = 2
    FIELD_MISSING = 3
    NON_FINITE = 4
    DROPPED = 5


class Place(NamedTuple):
    """Where a sample lies in its tar, and proof of its bytes.

    The range holds all members of the sample with their headers and padding, and whatever lies between them.

    Attributes:
        offset_bytes: Of the first member's first header (an extended header, where it has one).
        size_bytes: From there to the end of the last member's padding.
        crc32c: Of the bytes of this range.
    """

    offset_bytes: int
    size_bytes: int
    crc32c: int


@dataclass(frozen=True)
class Sample:
    """One sample of a shard, undecoded.

    Attributes:
        key: webdataset's ``__key__``: the member's path up to the first dot of its basename.
        ordinal: Position of the sample in its tar, from 0.
        fields: Suffix in lower case ("jpg", "cls", "txt") to the member's bytes.
        place: Where it lies in its tar.
    """

    key: str
    ordinal: int
    fields: "Mapping[str, bytes]" = field(repr=False)
    place: Place


@dataclass(frozen=True)
class Shard:
    """One tar, as an index or a manifest describes it.

    Attributes:
        url: Path, URL or symbolic name (``data:clipart/train-000000.tar``).
        split: The split that all its samples belong to.
        size_bytes: Length of the tar.
        rows: Number of samples.
        blake2b: BLAKE2b-256 of the tar's bytes, hexadecimal.
    """

    url: str
    split: Split
    size_bytes: int
    rows: int
    blake2b: str


@dataclass(frozen=True)
class DecodePolicy:
    """How image bytes become RGB pixels; part of a store's identity, the same for teachers and students.

    Attributes:
        background: RGB that transparent pixels are composited on.
        exif: Whether the EXIF orientation is applied.
        max_pixels: Images with more pixels are refused before they are decoded.
    """

    background: tuple[int, int, int] = (255, 255, 255)
    exif: bool = True
    max_pixels: int = 64_000_000


@dataclass(frozen=True)
class Preprocess:
    """The deterministic transform of a teacher, from RGB pixels to its input.

    Attributes:
        resize_px: Length of the shorter side after resizing, or height and width where the aspect ratio is not kept.
        crop_px: Height and width of the centre crop that the model sees.
        interpolation: "bilinear", "bicubic", ...
        mean: Per channel, on pixels scaled to [0, 1].
        std: Per channel, on pixels scaled to [0, 1].
        backend: What resizes: "pil" on 8-bit images, or "torchvision" on tensors, one level apart here and there.
        pad_rgb: Where it is set, `resize_px` is the length of the longer side, and the rest has this colour.
    """

    resize_px: int | tuple[int, int]
    crop_px: tuple[int, int]
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    backend: str = "pil"
    pad_rgb: tuple[int, int, int] | None = None

    def __str__(self) -> str:
        """One line for people.

        >>> print(Preprocess(256, (224, 224), "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)))
        shorter side 256, centre 224 px, bicubic, mean 0.5 0.5 0.5, std 0.25 0.25 0.25
        """
        crop, square = _side(self.crop_px), self.crop_px == (self.resize_px, self.resize_px)
        if self.pad_rgb is not None:
            size = f"longer side {self.resize_px}, padded to {crop} px"
        elif isinstance(self.resize_px, tuple):
            size = f"{crop} px" if self.resize_px == self.crop_px else f"{_side(self.resize_px)}, centre {crop} px"
        else:
            size = f"shorter side {crop} px" if square else f"shorter side {self.resize_px}, centre {crop} px"
        mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        return f"{size}, {self.interpolation}, mean {mean}, std {std}"


def _side(size: tuple[int, int]) -> str:
    height, width = size
    return str(height) if height == width else f"{height} x {width}"


@dataclass(frozen=True)
class OutputSpec:
    """One output of a teacher.

    Attributes:
        name: ``cls``, ``pooled``, ``logits``, ...
        dim: Values a row.
        encoding: How a store keeps the rows: one of ENCODINGS, or "top10" for the ten largest logits of each.
    """

    name: str
    dim: int
    encoding: str = "float16"

    @property
    def top(self) -> int | None:
        """How many of its values a row keeps; None where it keeps all.

        >>> OutputSpec("logits", 1000, "top10").top, OutputSpec("cls", 768, "int8").top
        (10, None)
        """
        found = _TOP.fullmatch(self.encoding)
        return None if found is None else int(found[1])


@dataclass(frozen=True)
class ViewSpec:
    """One stored view: of every image a part, mirrored or not, that is a function of this and of the sample's key.

    Its aspect ratio is from 3/4 to 4/3, and `embedkd.sources.views` says which part it is.

    Attributes:
        seed: Of the draw, from 0.
        index: Number of the view among those of its seed, from 0.
        min_crop_area: Smallest share of the image's area, above 0, at most 1.
        flip: Probability that the part is mirrored.
    """

    seed: int
    index: int
    min_crop_area: float
    flip: float


@dataclass(frozen=True)
class TeacherSpec:
    """Everything that decides what a teacher says, and where it came from.

    Attributes:
        name: Full name, family first ("vit:ViT-L-32").
        model: The architecture as its adapter describes it; the same for a hub's copy and a local one.
        weights_sha256: Digest over names, dtypes, shapes and bytes of the weights, independent of the file.
        outputs: All outputs that the teacher offers, in a fixed order.
        preprocess: The transform that belongs to the weights.
        normalised: Whether rows are L2-normalised as stored.
        logit_scale: Factor (not its log) that the teacher applies to cosines; None where it has none.
        logit_bias: Bias added to scaled cosines (SigLIP); None where it has none.
        precision: dtype of the forward pass ("float32", "bfloat16", "float16").
        source: Where the weights were read from, for people.
        revision: Revision of the source, where it has one.
        libraries: Names and versions of the libraries that ran it.
        licence: Licence of the weights where the card gives one.
        random_weights: True where the weights were drawn and not trained.
        layers: Number of inner layers (transformer blocks) that can be had as ``cls@k`` and ``patch_mean@k``, as far as
            `outputs` has ``cls`` and ``patch_mean``; 0 where there are none.
        tokenizer: How captions become tokens, for teachers with a text tower: kind, length, digest of the vocabulary.
        derived_from: The teacher that this one was made of (fine-tuned, or given a head): its name and its fingerprint.
        view: What this teacher sees of an image, resized to `preprocess.crop_px` whatever its aspect ratio; None for
            a teacher that sees what `preprocess` says.
    """

    name: str
    model: str
    weights_sha256: str
    outputs: tuple[OutputSpec, ...]
    preprocess: Preprocess
    normalised: bool
    precision: str
    source: str
    logit_scale: float | None = None
    logit_bias: float | None = None
    revision: str | None = None
    libraries: tuple[tuple[str, str], ...] = ()
    licence: str | None = None
    random_weights: bool = False
    layers: int = 0
    tokenizer: str | None = None
    derived_from: str | None = None
    view: ViewSpec | None = None

    @cached_property  # asked for at every commit that is read
    def fingerprint(self) -> str:
        """BLAKE2b-256 over all that decides the values: the same weights in another file have the same one."""
        facts = self._facts()
        for description in ("name", "source", "revision", "libraries", "licence", "derived_from"):
            del facts[description]
        return blake2b_hex(canonical_json(facts))

    @property
    def plain(self) -> "TeacherSpec":
        """The same teacher without a view."""
        return replace(self, view=None)

    @property
    def title(self) -> str:
        """Its name, and which view it is, for people: all views of a teacher have its name."""
        return self.name if self.view is None else f"{self.name} (view {self.view.index})"

    @property
    def teacher_id(self) -> str:
        """Folder name in a store: the model in safe characters and eight digits of the fingerprint."""
        bare = self.name.split("@", 1)[0]
        safe = "".join(c if (c.isascii() and c.isalnum()) or c in "-." else "-" for c in bare).strip("-.").lower()
        return f"{safe[-80:].lstrip('-.') or 'teacher'}-{self.fingerprint[:8]}"

    def output(self, name: str) -> OutputSpec | None:
        """The output of that name, or None.

        ``cls@k`` and ``patch_mean@k`` are what block k gives, before any norm that follows the blocks; k counts from
        0, or from the end where it is negative (-1: the last block).
        """
        base, at, layer = name.partition("@")
        found = next((o for o in self.outputs if o.name == base), None)
        if found is None or not at:
            return found
        if base not in LAYERED_OUTPUTS or not _LAYER.fullmatch(layer) or not -self.layers <= int(layer) < self.layers:
            return None
        return replace(found, name=name)

    def ordered(self, names: "Iterable[str]") -> tuple[str, ...]:
        """These outputs in the one order of a pass: the specification's, an inner layer's behind its own, by number."""
        places = {o.name: at for at, o in enumerate(self.outputs)}

        def place(name: str) -> tuple[int, int, int]:
            base, at, layer = name.partition("@")
            return places.get(base, len(places)), bool(at), int(layer or 0)

        return tuple(sorted(names, key=place))

    @property
    def default_outputs(self) -> tuple[str, ...]:
        """What is computed where nobody names outputs: the model's own embedding, and logits where it has them.

        The embedding is ``image`` in CLIP-like models, else ``cls``, else ``pooled``.
        """
        names = [o.name for o in self.outputs]
        embedding = [name for name in ("image", "cls", "pooled") if name in names][:1]
        chosen = embedding + [name for name in ("logits",) if name in names]
        return tuple(chosen or names)

    @property
    def encodings(self) -> dict[str, str]:
        """How a store keeps each output, by its name."""
        return {o.name: o.encoding for o in self.outputs}

    def encoded(self, encodings: "Mapping[str, str]") -> "TeacherSpec":
        """The same teacher, with these outputs kept in another way; it has another fingerprint.

        Args:
            encodings: Name of an output to its encoding; an inner layer has that of its output.
        """
        outputs = tuple(replace(o, encoding=encodings.get(o.name, o.encoding)) for o in self.outputs)
        return replace(self, outputs=outputs)

    @property
    def offer(self) -> str:
        """All outputs in one phrase, for errors and tables."""
        names = ", ".join(o.name for o in self.outputs)
        inner = " and ".join(f"{o.name}@k" for o in self.outputs if o.name in LAYERED_OUTPUTS and self.layers)
        return f"{names}; {inner} for k from -{self.layers} to {self.layers - 1}" if inner else names

    def to_json(self) -> dict[str, Any]:
        """As JSON values; ``from_json`` gives an equal spec back."""
        document = json.loads(canonical_json(self._facts()))
        assert isinstance(document, dict)
        return document

    def _facts(self) -> dict[str, Any]:
        """All fields by name; ``view`` only where there is one, as in stores that are older than views."""
        return {name: value for name, value in asdict(self).items() if name != "view" or value is not None}

    @classmethod
    def from_json(cls, document: "Mapping[str, Any]") -> "TeacherSpec":
        """The inverse of ``to_json``.

        Raises:
            TypeError: A field is missing or unknown.
        """
        facts = dict(document)
        facts["outputs"] = tuple(OutputSpec(**o) for o in facts["outputs"])
        lists_to_tuples: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in facts["preprocess"].items()
        }
        facts["preprocess"] = Preprocess(**lists_to_tuples)
        facts["libraries"] = tuple((str(n), str(v)) for n, v in facts["libraries"])
        if "view" in facts:
            facts["view"] = ViewSpec(**facts["view"])
        return cls(**facts)
