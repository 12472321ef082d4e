"""Opening a store: what it holds, and which shards it was made from."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from embedkd.errors import (
    ConfigError,
    FormatError,
    HoleError,
    IntegrityError,
    ListingError,
    UnknownNameError,
)
from embedkd.records import DecodePolicy, OutputSpec, Shard, Split, TeacherSpec, blake2b_hex, canonical_json
from embedkd.storage import Storage, open_storage
from embedkd.store.ahead import read_ahead
from embedkd.store.catalogue import Catalogue, Unlisted, newest_catalogue
from embedkd.store.classes import ClassSet, averaged_outputs
from embedkd.store.lookup import Lookup, hashes_of, look_up, take
from embedkd.store.manifest import FOLDER, Manifest, Slot, generations, read_manifest, resolve_root
from embedkd.store.root import policy_facts, policy_of, read_root
from embedkd.store.schema import is_teacher_id, teacher_folder
from embedkd.store.siblings import views_among, without_heads, without_views
from embedkd.store.structure import read_spec
from embedkd.store.view import SlotRead, TeacherView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")
_TEACHERS_AHEAD = 8  # answers of an object store that are waited for at once


def open_store(location: "str | Path | Storage") -> "EmbeddingStore":
    """Open a store for reading.

    Args:
        location: Its path or URL, or a storage whose root it is.

    Raises:
        FormatError: There is no store of a format that this version reads.
        IntegrityError: Its metadata was changed after it was written.
    """
    storage = open_storage(str(location)) if isinstance(location, str | Path) else location
    facts = read_root(storage)
    catalogue = newest_catalogue(storage, facts.text("store_uuid"))
    storage, manifest = _newest_manifest(storage, facts.number("capacity"), catalogue)
    if manifest.store != facts.text("store_uuid"):
        raise IntegrityError(f"{storage.url} has the manifest of another store ({manifest.store}); restore its own")
    _check_sealed(catalogue, manifest)
    return EmbeddingStore(storage, manifest, facts.number("capacity"), policy_of(facts), catalogue)


class EmbeddingStore:
    """A store of teacher embeddings, open for reading. Nothing has to be closed.

    Threads may share it. It can be pickled, and used behind a fork where it lies in a folder; one in a bucket raises
    there, see `open_storage`. Shards that are appended later, and teachers and outputs that are begun after they were
    first asked for, are seen by opening the store again.

    >>> store = open_store("store.zarr")
    >>> store
    EmbeddingStore('store.zarr': 24 samples in 4 slots, 3 classes)
    >>> list(store.teachers), list(store.outputs)  # doctest: +ELLIPSIS
    (['vit-small-...'], ['cls', 'logits'])
    >>> for slot, read in store.iterate("cls", split="train"):
    ...     print(slot.shard.url, read.rows.shape, read.labels)
    train-000000.tar (8, 6) [0 1 2 0 1 2 0 1]
    train-000000.tar (4, 6) [2 0 1 2]
    train-000001.tar (8, 6) [0 1 2 0 1 2 0 1]
    >>> where = store.lookup(["cat_05", "dog_00", "ant_21"])
    >>> print(where.found, where.slot, where.row)
    [ True False  True] [ 0 -1  3] [ 5 -1  1]

    Attributes:
        storage: Where it lies.
        manifest: The newest generation.
        capacity: Rows a slot.
        policy: How images were decoded.
        catalogue: What was sealed; None where nothing was.
    """

    def __init__(
        self,
        storage: Storage,
        manifest: Manifest,
        capacity: int,
        policy: DecodePolicy,
        catalogue: Catalogue | None = None,
    ) -> None:
        self.storage = storage
        self.manifest = manifest
        self.capacity = capacity
        self.policy = policy
        self.catalogue = catalogue
        self._views: dict[str | None, TeacherView] = {}

    def __repr__(self) -> str:
        names, rows = self.class_names, sum(slot.rows for slot in self.slots)
        classes = "" if names is None else f", {len(names)} classes"
        return f"EmbeddingStore({self.storage.url!r}: {rows} samples in {len(self.slots)} slots{classes})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_views": {}}  # what was read meanwhile is read again

    @property
    def uuid(self) -> str:
        """Its own id."""
        return self.manifest.store

    @property
    def slots(self) -> tuple[Slot, ...]:
        """All slots in order."""
        return self.manifest.slots

    @property
    def shards(self) -> tuple[Shard, ...]:
        """All shards in order, named relative to `data_root`."""
        return self.manifest.shards

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Class names in label order, where the data named them."""
        return self.manifest.classes

    @property
    def data_root(self) -> str:
        """Where the shards lay when the store was made: a folder, or a symbolic name."""
        return resolve_root(self.manifest.root, self.storage.url)

    @property
    def decode_digest(self) -> str:
        """Digest of the decode policy, which every commit repeats."""
        return blake2b_hex(canonical_json(policy_facts(self.policy)))

    @property
    def teacher_ids(self) -> tuple[str, ...]:
        """Ids of all teachers, sorted. An empty folder is what a writer leaves that was killed while it began."""
        names = [name for name in self.storage.list_names("teachers") if is_teacher_id(name)]
        sealed = frozenset() if self.catalogue is None else self.catalogue.teachers.keys()
        begun = self._of_each(lambda name: name in sealed or bool(self.storage.list_names(teacher_folder(name))), names)
        return tuple(name for name, there in begun.items() if there)

    def teacher(self, name: str | None = None) -> TeacherView:
        """One teacher's part of the store.

        Args:
            name: Its id, its name ("packaged:efficientnet-lite0") or a prefix of either; None for the only one that is
                no head on another's rows. Where a teacher and stored views of it are called so, it is the teacher.

        Raises:
            HoleError: The store has no teacher yet.
            ConfigError: Several are called so.
            UnknownNameError: None is called so.
        """
        ids = self.teacher_ids
        if not ids:
            raise HoleError(f"{self.storage.url} has no teacher's rows yet; run embedkd precompute")
        if name in ids or (name is None and len(ids) == 1):
            return TeacherView(self, name or ids[0])
        specs = self.teachers
        if name is not None:
            exact = {key: spec for key, spec in specs.items() if spec.name == name}
            specs = exact or {k: s for k, s in specs.items() if k.startswith(name) or s.name.startswith(name)}
        if not specs:
            raise UnknownNameError(f"teacher of {self.storage.url}", str(name), ids)
        found = tuple(without_views(specs))
        if name is None:
            found = tuple(without_heads({key: specs[key] for key in found}))
        if len(found) > 1:
            called, listed = f" called '{name}...'" if name else "", ", ".join(found)
            raise ConfigError(
                f"{self.storage.url} has {len(found)} teachers{called}; name one with --teacher or teacher=: {listed}"
            )
        return TeacherView(self, found[0])

    def views_of(self, teacher_id: str) -> tuple[str, ...]:
        """Ids of the stored views of a teacher: what the same model said of fixed crops of the images.

        Args:
            teacher_id: Of the teacher that saw the whole images, or of a view of it.

        Returns:
            By seed, then by index; without the teacher that saw the whole images.

        Raises:
            UnknownNameError: The store has no such teacher.
        """
        specs = self.teachers
        if teacher_id not in specs:
            raise UnknownNameError(f"teacher of {self.storage.url}", teacher_id, specs)
        return views_among(specs, teacher_id)

    @property
    def teachers(self) -> dict[str, TeacherSpec]:
        """All teachers by id, sorted.

        Raises:
            FormatError: A teacher's description is not of format 1.
            IntegrityError: It was changed.
        """
        return self._of_each(lambda teacher_id: read_spec(self, teacher_id), self.teacher_ids)

    def _of_each(self, find: "Callable[[str], T]", names: "Sequence[str]") -> "dict[str, T]":
        """What is found of every teacher, of many at once: with stored views there are dozens."""
        return dict(zip(names, read_ahead(find, names, depth=_TEACHERS_AHEAD), strict=True))

    @property
    def outputs(self) -> dict[str, OutputSpec]:
        """Outputs of the only teacher, sorted; of one among several: ``store.teacher(NAME).outputs``.

        Raises:
            HoleError: The store has no teacher yet.
            ConfigError: It has several.
        """
        view = self._view(None)
        return {name: _spec_of(view, name) for name in view.outputs}

    def read(self, slot: "Slot | int", output: str, *, teacher: str | None = None) -> SlotRead:
        """Rows, status, keys and labels of one slot, every byte checked before it is used.

        >>> read = open_store("store.zarr").read(0, "cls")
        >>> read.rows.shape, read.rows.dtype.name
        ((8, 6), 'float16')
        >>> print(read.labels, read.status)  # the fifth image could not be decoded
        [0 1 2 0 1 2 0 1] [1 1 1 1 2 1 1 1]

        Args:
            slot: It, or its number.
            output: "cls", "logits", ...
            teacher: Its id, name or a prefix of either; None for the only one.

        Raises:
            HoleError: The slot has no commit, or there is no such slot.
            ConfigError: The store has several teachers, or no such teacher or output.
            IntegrityError: An object is missing or is not the committed one.
        """
        return self._view(teacher).read(slot, output)

    def iterate(
        self, output: str, *, split: "Split | None" = None, teacher: str | None = None, allow_partial: bool = False
    ) -> "Iterator[tuple[Slot, SlotRead]]":
        """Slot by slot in order, as `read` gives it; the next slot is read in a thread meanwhile.

        Args:
            output: "cls", "logits", ...
            split: Slots of one split only.
            teacher: As for `read`.
            allow_partial: Whether slots without a commit are passed over.

        Raises:
            HoleError: A slot has no commit.
            ConfigError: The store has several teachers, or no such teacher or output.
            IntegrityError: An object is missing or is not the committed one.
        """
        view = self._view(teacher)
        slots = [slot for slot in self.slots if split in {None, slot.shard.split}]
        _spec_of(view, output)
        if allow_partial:
            slots = [slot for slot in slots if view.commit(slot, output) is not None]
        return zip(slots, read_ahead(lambda slot: view.read(slot, output), slots), strict=True)

    def lookup(self, keys: "Iterable[str] | NDArray[np.uint64]", *, allow_partial: bool = False) -> Lookup:
        """Where samples lie, found by their keys.

        Reads the keys of every slot once, 8 bytes a sample of the store, and keeps none of them.

        Args:
            keys: webdataset's ``__key__`` of each sample, or u64 [K] hashes as in `SlotRead.keys`.
            allow_partial: Whether slots without a commit are passed over; their samples count as not found.

        Returns:
            An entry a key, in order. A key that is not there is marked, one that several samples have gives the first
            and their number.

        Raises:
            TypeError: The keys are neither texts nor u64.
            HoleError: A slot has no commit of any teacher.
            IntegrityError: The keys of a slot are not the committed ones.
        """
        views = [self._view(teacher_id) for teacher_id in self.teacher_ids]
        return look_up(self, views, hashes_of(keys), allow_partial=allow_partial)

    def take(
        self, where: Lookup, output: str, *, teacher: str | None = None, allow_missing: bool = False
    ) -> "NDArray[np.floating[Any]]":
        """Rows of the samples that `lookup` found, in the order of the keys.

        >>> store = open_store("store.zarr")
        >>> store.take(store.lookup(["cat_05", "ant_21"]), "cls").shape
        (2, 6)

        Args:
            where: What `lookup` gave.
            output: "cls", "logits", ...
            teacher: As for `read`.
            allow_missing: Whether keys that were not found give NaN.

        Returns:
            [K, D], float16 where rows are stored so, else float32; NaN for samples that the teacher could not see.

        Raises:
            HoleError: A key was not found, or its slot has no commit.
            ConfigError: The store has several teachers, or no such teacher or output.
            StoreError: The samples were looked up in another store.
            IntegrityError: An object is missing or is not the committed one.
        """
        view = self._view(teacher)
        return take(view, where, _spec_of(view, output), allow_missing=allow_missing)

    def classes(self, name: str | None = None, *, output: str | None = None, teacher: str | None = None) -> ClassSet:
        """A class set: the centre of each class, number of rows and spread.

        >>> open_store("store.zarr").classes(output="cls").mean.shape
        (3, 6)

        Args:
            name: The set; None for the only one, or the only one since shards were last appended.
            output: The output; None for the only one that has class sets.
            teacher: As for `read`.

        Raises:
            HoleError: There is no class set.
            ConfigError: There are several, or none of that name.
            IntegrityError: An array is not the one that was written.
        """
        view = self._view(teacher)
        return view.class_set(name, output or _averaged_output(view))

    def _view(self, name: str | None) -> TeacherView:
        """As `teacher`, found once."""
        view = self._views.get(name)
        if view is None:
            found = self.teacher(name)
            view = self._views[name] = self._views.setdefault(found.teacher_id, found)
        return view


def shard_identity(shard: Shard) -> tuple[int, str, int, str]:
    """What a shard is, whatever it is called."""
    return shard.size_bytes, shard.blake2b, shard.rows, shard.split


def _spec_of(view: TeacherView, output: str) -> OutputSpec:
    """What is known of an output that some pass has begun to write."""
    spec = view.spec.output(output) if output in view.outputs else None
    if spec is None:
        raise UnknownNameError(f"output of {view.spec.name} in {view.store.storage.url}", output, view.outputs)
    return spec


def _averaged_output(view: TeacherView) -> str:
    """The only output that has class sets."""
    averaged = averaged_outputs(view)
    if not averaged:
        raise HoleError(f"{view.store.storage.url} has no class set; make one with embedkd average")
    if len(averaged) > 1:
        raise ConfigError(f"{view.store.storage.url} has class sets of {', '.join(averaged)}; name one with output=")
    return averaged[0]


def _newest_manifest(storage: Storage, capacity: int, catalogue: Catalogue | None) -> tuple[Storage, Manifest]:
    """The newest manifest; and the storage, with what was sealed in place of a listing where it cannot list."""
    try:
        found = generations(storage)
    except ListingError:
        if catalogue is None:
            raise
        found, storage = [catalogue.generation], cast("Storage", Unlisted(storage, catalogue))
    if not found:
        raise FormatError(f"{storage.url} has no manifest: its creation was interrupted; run the same command again")
    return storage, read_manifest(storage, found[-1], capacity)


def _check_sealed(catalogue: Catalogue | None, manifest: Manifest) -> None:
    """Compare the newest manifest with what was sealed.

    Raises:
        IntegrityError: A later one was sealed, or another one.
    """
    if catalogue is None or catalogue.generation < manifest.generation - 1:
        return
    follows = (catalogue.generation, catalogue.manifest) == (manifest.generation - 1, manifest.previous)
    if not follows and (catalogue.generation, catalogue.manifest) != (manifest.generation, manifest.digest):
        raise IntegrityError(f"{FOLDER}/{catalogue.generation}.json is not the one that was sealed; restore it")
