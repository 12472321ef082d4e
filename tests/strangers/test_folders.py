"""Folders of strangers: links, pipes, devices and huge files, read and worked on by every command."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from embedkd.errors import EmbedKDError, IntegrityError, StorageError
from embedkd.storage import LocalStorage
from embedkd.store import average, check_objects, open_store, repair_store, seal_store, write_card, write_class_set
from embedkd.store.heads import Head
from embedkd.store.heads import write_head as put_head
from tests.strangers.forge import Files, read_folder, under, write_folder
from tests.strangers.readers import check_message

KEYS = [
    r"zarr\.json",
    r"manifest/1\.json",
    r"teachers/[^/]+/zarr\.json",
    r".*/cls/zarr\.json",
    r".*/pass\.json",
    r".*/sealed/0\.json",
    r".*/commits/0\.json",
    r".*/cls/c/0/0",
    r".*/mean/c/0/0",
    r".*/weight/c/0/0/0",
]


Put = Callable[[Path], None]
Work = Callable[[Path], object]


@pytest.fixture
def folder(sound: Files, tmp_path: Path) -> Path:
    return write_folder(sound, tmp_path / "store.zarr")


def verify(folder: Path) -> None:
    """Read all of a store.

    Raises:
        EmbedKDError: Something is wrong.
    """
    view = open_store(folder).teacher()
    view.read(0, "cls")
    view.class_set(None, "cls")
    problems = check_objects(view.store)
    if problems:
        raise IntegrityError(problems[0])


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def device(path: Path) -> None:
    path.symlink_to("/dev/full")


def terminal(path: Path) -> None:
    path.symlink_to("/dev/tty")


def folder_in_place(path: Path) -> None:
    path.mkdir()


def plug(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path.parent)  # names of sockets are short
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)


def circle(path: Path) -> None:
    path.symlink_to(path)


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def sparse(path: Path) -> None:
    """A tebibyte that takes no space."""
    with path.open("wb") as file:
        file.truncate(1 << 40)


def secret(path: Path) -> None:
    path.symlink_to("/etc/passwd")


@pytest.mark.parametrize("pattern", KEYS)
@pytest.mark.parametrize(
    "put", [pipe, endless, device, terminal, folder_in_place, plug, circle, dangling, secret, sparse]
)
def test_what_is_no_plain_file_is_refused(sound: Files, folder: Path, pattern: str, put: Put) -> None:
    path = folder / under(sound, pattern)
    path.unlink()
    put(path)
    with pytest.raises(EmbedKDError) as caught:
        verify(folder)
    check_message(caught.value)
    assert "root:" not in str(caught.value), "what a link leads to is not shown"


@pytest.mark.parametrize("put", [pipe, endless, circle])
def test_a_catalogue_that_is_no_plain_file_is_refused_or_not_there(folder: Path, put: Put) -> None:
    """Without it the store is what it was before it was sealed for the second time."""
    (folder / "sealed" / "1.json").unlink()
    put(folder / "sealed" / "1.json")
    try:
        catalogue = open_store(folder).catalogue
    except EmbedKDError as error:
        check_message(error)
    else:
        assert catalogue is not None
        assert catalogue.number == 0


def test_a_store_of_links_is_read(sound: Files, folder: Path, tmp_path: Path) -> None:
    """As the cache of a model hub is laid out: every file is a link out of the folder."""
    linked = tmp_path / "snapshot.zarr"
    for key in sound:
        (linked / key).parent.mkdir(parents=True, exist_ok=True)
        (linked / key).symlink_to(folder / key)
    assert check_objects(open_store(linked)) == ()
    (tmp_path / "link").symlink_to(folder)
    assert check_objects(open_store(tmp_path / "link")) == ()


def average_again(folder: Path) -> None:
    view = open_store(folder).teacher()
    write_class_set(view, "cls", average(view, "cls", samples_per_class=1, seed=1))


def head_again(folder: Path) -> None:
    view = open_store(folder).teacher()
    mean = view.class_set(None, "cls").mean[None]
    put_head(view, Head("other", "zero-shot", "cls", mean, mean[..., 0], False, 0, 0, None, "0" * 64))


def repair_rows(folder: Path) -> None:
    repair_store(LocalStorage(folder))


def seal_again(folder: Path) -> None:
    repair_store(LocalStorage(folder))
    seal_store(LocalStorage(folder))


@pytest.mark.parametrize(
    ("linked", "work"),
    [
        (r"teachers/[^/]+/cls/c/0/0", repair_rows),
        (r"teachers/[^/]+/cls/zarr\.json", repair_rows),
        (r"(.*)/classes/zarr\.json", average_again),
        (r"(.*)/heads/zarr\.json", head_again),
        (r"sealed/zarr\.json", seal_again),
    ],
)
def test_nothing_outside_of_the_folder_is_written_or_removed(
    sound: Files, folder: Path, tmp_path: Path, linked: str, work: Work
) -> None:
    """A folder that is a link to somebody's own data, and rows that a repair would remove."""
    victim = tmp_path / "mine"
    inside = (folder / under(sound, linked)).parent
    inside.rename(victim)
    (victim / "zarr.json").write_bytes(b"mine")
    for path in [*victim.glob("0"), *victim.glob("c/*/0")]:
        path.write_bytes(b"mine")
    if linked.startswith("sealed") or "zarr" in linked:
        (victim / "zarr.json").write_bytes(sound.get(f"{inside.relative_to(folder)}/zarr.json", b"mine"))
    before = read_folder(victim)
    inside.symlink_to(victim)
    (folder / under(sound, r"rows/label/c/0")).write_bytes(b"broken")  # so that there is something to repair
    with pytest.raises(EmbedKDError) as caught:
        work(folder)
    check_message(caught.value)
    assert read_folder(victim) == before


def test_a_card_replaces_a_link_and_not_what_it_leads_to(folder: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    (folder / "README.md").symlink_to(mine)
    write_card(LocalStorage(folder))
    assert mine.read_text() == "mine"
    assert not (folder / "README.md").is_symlink()


@pytest.mark.parametrize("method", ["put_new", "replace", "remove"])
def test_no_write_goes_through_a_link(tmp_path: Path, method: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x").write_bytes(b"mine")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "a").symlink_to(tmp_path / "mine")
    storage = LocalStorage(tmp_path / "store")
    for key in ("a/x", "a/new", "a/b/new"):
        with pytest.raises(StorageError, match="is a link"):
            getattr(storage, method)(key, *([b"theirs"] if method != "remove" else []))
    assert read_folder(tmp_path / "mine") == {"x": b"mine"}
    assert storage.get("a/x") == b"mine"


def test_a_root_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "near").symlink_to(tmp_path / "far")
    storage = LocalStorage(tmp_path / "near")
    storage.put_new("a/b", b"1")
    storage.replace("a/b", b"2")
    assert (tmp_path / "far" / "a" / "b").read_bytes() == b"2"
    storage.remove("a/b")
    assert not storage.exists("a/b")
