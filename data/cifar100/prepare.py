"""Shards of CIFAR-100 from its authors' archive: the data set of the papers.

    python data/cifar100/prepare.py cifar-100-python.tar.gz OUT
    python data/cifar100/prepare.py cifar-100-python.tar.gz OUT --download --val 0.1

The archive ("CIFAR-100 python version", 169 MB) is https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz; with
``--download`` it is fetched to that path where it is not there. Its MD5 is compared with the one its authors state, and
its pickles are read without running any of them. OUT must be empty or new; README.md beside this file says what comes
out.
"""

import argparse
import hashlib
import sys
import urllib.request
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from embedkd.errors import EmbedKDError, SourceError
from embedkd.records import SPLITS
from embedkd.sources.cifar import read_cifar
from embedkd.sources.items import PackItem
from embedkd.sources.pack import PackedData, write_shards
from embedkd.sources.splits import stratified_splits

URL = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
MD5 = "eb9058c3a382ffc7106e4002c42a8d85"
CLASSES = 100
SEED = 0
ROWS_PER_SHARD = 5_000
TIMEOUT_S = 60


def main(arguments: Sequence[str]) -> int:
    """Pack, and say what came out."""
    asked = _parser().parse_args(arguments)
    try:
        if asked.download and not asked.archive.exists():
            download(URL, asked.archive)
        packed = build(asked.archive, asked.out, val=asked.val, md5=asked.md5)
    except (EmbedKDError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for shard in packed.shards:
        print(f"{shard.url}: {shard.rows} samples, {shard.size_bytes:,} bytes")
    counts = ", ".join(f"{packed.rows(split)} {split}" for split in SPLITS if packed.rows(split))
    size = sum(shard.size_bytes for shard in packed.shards)
    print(f"{asked.out}: {len(packed.classes)} classes, {counts}, {size:,} bytes of tars")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="cifar-100-python.tar.gz")
    parser.add_argument("out", type=Path, help="folder for the shards")
    parser.add_argument("--download", action="store_true", help="fetch the archive where it is not there")
    parser.add_argument("--val", type=float, default=0.1, help="share of the training images that validate (0.1)")
    parser.add_argument("--md5", default=MD5, help="of another archive of this format")
    return parser


def download(url: str, path: Path) -> None:
    """Fetch a file; it gets its name when it is whole.

    Raises:
        OSError: The server cannot be reached, answers with an error, or stops in the middle.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    begun = path.with_name(f"{path.name}.part")
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer, begun.open("wb") as file:
        while block := answer.read(1 << 20):
            file.write(block)
        expected = int(answer.headers.get("Content-Length") or file.tell())
        if file.tell() != expected:
            raise OSError(f"{url} stopped after {file.tell():,} of {expected:,} bytes; run the command again")
    begun.replace(path)


def build(archive: Path, out: Path, *, val: float = 0.1, md5: str = MD5) -> PackedData:
    """Pack the archive.

    Args:
        archive: The authors' file.
        out: A folder that does not exist or is empty.
        val: Share of each class of the training images that goes to validation, in [0, 1); 0 makes no such split.
        md5: The archive's, in hex.

    Raises:
        SourceError: There is no such file, or it is another one.
        ConfigError: `val` leaves nothing to train on.
        StorageError: `out` is not empty or cannot be written.
    """
    _check(archive, md5)
    source = read_cifar(archive)
    # The archive joins the words of a name with "_"; prompts want them apart.
    classes = [name.replace("_", " ") for name in source.classes]
    if md5 == MD5 and len(classes) != CLASSES:
        raise SourceError(f"{archive} names {len(classes)} classes, expected {CLASSES}")
    return write_shards(_divided(source.items, val), out, classes=classes, rows_per_shard=ROWS_PER_SHARD, seed=SEED)


def _check(archive: Path, md5: str) -> None:
    if not archive.is_file():
        raise SourceError(f"there is no {archive}; add --download, or fetch {URL} yourself")
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        raise SourceError(f"{archive} has the MD5 {found}, expected {md5}: cut or another file; fetch {URL} again")


def _divided(items: Sequence[PackItem], val: float) -> list[PackItem]:
    """The test images as they are; of the training images a share of each class to validate."""
    train = [item for item in items if item.split == "train"]
    names, labels = [item.name for item in train], [item.label for item in train]
    splits = stratified_splits(names, labels, val=val, test=0, seed=SEED)
    divided = [replace(item, split=split) for item, split in zip(train, splits, strict=True)]
    return [*divided, *(item for item in items if item.split == "test")]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
