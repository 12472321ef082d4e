"""Objects below a root: whole or not there, once, and never outside."""

import errno
import os
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from embedkd.errors import ObjectExistsError, ObjectMissingError, StorageError
from embedkd.storage import LocalStorage, Storage, open_storage

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "root")


@pytest.fixture(params=["nameless", "named"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, storage: LocalStorage) -> LocalStorage:
    """On a file system that has O_TMPFILE, and on one that has not."""
    if request.param == "named":
        monkeypatch.setattr("embedkd.storage.files._nameless", lambda _: None)
    return storage


def _everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_what_is_put_is_there(either: LocalStorage) -> None:
    assert not either.exists("a/b.json")
    for key, data in {"a/b.json": b"x" * 100_000, "a/empty": b"", "c": b"\0\xff"}.items():
        either.put_new(key, data)
        assert either.exists(key)
        assert either.get(key) == data
    assert _everything(either.root) == {"a/b.json", "a/empty", "c"}, "nothing is left over"
    assert either.list_names("") == ["a", "c"]
    assert either.list_names("a") == ["b.json", "empty"]


def test_what_is_there_stays(either: LocalStorage) -> None:
    either.put_new("a", b"first")
    with pytest.raises(ObjectExistsError, match="exists already"):
        either.put_new("a", b"second")
    assert either.get("a") == b"first"
    assert _everything(either.root) == {"a"}


def test_a_name_that_is_taken_while_we_write_stays(either: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look before the write is a shortcut; the link at its end is what decides."""
    link = os.link

    def racing(*args: object, **options: object) -> None:
        monkeypatch.setattr(os, "link", link)
        LocalStorage(either.root).put_new("a", b"the other")
        link(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "link", racing)
    with pytest.raises(ObjectExistsError):
        either.put_new("a", b"mine")
    assert either.get("a") == b"the other"
    assert _everything(either.root) == {"a"}


def test_of_many_writers_one_wins(either: LocalStorage) -> None:
    start, outcomes = threading.Barrier(8), []

    def put(number: int) -> None:
        start.wait()
        try:
            either.put_new("deep/er/a", b"%d" % number * 5000)
        except ObjectExistsError:
            return
        outcomes.append(number)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 1
    assert either.get("deep/er/a") == b"%d" % outcomes[0] * 5000
    assert _everything(either.root) == {"deep/er/a"}


@pytest.mark.parametrize(
    ("error", "says"), [(errno.ENOSPC, "no space left"), (errno.EDQUOT, "no space left"), (errno.EIO, "cannot write")]
)
def test_a_disk_that_fails_half_way_leaves_nothing(
    either: LocalStorage, monkeypatch: pytest.MonkeyPatch, error: int, says: str
) -> None:
    write, written = os.write, 0

    def failing(handle: int, data: bytes) -> int:
        nonlocal written
        if written:
            raise OSError(error, os.strerror(error))
        written += write(handle, bytes(data[: len(data) // 2]))
        return written

    monkeypatch.setattr(os, "write", failing)
    with pytest.raises(StorageError, match=says) as caught:
        either.put_new("a/b", b"x" * 1000)
    assert "\n" not in str(caught.value)
    assert written == 500
    monkeypatch.undo()
    assert _everything(either.root) == set()
    either.put_new("a/b", b"x" * 1000)
    assert either.get("a/b") == b"x" * 1000


@pytest.mark.parametrize("call", ["fsync", "link"])
def test_a_file_that_cannot_be_made_durable_or_named_is_not_there(
    either: LocalStorage, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    either.put_new("other", b"")

    def failing(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, call, failing)
    with pytest.raises(StorageError, match=r"cannot write .*: Input/output error"):
        either.put_new("a", b"x")
    assert _everything(either.root) == {"other"}


def test_short_writes_are_gone_on_with(either: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, bytes(data[:7])))
    either.put_new("a", bytes(range(100)))
    assert either.get("a") == bytes(range(100))


def test_bytes_and_names_are_synced_in_that_order(either: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    either.put_new("a/before", b"")
    done: list[str] = []
    fsync, link = os.fsync, os.link

    def syncing(handle: int) -> None:
        done.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")  # noqa: PTH112 - a link
        fsync(handle)

    def linking(*args: object, **options: object) -> None:
        done.append("link")
        link(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(os, "link", linking)
    either.put_new("a/b", b"x")
    assert done == ["file", "link", "folder"]
    done.clear()
    with pytest.raises(ObjectExistsError):
        either.put_new("a/b", b"x")
    assert done == ["folder"], "who made it may not have come to that"
    done.clear()
    either.put_new("new/deep/b", b"x")
    assert done == ["folder", "folder", "file", "link", "folder"], "each new folder in its parent"


def test_a_key_that_is_refused_makes_nothing(storage: LocalStorage) -> None:
    with pytest.raises(StorageError, match="expected a key below"):
        storage.put_new("../x", b"")
    assert not storage.root.exists()


def test_below_a_file_there_is_nothing(storage: LocalStorage) -> None:
    storage.put_new("a", b"")
    with pytest.raises(ObjectMissingError, match="has no object a/b"):
        storage.get("a/b")
    assert not storage.exists("a/b")
    assert storage.list_names("a") == []


def test_a_long_file_is_streamed_in_pieces(storage: LocalStorage) -> None:
    storage.put_new("a", bytes(5_000_000))
    pieces = [len(piece) for piece in storage.stream("a")]
    assert sum(pieces) == 5_000_000
    assert max(pieces) <= 1 << 20


def test_what_cannot_be_removed_is_named(storage: LocalStorage) -> None:
    storage.put_new("folder/a", b"")
    with pytest.raises(StorageError, match=r"cannot remove .*folder: "):
        storage.remove("folder")
    storage.remove("folder/a/below")
    assert storage.exists("folder/a")


def test_what_is_removed_is_gone_for_good(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.put_new("a/b", b"")
    synced: list[Path] = []
    monkeypatch.setattr("embedkd.storage.objects.sync_folder", synced.append)
    storage.remove("a/b")
    assert synced == [storage.root / "a"]


def test_what_is_no_file_is_no_object(storage: LocalStorage) -> None:
    (storage.root / "folder").mkdir(parents=True)
    os.mkfifo(storage.root / "pipe")
    (storage.root / "device").symlink_to("/dev/zero")
    (storage.root / "loop").symlink_to("loop")
    for key in ("folder", "pipe", "device", "loop"):
        for call in (
            storage.get,
            storage.size,
            lambda k: storage.get_range(k, 0, 1),
            lambda k: list(storage.stream(k)),
        ):
            with pytest.raises(StorageError, match="cannot read"):
                call(key)
    assert not any(storage.exists(key) for key in ("folder", "pipe", "device"))
    with pytest.raises(StorageError, match="cannot look at"):
        storage.exists("loop")
    with pytest.raises(StorageError, match="cannot list"):
        storage.list_names("loop")


def test_a_file_where_a_folder_should_be_is_named(storage: LocalStorage) -> None:
    storage.put_new("a", b"")
    with pytest.raises(StorageError, match="a is a file") as caught:
        storage.put_new("a/b", b"")
    assert not isinstance(caught.value, ObjectExistsError)


def test_a_link_to_nothing_is_a_name_that_is_taken(either: LocalStorage) -> None:
    either.root.mkdir()
    (either.root / "a").symlink_to("nowhere")
    with pytest.raises(ObjectExistsError):
        either.put_new("a", b"x")
    assert not (either.root / "nowhere").exists()


@pytest.mark.parametrize(
    ("url", "root"), [("a/b.zarr", "a/b.zarr"), ("/a", "/a"), ("file:///a%20b/c", "/a b/c"), ("c:x", "c:x")]
)
def test_local_urls(url: str, root: str) -> None:
    storage: Storage = open_storage(url)
    assert isinstance(storage, LocalStorage)
    assert storage.url == root


def test_a_link_to_a_folder_is_read_through_and_never_written_through(tmp_path: Path) -> None:
    """A stranger's store may hold one that leads into another store."""
    other, root = LocalStorage(tmp_path / "other"), tmp_path / "store"
    other.put_new("a/b", b"theirs")
    root.mkdir()
    (root / "linked").symlink_to(other.root)
    (tmp_path / "alias").symlink_to(root)
    for storage in (LocalStorage(root), LocalStorage(tmp_path / "alias")):
        assert storage.get("linked/a/b") == b"theirs"
        changes: tuple[Callable[[], None], ...] = (
            partial(storage.put_new, "linked/a/c", b"x"),
            partial(storage.replace, "linked/a/b", b"x"),
            partial(storage.remove, "linked/a/b"),
        )
        for change in changes:
            with pytest.raises(StorageError, match=r"^cannot write .*linked is a link; copy the store to make it your"):
                change()
        assert (other.get("a/b"), other.list_names("a")) == (b"theirs", ["b"])
    LocalStorage(tmp_path / "alias").put_new("own", b"fine: the root itself may be a link")
    assert LocalStorage(root).exists("own")
