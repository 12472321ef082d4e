"""Is a store whole? Every object is read and compared with what is recorded of it."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedkd.errors import EmbedKDError, IntegrityError
from embedkd.records import RowStatus
from embedkd.store.access import fetch
from embedkd.store.catalogue import FOLDER as SEALED
from embedkd.store.catalogue import catalogue_key, read_catalogue
from embedkd.store.classes import averaged_outputs, set_names
from embedkd.store.documents import unseal_group
from embedkd.store.heads import head_names, read_head
from embedkd.store.inventory import read_object, slot_part
from embedkd.store.manifest import FOLDER as MANIFESTS
from embedkd.store.manifest import read_manifest
from embedkd.store.schema import ROOT, class_folder, teacher_folder

if TYPE_CHECKING:
    from collections.abc import Callable

    from embedkd.store.manifest import Slot
    from embedkd.store.reader import EmbeddingStore
    from embedkd.store.view import TeacherView

MAX_PROBLEMS = 20
_CATALOGUE_NAME = re.compile(r"(0|[1-9][0-9]{0,4})\.json")


@dataclass(frozen=True)
class OutputCheck:
    """What reading all of one output found.

    Attributes:
        output: Its name.
        slots: Slots of the store.
        committed: Slots with a commit.
        rows: Rows of these that could be read.
        usable: Rows with an embedding.
        class_sets: Class sets that could be read.
        problems: One line each, at most MAX_PROBLEMS; empty where everything is as it was committed.
    """

    output: str
    slots: int
    committed: int
    rows: int
    usable: int
    class_sets: int
    problems: tuple[str, ...]


def check_output(view: "TeacherView", output: str, on_slot: "Callable[[], None]" = lambda: None) -> OutputCheck:
    """Read every committed slot and every class set of an output.

    Objects are compared with their commit by length, trailer and crc32c, rows with their status and keys with their
    digest. A slot without a commit is no problem: it was never finished.

    Args:
        view: The teacher's part of the store.
        output: One of its outputs.
        on_slot: Called after each slot.
    """
    committed = rows = usable = 0
    problems: list[str] = []
    for slot in view.store.slots:
        try:
            if view.commit(slot, output) is not None:
                committed += 1
                read = view.read(slot, output)
                rows += len(read.status)
                usable += int((read.status == RowStatus.OK).sum())
        except EmbedKDError as error:
            problems.append(f"slot {slot.index}: {error}")
        on_slot()
    names = set_names(view, output)
    for name in names:
        try:
            view.class_set(name, output)
        except EmbedKDError as error:
            problems.append(f"class set {name}: {error}")
    sets = len(names) - sum(problem.startswith("class set") for problem in problems)
    return OutputCheck(output, len(view.store.slots), committed, rows, usable, sets, tuple(problems[:MAX_PROBLEMS]))


def check_objects(store: "EmbeddingStore", on_slot: "Callable[[], None]" = lambda: None) -> tuple[str, ...]:
    """Compare every object with the digest that is recorded of it, and everything that was sealed with its seal.

    `check_output` asks whether rows make sense; this asks whether they are the bytes that were written.

    Args:
        store: The store.
        on_slot: Called after each slot of each pass.

    Returns:
        One line a problem, at most MAX_PROBLEMS.
    """
    problems: list[str] = []

    def tell(check: "Callable[[], None]") -> None:
        try:
            check()
        except EmbedKDError as error:
            problems.append(str(error))

    tell(lambda: _check_generations(store))
    tell(lambda: _check_catalogues(store))
    for teacher_id in store.teacher_ids:
        view = store.teacher(teacher_id)
        tell(view.check_structure)
        tell(lambda view=view: _check_sealed_names(view))  # type: ignore[misc]
        tell(lambda view=view: _check_texts(view))  # type: ignore[misc]
        for name in head_names(view):
            tell(lambda view=view, name=name: _check_head(view, name))  # type: ignore[misc]
        for pass_id in view.passes:
            for slot in store.slots:
                tell(lambda view=view, pass_id=pass_id, slot=slot: _check_slot(view, pass_id, slot))  # type: ignore[misc]
                on_slot()
    return tuple(problems[:MAX_PROBLEMS])


def _check_slot(view: "TeacherView", pass_id: str, slot: "Slot") -> None:
    part = slot_part(view, pass_id, slot)
    for item in () if part is None else part.objects:
        read_object(view.store, item)


def _check_texts(view: "TeacherView") -> None:
    """Class sets of outputs without rows, which nobody meets who goes by the rows."""
    for output in averaged_outputs(view):
        for name in () if output in view.outputs else set_names(view, output):
            view.class_set(name, output)


def _check_head(view: "TeacherView", name: str) -> None:
    read_head(view, name)


def _check_generations(store: "EmbeddingStore") -> None:
    """Every generation of the manifest begins with the one before it."""
    newest = store.manifest
    for number in range(newest.generation - 1, -1, -1):
        before = read_manifest(store.storage, number, store.capacity)
        same = (before.store, before.root, before.classes) == (newest.store, newest.root, newest.classes)
        begins = newest.slots[: len(before.slots)] == before.slots
        if not (same and begins and newest.previous == before.digest):
            raise IntegrityError(f"{MANIFESTS}/{newest.generation}.json does not go on from generation {number}")
        newest = before


def _check_catalogues(store: "EmbeddingStore") -> None:
    """Every seal is there, also those that a later one follows, and none was lost sight of since one is gone."""
    newest = -1 if store.catalogue is None else store.catalogue.number
    names = [_CATALOGUE_NAME.fullmatch(name) for name in store.storage.list_names(SEALED)]
    if any(int(name[1]) > newest for name in names if name):
        raise IntegrityError(f"{catalogue_key(newest + 1)} is gone, a later one is there; restore it from a copy")
    for number in range(newest):
        read_catalogue(store.storage, store.uuid, number)


def _check_sealed_names(view: "TeacherView") -> None:
    """Everything that was sealed of a teacher is there, and is what it was."""
    store = view.store
    sealed = None if store.catalogue is None else store.catalogue.teachers.get(view.teacher_id)
    if sealed is None:
        return
    base = teacher_folder(view.teacher_id)
    groups = {base: sealed.digest} | {f"{base}/heads/{name}": digest for name, digest in sealed.heads.items()}
    for name, outputs in sealed.classes.items():
        groups |= {class_folder(view.teacher_id, name, output): digest for output, digest in outputs.items()}
    for folder, digest in groups.items():
        key = f"{folder}/{ROOT}"
        if unseal_group(fetch(store.storage, key), key).own_digest != digest:
            raise IntegrityError(f"{key} is not the one that was sealed; restore it")
    for pass_id, facts in sealed.passes.items():
        if pass_id not in view.passes or view.passes[pass_id].digest != facts.digest:
            raise IntegrityError(f"{pass_id} of {view.teacher_id} is gone, or not the one that was sealed; restore it")
        view.log.index(pass_id)
