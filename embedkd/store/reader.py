"""Opening a store: what it holds, and which shards it was made from."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from embedkd.errors import (
    FormatError,
    HoleError,
    IntegrityError,
    ListingError,
    ObjectMissingError,
    StoreError,
    UnknownNameError,
)
from embedkd.records import DecodePolicy, Shard, blake2b_hex, canonical_json
from embedkd.storage import Storage, open_storage
from embedkd.store.catalogue import Catalogue, Unlisted, newest_catalogue
from embedkd.store.documents import MAX_DOCUMENT_BYTES, unseal_group
from embedkd.store.manifest import FOLDER, Manifest, Slot, generations, read_manifest, resolve_root
from embedkd.store.schema import MAX_CAPACITY, ROOT, check_capacity, is_teacher_id, teacher_folder
from embedkd.store.view import TeacherView

if TYPE_CHECKING:
    from embedkd.store.documents import Fields

MAX_PIXELS = 1 << 30


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


def read_root(storage: Storage) -> "Fields":
    """The attributes of a store's root group: ``store_uuid``, ``capacity`` and ``decode``, all checked.

    Raises:
        FormatError: There is no store of a format that this version reads.
        IntegrityError: It was changed after it was written.
    """
    try:
        root = storage.get(ROOT, limit_bytes=MAX_DOCUMENT_BYTES)
    except ObjectMissingError as error:
        raise FormatError(f"{storage.url} is no embedding store; make one with embedkd precompute") from error
    facts = unseal_group(root, f"{storage.url}/{ROOT}")
    check_capacity(facts.number("capacity", low=1, high=MAX_CAPACITY))
    facts.text("store_uuid")
    policy_of(facts)
    return facts


def policy_facts(policy: DecodePolicy) -> dict[str, Any]:
    """A decode policy as JSON values."""
    return {"background": list(policy.background), "exif": policy.exif, "max_pixels": policy.max_pixels}


def policy_of(facts: "Fields") -> DecodePolicy:
    """The decode policy among a root group's attributes.

    Raises:
        FormatError: It is none, or would let images through that no machine should decode.
    """
    decode = facts.member("decode")
    background = decode.numbers("background", limit=3, high=255)
    if len(background) != 3:
        raise FormatError(f"{decode.where}: expected a background of 3 numbers, got {len(background)}")
    red, green, blue = background
    return DecodePolicy((red, green, blue), decode.flag("exif"), decode.number("max_pixels", low=1, high=MAX_PIXELS))


class EmbeddingStore:
    """A store of teacher embeddings, open for reading; safe for threads, and for forks while it is local.

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
        return tuple(name for name in names if self.storage.list_names(teacher_folder(name)))

    def teacher(self, name: str | None = None) -> TeacherView:
        """One teacher's part of the store.

        Args:
            name: Its id, its name ("packaged:efficientnet-lite0") or a prefix of either; None for the only one.

        Raises:
            HoleError: The store has no teacher yet.
            UnknownNameError: No teacher, or several, are called so.
        """
        ids = self.teacher_ids
        if not ids:
            raise HoleError(f"{self.storage.url} has no teacher's rows yet; run embedkd precompute")
        views = [TeacherView(self, teacher_id) for teacher_id in ([name] if name in ids else ids)]
        if name is not None and name not in ids:
            exact = [v for v in views if v.spec.name == name]
            views = exact or [v for v in views if v.teacher_id.startswith(name) or v.spec.name.startswith(name)]
        if len(views) != 1:
            raise UnknownNameError(f"teacher of {self.storage.url}", name or "(none named)", ids)
        return views[0]

    def check_shards(self, shards: tuple[Shard, ...]) -> None:
        """Compare shards with those that the store was made from, by size, BLAKE2b, samples and split.

        Raises:
            StoreError: They differ; the first difference is named.
        """
        ours = self.shards
        if len(ours) != len(shards):
            raise StoreError(
                f"{self.storage.url} was made from {len(ours)} shards, these are {len(shards)}; use another --out"
            )
        for mine, given in zip(ours, shards, strict=True):
            if shard_identity(mine) != shard_identity(given):
                raise StoreError(
                    f"{self.storage.url} was made from other shards ({given.url} is not its {mine.url}); "
                    "use another --out"
                )


def shard_identity(shard: Shard) -> tuple[int, str, int, str]:
    """What a shard is, whatever it is called."""
    return shard.size_bytes, shard.blake2b, shard.rows, shard.split


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
