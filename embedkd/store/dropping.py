"""Class sets and heads that are broken: both are made of rows, so they can be taken away and made again."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from embedkd.errors import ConfigError, IntegrityError, StoreError
from embedkd.store.access import fetch
from embedkd.store.catalogue import SealedTeacher
from embedkd.store.classes import set_keys
from embedkd.store.documents import unseal_group
from embedkd.store.heads import read_head
from embedkd.store.schema import ROOT, class_folder, is_set_name, teacher_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from embedkd.store.view import TeacherView


@dataclass(frozen=True)
class BrokenPart:
    """A class set or a head that cannot be read.

    Attributes:
        folder: Its folder.
        problem: What is wrong with it.
        keys: Its objects, in the order in which they may be removed: what says that it is there is the last.
    """

    folder: str
    problem: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class _Part:
    folder: str
    read: "Callable[[], object]"
    keys: list[str]  # the last write first
    sealed: str | None  # digest of its group


def broken_parts(view: "TeacherView") -> "Iterator[BrokenPart]":
    """Class sets and heads that were begun or sealed and cannot be read, also when they are looked at twice.

    Raises:
        StorageError: The storage did not answer; that says nothing of what it holds.
    """
    exists = view.store.storage.exists
    for part in (*_class_sets(view), *_heads(view)):
        keys = tuple(filter(exists, reversed(part.keys)))
        if (keys or part.sealed) and _problem(view, part) is not None:
            problem = _problem(view, part)  # what was cut on its way here is whole where it lies
            if problem is not None:
                yield BrokenPart(part.folder, problem, keys)


def _problem(view: "TeacherView", part: _Part) -> str | None:
    """Why it cannot be used."""
    key = f"{part.folder}/{ROOT}"
    try:
        part.read()
        if part.sealed not in {None, unseal_group(fetch(view.store.storage, key), key).own_digest}:
            raise IntegrityError(f"{key} is not the one that was sealed")
    except (StoreError, ConfigError) as error:
        return str(error)
    return None


def _class_sets(view: "TeacherView") -> "Iterator[_Part]":
    names_below, sealed = view.store.storage.list_names, _sealed(view)
    shelf = f"{teacher_folder(view.teacher_id)}/classes"
    digests = {(name, output): digest for name, of in sealed.classes.items() for output, digest in of.items()}
    listed = {(name, output) for name in names_below(shelf) for output in names_below(f"{shelf}/{name}")}
    known = {(name, output) for name, output in listed if is_set_name(name) and view.spec.output(output) is not None}
    for name, output in sorted(known | set(digests)):
        yield _Part(
            class_folder(view.teacher_id, name, output),
            partial(view.class_set, name, output),
            set_keys(view.teacher_id, name, output),
            digests.get((name, output)),
        )


def _heads(view: "TeacherView") -> "Iterator[_Part]":
    names_below, sealed = view.store.storage.list_names, _sealed(view)
    shelf = f"{teacher_folder(view.teacher_id)}/heads"
    for name in sorted({name for name in names_below(shelf) if is_set_name(name)} | set(sealed.heads)):
        folder = f"{shelf}/{name}"
        metadata = [f"{folder}/{ROOT}", f"{folder}/weight/{ROOT}", f"{folder}/bias/{ROOT}"]
        chunks = [
            f"{folder}/{part}/c/{number}{end}"
            for part, end in (("weight", "/0/0"), ("bias", "/0"))
            for number in names_below(f"{folder}/{part}/c")
            if number.isascii() and number.isdigit()
        ]
        yield _Part(folder, partial(read_head, view, name), [*metadata, *chunks], sealed.heads.get(name))


def _sealed(view: "TeacherView") -> SealedTeacher:
    """What the newest seal says of the teacher."""
    catalogue = view.store.catalogue
    found = None if catalogue is None else catalogue.teachers.get(view.teacher_id)
    return found or SealedTeacher("", {}, {}, {})
