"""What can be packed: labelled images in a folder or in a CSV, as items that are read one by one."""

import csv
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from embedkd.errors import SourceError
from embedkd.sources.images import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from embedkd.records import Split

SPLIT_NAMES: "dict[str, Split]" = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class PackItem:
    """One sample of a source.

    Attributes:
        name: Its name in the source ("cat/0001.jpg"), unique; the key and the place in the shuffle come from it.
        suffix: Format of the image in lower case, without the dot.
        label: Class number; NO_LABEL writes none.
        read: Gives the image file's bytes; called once, when the sample is written.
        caption: Text that belongs to the image.
        split: The source's own split of this sample.
    """

    name: str
    suffix: str
    label: int
    read: "Callable[[], bytes]"
    caption: str | None = None
    split: "Split | None" = None


@dataclass(frozen=True)
class PackSource:
    """A source as found.

    Attributes:
        items: All samples, by name.
        classes: Class names in label order.
        ignored: Number of files that are no images.
    """

    items: tuple[PackItem, ...]
    classes: tuple[str, ...]
    ignored: int = 0


def read_folder(root: Path) -> PackSource:
    """One sub-folder a class, at the top or below ``train``, ``val`` and ``test``; images at any depth in a class.

    Raises:
        SourceError: There is no image, an image lies outside a class folder, or a link leads out of the root.
    """
    found: list[tuple[Path, str, Split | None]] = []
    ignored = 0
    for folder, split in _split_folders(root):
        for path in _files(folder, root):
            if _suffix(path) in IMAGE_SUFFIXES:
                found.append((path, _class_of(path, folder), split))
            else:
                ignored += 1
    if not found:
        raise SourceError(f"{root} holds no images; expected one sub-folder a class with .jpg, .png, .webp ... files")
    classes = tuple(sorted({name for _, name, _ in found}))
    numbers = {name: number for number, name in enumerate(classes)}
    items = [
        PackItem(
            path.relative_to(root).as_posix(), _suffix(path), numbers[name], partial(_read_file, path), None, split
        )
        for path, name, split in found
    ]
    return PackSource(tuple(sorted(items, key=lambda item: item.name)), classes, ignored)


def read_csv(table: Path) -> PackSource:
    """A CSV with a header: ``path`` (relative to the CSV's folder), ``label`` and, at will, ``caption`` and ``split``.

    Labels are class names; they are numbered in sorted order, as numbers if all of them are whole numbers.

    Raises:
        SourceError: A column or a value is missing, a file is missing, listed twice or outside the CSV's folder.
    """
    rows = list(_rows(table))
    if not rows:
        raise SourceError(f"{table} holds no rows; expected a header with path and label, and one row an image")
    labels = {row["label"] for _, row in rows}
    classes = tuple(sorted(labels, key=int) if all(label.isdecimal() for label in labels) else sorted(labels))
    numbers = {name: number for number, name in enumerate(classes)}
    items: dict[str, PackItem] = {}
    for where, row in rows:
        item = _row_item(table.parent, where, row, numbers[row["label"]])
        if item.name in items:
            raise SourceError(f"{where} lists {item.name} a second time; expected one row an image")
        items[item.name] = item
    return PackSource(tuple(items[name] for name in sorted(items)), classes)


def _split_folders(root: Path) -> "list[tuple[Path, Split | None]]":
    """The folders that hold class folders: those of the splits, or the root."""
    top = [path for path in _visible(root) if path.is_dir()]
    splits = [SPLIT_NAMES.get(folder.name.lower()) for folder in top]
    if "train" not in splits:
        return [(root, None)]
    if None in splits:
        odd = top[splits.index(None)].name
        raise SourceError(f"{root} holds 'train' beside '{odd}'; expected train, val and test, or one folder a class")
    return list(zip(top, splits, strict=True))


def _class_of(path: Path, folder: Path) -> str:
    inner = path.relative_to(folder).parts
    if len(inner) < 2:
        raise SourceError(f"{path} lies in no class folder; expected <class>/<image> below {folder}")
    return inner[0]


def _suffix(path: Path) -> str:
    return path.suffix.lower()[1:]


def _visible(folder: Path) -> list[Path]:
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        "".join(path.name for path in paths).encode()
    except OSError as error:
        raise SourceError(f"cannot list {folder}: {error.strerror}") from error
    except UnicodeEncodeError as error:
        raise SourceError(f"{folder} holds a name that is not UTF-8; rename it") from error
    return paths


def _files(folder: Path, root: Path) -> "Iterator[Path]":
    for path in _visible(folder):
        if path.is_symlink():
            _check_inside(path, root)
        if path.is_dir():
            if path.is_symlink():
                raise SourceError(f"{path} is a link to a folder; expected real folders, which cannot form a circle")
            yield from _files(path, root)
        elif path.is_file():
            yield path


def _check_inside(path: Path, root: Path) -> None:
    if not path.resolve().is_relative_to(root.resolve()):
        raise SourceError(f"{path} leads out of {root}; only files inside it are packed")


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from error


def _rows(table: Path) -> "Iterator[tuple[str, dict[str, str]]]":
    """Rows with stripped values and where they are ("list.csv line 3")."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            columns = [name.strip().lower() for name in reader.fieldnames or ()]
            if not {"path", "label"} <= set(columns):
                raise SourceError(f"{table} has the columns {', '.join(columns) or 'none'}; expected path and label")
            reader.fieldnames = columns
            for row in reader:
                where = f"{table} line {reader.line_num}"
                values = {name: (row[name] or "").strip() for name in columns}
                if not values["path"] or not values["label"]:
                    raise SourceError(f"{where} has no path or no label; expected both in every row")
                yield where, values
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise SourceError(f"cannot read {table} as UTF-8 CSV: {error}") from error


def _row_item(root: Path, where: str, row: "Mapping[str, str]", label: int) -> PackItem:
    path = root / row["path"]
    if "\0" in row["path"] or not path.resolve().is_relative_to(root.resolve()):
        raise SourceError(f"{where}: {row['path']!r} leads out of {root}; only files inside it are packed")
    suffix = _suffix(path)
    if suffix not in IMAGE_SUFFIXES:
        raise SourceError(f"{where}: {row['path']} is no image by its name; expected {', '.join(IMAGE_SUFFIXES)}")
    if not path.is_file():
        raise SourceError(f"{where}: there is no file {path}; paths are relative to the CSV")
    split = row.get("split", "").lower()
    if split and split not in SPLIT_NAMES:
        raise SourceError(f"{where}: expected train, val, test or nothing as split, got {split!r}")
    name = path.resolve().relative_to(root.resolve()).as_posix()
    return PackItem(name, suffix, label, partial(_read_file, path), row.get("caption") or None, SPLIT_NAMES.get(split))
