"""Rebuild the embedded data set from the Debian package openclipart-png, byte for byte.

    python data/clipart/prepare.py openclipart-png_0.18+dfsg-19_all.deb OUT

The package may also be a folder that it was extracted to. OUT must be empty or new; at the end the script says whether
its shards are the ones in the repository. README.md beside this file says what the steps are for.
"""

import re
import sys
import tarfile
import tomllib
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image, ImageChops, __version__, features

from embedkd.errors import EmbedKDError, ImageError, SourceError
from embedkd.records import SPLITS
from embedkd.seeding import stream_seed
from embedkd.sources.images import decode_image
from embedkd.sources.items import PackItem
from embedkd.sources.pack import PackedData, write_shards
from embedkd.sources.splits import stratified_splits

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

VERSIONS = {"Pillow": "13.0.0", "libwebp": "1.6.0"}
SHARDS = Path(__file__).parent / "shards"
PNG_FOLDER = "usr/share/openclipart/png"
SEED = 0
SIDE_PX = 96
MARGIN_PX = 4
MIN_CONTENT_PX = 32
MAX_ASPECT = 8
QUALITY = 90
MAX_PER_CLASS = 60
MAX_VARIANTS = 4
ROWS_PER_SHARD = 240
VAL, TEST = 0.15, 0.15
SAME_RMS = 8  # of 255, on thumbnails: below it two pictures are one
VARIANT_COSINE = 0.9  # of edge maps: above it two pictures are one drawing in other colours

_TABLES = tomllib.loads(Path(__file__).with_name("classes.toml").read_text(encoding="utf-8"))
FOLDERS: dict[str, str] = _TABLES["folders"]
ARTISTS: list[str] = _TABLES["artists"]
CLASSES = tuple(sorted(set(FOLDERS.values()) - {""}))


@dataclass(frozen=True, eq=False)
class Picture:
    """One usable image of the package.

    Attributes:
        name: Path below the package's PNG folder.
        label: Class number.
        image: RGB, SIDE_PX square.
    """

    name: str
    label: int
    image: Image.Image


def read_package(package: Path) -> "Iterator[tuple[str, bytes]]":
    """Name and bytes of every PNG of a class; symbolic links, which repeat a file elsewhere, are left out.

    Raises:
        SourceError: It is neither a Debian package with a tar inside nor a folder.
    """
    if package.is_dir():
        root = package / PNG_FOLDER if (package / PNG_FOLDER).is_dir() else package
        for path in root.rglob("*.png"):
            name = path.relative_to(root).as_posix()
            if not path.is_symlink() and class_of(name):
                yield name, path.read_bytes()
        return
    with package.open("rb") as file:
        _skip_to_data(file, package)
        with tarfile.open(fileobj=file, mode="r|*") as tar:
            for member in tar:
                name = member.name.removeprefix("./").removeprefix(PNG_FOLDER + "/")
                if member.isreg() and name.endswith(".png") and class_of(name):
                    content = tar.extractfile(member)
                    assert content is not None
                    yield name, content.read()


def class_of(name: str) -> str:
    """The class of a file by the longest folder of the table that holds it; empty where there is none."""
    return next((FOLDERS[str(folder)] for folder in PurePosixPath(name).parents if str(folder) in FOLDERS), "")


def caption_of(name: str) -> str:
    """What a file name says about its picture: no numbers, no artist; the class where nothing is left.

    >>> caption_of("food/fruit/red_apple_nicu_buc_01.png")
    'red apple'
    """
    words = re.sub(r"[\W\d_]+", " ", PurePosixPath(name).stem.lower()).split()
    for cut in range(1, len(words)):
        tail = " ".join(words[cut:])
        if len(tail) >= 4 and any(artist.startswith(tail) for artist in ARTISTS):
            words = words[:cut]
            break
    if not any(len(word) > 2 for word in words):
        return class_of(name)
    return " ".join(words)


def normalise(image: Image.Image) -> Image.Image | None:
    """Crop to what is not white and centre that in a white square; None where too little is left.

    Many pictures are small drawings on a large page, and stretching them would cost their proportions.
    """
    box = ImageChops.invert(image).point(lambda ink: 255 if ink > 8 else 0).getbbox()
    if box is None:
        return None
    width, height = box[2] - box[0], box[3] - box[1]
    if max(width, height) < MIN_CONTENT_PX or max(width, height) > MAX_ASPECT * min(width, height):
        return None
    scale = (SIDE_PX - 2 * MARGIN_PX) / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    square = Image.new("RGB", (SIDE_PX, SIDE_PX), (255, 255, 255))
    content = image.crop(box).resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    square.paste(content, ((SIDE_PX - size[0]) // 2, (SIDE_PX - size[1]) // 2))
    return square


def find_pictures(files: "Iterable[tuple[str, bytes]]") -> "tuple[list[Picture], Counter[str]]":
    """All usable pictures, by name, and how many files were left out for which reason."""
    pictures = []
    left_out: Counter[str] = Counter()
    for name, data in files:
        try:
            image = normalise(decode_image(data))
        except ImageError as error:
            left_out["too large to decode" if "over the limit" in str(error) else "damaged"] += 1
            continue
        if image is None:
            left_out["blank, tiny or thin"] += 1
        else:
            pictures.append(Picture(name, CLASSES.index(class_of(name)), image))
    return sorted(pictures, key=lambda picture: picture.name), left_out


def without_repeats(pictures: "Sequence[Picture]") -> list[Picture]:
    """One of all pictures that look the same, in whatever classes: the first by name."""
    kept: list[Picture] = []
    seen = np.empty((len(pictures), 16 * 16 * 3), np.int32)
    for picture in pictures:
        thumbnail = np.asarray(picture.image.resize((16, 16), Image.Resampling.BOX), np.int32).ravel()
        distances = ((seen[: len(kept)] - thumbnail) ** 2).mean(axis=1)
        if (distances >= SAME_RMS**2).all():
            seen[len(kept)] = thumbnail
            kept.append(picture)
    return kept


def variants(pictures: "Sequence[Picture]") -> list[str]:
    """A group for each picture of one class: versions of one drawing share it.

    Two pictures are versions of one drawing where they have nearly the same edges, whatever their colours, or where
    only a few files share a name but for numbers, artist and "bw".
    """
    edges = np.stack([_edge_map(picture.image) for picture in pictures])
    titles = [caption_of(picture.name).removesuffix(" bw") for picture in pictures]
    nameless = class_of(pictures[0].name)
    rare = np.array([title != nameless and titles.count(title) <= MAX_VARIANTS for title in titles])
    same_title = np.array(titles)[:, None] == np.array(titles)
    groups = list(range(len(pictures)))
    for one, other in np.argwhere(np.triu((edges @ edges.T >= VARIANT_COSINE) | (same_title & rare), 1)):
        old, new = groups[other], groups[one]
        groups = [new if group == old else group for group in groups]
    return [pictures[group].name for group in groups]


def choose(pictures: "Sequence[Picture]") -> list[tuple[Picture, str]]:
    """At most MAX_VARIANTS of each drawing and MAX_PER_CLASS of each class, at random; with their groups."""
    chosen: list[tuple[Picture, str]] = []
    for label in sorted({picture.label for picture in pictures}):
        members = [picture for picture in pictures if picture.label == label]
        grouped = sorted(zip(members, variants(members), strict=True), key=lambda pair: _rank(pair[0].name))
        taken: Counter[str] = Counter()
        few = []
        for picture, group in grouped:
            taken[group] += 1
            if taken[group] <= MAX_VARIANTS:
                few.append((picture, group))
        chosen += few[:MAX_PER_CLASS]
    return chosen


def build(package: Path, out: Path) -> tuple[PackedData, "Counter[str]"]:
    """Write the shards and their index; also what was left out and why.

    Raises:
        SourceError: The package is none, or holds no usable picture.
        StorageError: `out` is not empty or cannot be written.
    """
    pictures, left_out = find_pictures(read_package(package))
    if not pictures:
        raise SourceError(f"{package} holds no usable picture; expected the package openclipart-png or its folder")
    unique = without_repeats(pictures)
    chosen = choose(unique)
    left_out["repeated"] = len(pictures) - len(unique)
    left_out["more than a class needs"] = len(unique) - len(chosen)
    splits = stratified_splits(
        [picture.name for picture, _ in chosen],
        [picture.label for picture, _ in chosen],
        val=VAL,
        test=TEST,
        seed=SEED,
        groups=[group for _, group in chosen],
    )
    items = [
        PackItem(p.name, "webp", p.label, partial(_webp, p.image), caption_of(p.name), split)
        for (p, _), split in zip(chosen, splits, strict=True)
    ]
    return write_shards(items, out, classes=CLASSES, rows_per_shard=ROWS_PER_SHARD, seed=SEED), left_out


def table(out: Path, packed: PackedData) -> str:
    """Rows of each class and split as a Markdown table, read back from the shards."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for shard in packed.shards:
        with tarfile.open(out / shard.url) as tar:
            for member in tar:
                if member.name.endswith(".cls") and (content := tar.extractfile(member)) is not None:
                    counts[packed.classes[int(content.read())]][shard.split] += 1
    lines = ["| class | train | val | test | all |", "|---|---:|---:|---:|---:|"]
    totals: Counter[str] = sum(counts.values(), Counter())
    for name, row in [*sorted(counts.items()), ("all", totals)]:
        lines.append(f"| {name} | {' | '.join(str(row[split]) for split in SPLITS)} | {row.total()} |")
    return "\n".join(lines)


def main(arguments: "Sequence[str]") -> int:
    """Build, and say what came out."""
    if len(arguments) != 2:
        print(__doc__)
        return 2
    found = {"Pillow": __version__, "libwebp": str(features.version("webp"))}
    if found != VERSIONS:
        print(f"note: the shards were made with {VERSIONS}, this is {found}: the bytes may differ")
    out = Path(arguments[1])
    try:
        packed, left_out = build(Path(arguments[0]), out)
    except (EmbedKDError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(table(out, packed), "", *(f"left out, {reason}: {count}" for reason, count in left_out.items()), sep="\n")
    same = _contents(out) == _contents(SHARDS)
    print(f"{out}: {'the same bytes as' if same else 'NOT the same bytes as'} {SHARDS}")
    return 0


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else {}


def _skip_to_data(file: "BinaryIO", package: Path) -> None:
    """Move to the first byte of ``data.tar.*`` in an ar archive, which is what a .deb is."""
    if file.read(8) != b"!<arch>\n":
        raise SourceError(f"{package} is no Debian package; expected openclipart-png_*.deb or its extracted folder")
    while header := file.read(60):
        if header.startswith(b"data.tar"):
            return
        size = int(header[48:58])
        file.seek(size + size % 2, 1)
    raise SourceError(f"{package} holds no data.tar; expected openclipart-png_*.deb")


def _edge_map(image: Image.Image) -> "NDArray[np.float64]":
    """Unit vector of 24 x 24 edge strengths without their mean."""
    grey = np.asarray(image.convert("L"), np.float64)
    strength = np.hypot(np.diff(grey, axis=1, append=255.0), np.diff(grey, axis=0, append=255.0))
    cells = np.sqrt(strength.reshape(24, SIDE_PX // 24, 24, SIDE_PX // 24).mean(axis=(1, 3))).ravel()
    centred = cells - cells.mean()
    unit: NDArray[np.float64] = centred / np.linalg.norm(centred)
    return unit


def _rank(name: str) -> int:
    return stream_seed(SEED, "choose", name)


def _webp(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY, method=6)
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
