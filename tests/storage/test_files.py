"""Files that are replaced whole, and the calls that make them last."""

import errno
import os
from pathlib import Path

import pytest

from embedkd.errors import StorageError
from embedkd.storage import make_folder, sync_folder, unnamed_file, write_atomic, write_error
from embedkd.storage.files import read_regular


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    write_atomic(path, b"first")
    write_atomic(path, b"second")
    assert path.read_bytes() == b"second"
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr({"fsync": os, "replace": Path}[call], call, full)
    with pytest.raises(StorageError, match=r"no space left to write .*a\.json; free some"):
        write_atomic(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_an_interrupt_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, b"old")

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert path.read_bytes() == b"old"


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    for path in (tmp_path / "a" / "b", tmp_path / "a" / "b" / "c"):
        with pytest.raises(StorageError, match="a is a file"):
            write_atomic(path, b"")


def test_write_atomic_syncs_the_bytes_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def syncing(handle: int) -> None:
        done.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")  # noqa: PTH112 - a link
        fsync(handle)

    def replacing(self: Path, target: Path) -> Path:
        done.append("replace")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(Path, "replace", replacing)
    write_atomic(tmp_path / "a", b"x")
    assert done == ["file", "replace", "folder"]


@pytest.mark.parametrize("error", [errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS])
def test_without_o_tmpfile_a_hidden_file_stands_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    original = os.open

    def refusing(path: "os.PathLike[str] | str", flags: int, mode: int = 0o777) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(error, os.strerror(error))
        return original(path, flags, mode)

    monkeypatch.setattr(os, "open", refusing)
    with unnamed_file(tmp_path / "a") as (handle, name_it):
        os.write(handle, b"x")
        (hidden,) = (p.name for p in tmp_path.iterdir())
        assert hidden.startswith(".a.")
        assert hidden.endswith(".tmp")
        name_it()
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"x"


@pytest.mark.parametrize("missing", ["flag", "proc"])
def test_systems_without_nameless_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    if missing == "flag":
        monkeypatch.delattr(os, "O_TMPFILE")
    else:
        monkeypatch.setattr("embedkd.storage.files._NAMES_OF_FILES", tmp_path / "no" / "proc")
    with unnamed_file(tmp_path / "a") as (handle, name_it):
        os.write(handle, b"x")
        name_it()
    assert (tmp_path / "a").read_bytes() == b"x"


def test_other_errors_of_open_are_not_taken_for_a_missing_feature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(OSError, match="Too many open files"), unnamed_file(tmp_path / "a"):
        pytest.fail("opened")


def test_a_file_that_nobody_names_is_gone(tmp_path: Path) -> None:
    with unnamed_file(tmp_path / "a") as (handle, _):
        os.write(handle, b"x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF])
def test_file_systems_that_sync_no_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    def refusing(_: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "fsync", refusing)
    sync_folder(tmp_path)


def test_folders_that_cannot_be_opened_or_whose_disk_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    def forbidding(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(StorageError, match=r"cannot make .* durable: Input/output error"):
        sync_folder(tmp_path)
    monkeypatch.setattr(os, "open", forbidding)
    sync_folder(tmp_path)


def test_make_folder(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b" / "c")
    make_folder(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()


def test_read_regular_leaves_errors_of_the_system_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "a")


def test_errors_are_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    assert str(write_error(tmp_path, OSError(errno.ENOSPC, "x"))).startswith("no space left to write")
    assert str(write_error(tmp_path, OSError("odd"))) == f"cannot write {tmp_path}: odd"
