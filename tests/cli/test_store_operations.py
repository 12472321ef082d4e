"""``embedkd store seal`` to ``card``, as people type them."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from embedkd.cli.store_operations import register
from embedkd.cli.stores import store_app
from embedkd.sources.pack import pack
from embedkd.sources.shards import index_shards, list_data
from embedkd.storage import LocalStorage
from embedkd.store import create_store, open_store, seal_store
from tests.cli.conftest import Command, draw
from tests.store.conftest import _spec
from tests.store.samples import CLASSES, SHARDS, files, make

if "seal" not in {command.name for command in store_app.registered_commands}:
    register(store_app)

SPEC = _spec()


@pytest.fixture
def small(tmp_path: Path) -> Path:
    make(tmp_path / "s", {SPEC: (("cls",),)})
    return tmp_path / "s"


@pytest.fixture
def unchanged(small: Path) -> Iterator[None]:
    before = files(small)
    yield
    assert files(small) == before


def answer(embedkd: Command, *arguments: object) -> Any:
    code, out, err = embedkd(*arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def test_seal(embedkd: Command, small: Path) -> None:
    dry = answer(embedkd, "store", "seal", small, "--dry-run")
    assert (dry["new"], dry["dry_run"]) == (True, True)
    assert not (small / "sealed").exists()
    code, out, _ = embedkd("store", "seal", small)
    assert code == 0
    assert f"seal 0, {dry['index_bytes']} bytes of indexes, {dry['digest']}" in out
    assert "7/7" in out
    assert "is sealed as it is: seal 0" in embedkd("store", "seal", small)[1]


def test_copy(embedkd: Command, small: Path, tmp_path: Path) -> None:
    dry = answer(embedkd, "store", "copy", small, tmp_path / "t", "--dry-run")
    assert not (tmp_path / "t").exists()
    found = answer(embedkd, "store", "copy", small, tmp_path / "t")
    assert found["objects"] == dry["objects"] == len(files(small))
    assert files(tmp_path / "t") == files(small)
    code, out, _ = embedkd("store", "copy", small, tmp_path / "t")
    assert code == 0
    assert "0 objects, 0 bytes copied" in out


def test_merge(embedkd: Command, tmp_path: Path) -> None:
    for name, shards in (("a", SHARDS[:2]), ("b", SHARDS[2:])):
        make(tmp_path / name, {SPEC: (("cls",),)}, shards)
    arguments = ("store", "merge", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "m", "--capacity", 16)
    assert answer(embedkd, *arguments, "--dry-run")["written"] == 5
    assert not (tmp_path / "m").exists()
    code, out, _ = embedkd(*arguments)
    assert code == 0
    assert "5 shards in 5 slots of up to 16 rows" in out
    assert answer(embedkd, *arguments)["present"] == 5


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (("--classes", "ant,2"), 23),
        (("--classes", "bee", "--slots", "0-1"), 4),
        (("--slots", "2, 5-6"), 21),
        (("--keys", "keys.txt"), 2),
    ],
)
def test_subset(
    embedkd: Command, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], kept: int
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("keys.txt").write_text("train-0.tar/3\n\nval-2.tar/0\nnobody\n")
    assert answer(embedkd, "store", "subset", small, "t", *options, "--dry-run")["kept"] == kept
    assert not Path("t").exists()
    code, out, _ = embedkd("store", "subset", small, "t", *options)
    assert code == 0
    assert f"t: {kept} of " in out
    open_store("t")


def test_diff(embedkd: Command, small: Path, tmp_path: Path) -> None:
    make(tmp_path / "t", {_spec("vit:Other", "1"): (("cls",),)}, SHARDS[:1])
    found = answer(embedkd, "store", "diff", small, tmp_path / "t", "--teacher", "vit:Small", "--with", "vit:Other")
    assert found["shards"] == 1
    assert found["outputs"][0]["rows"] == 9
    empty = answer(embedkd, "store", "diff", small, tmp_path / "t")
    assert empty["outputs"] == []
    code, out, _ = embedkd("store", "diff", small, small)
    assert code == 0
    assert "shards: 5 in both" in out
    assert "1.000000" in out


def test_repair(embedkd: Command, small: Path) -> None:
    assert "nothing to repair" in embedkd("store", "repair", small)[1]
    next(small.glob("teachers/*/cls/c/2/0")).write_bytes(b"broken")
    before = files(small)
    code, out, _ = embedkd("store", "repair", small, "--dry-run")
    assert code == 0
    assert out.count("would be dropped: ") == 2
    assert files(small) == before
    found = answer(embedkd, "store", "repair", small)
    assert [len(found[name]) for name in ("commits", "objects", "problems")] == [1, 1, 1]
    assert set(before) - set(files(small)) == {*found["commits"], *found["objects"]}


def test_card(embedkd: Command, small: Path) -> None:
    code, out, _ = embedkd("store", "card", small, "--dry-run")
    assert code == 0
    assert not (small / "README.md").exists()
    assert embedkd("store", "card", small)[0] == 0
    assert (small / "README.md").read_text().rstrip() == out.rstrip()


@pytest.fixture(scope="session")
def grown(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """A store of the first two shards of a folder, the others being new."""

    def build(folder: Path) -> Path:
        pack(images, folder / "shards", rows_per_shard=8, val=0.2, test=0.2)
        listing = list_data(str(folder / "shards"))
        shards = index_shards(listing)
        create_store(
            LocalStorage(folder / "s"),
            shards[:2],
            root="../shards",
            classes=listing.classes,
            policy=make(folder / "p", {}).policy,
        )
        return folder / "s"

    return build


def test_append(embedkd: Command, grown: Callable[[Path], Path], tmp_path: Path) -> None:
    store = grown(tmp_path)
    dry = answer(embedkd, "store", "append", store, "--data", tmp_path / "shards", "--dry-run")
    assert open_store(store).manifest.generation == 0
    code, out, _ = embedkd("store", "append", store, "--data", tmp_path / "shards")
    assert code == 0
    assert f"{dry['shards']} shards, {dry['rows']} samples appended" in out
    assert len(open_store(store).shards) == 2 + dry["shards"]
    assert "nothing to append" in embedkd("store", "append", store, "--data", tmp_path / "shards")[1]


def test_append_from_elsewhere(
    embedkd: Command, refused: Callable[..., str], grown: Callable[[Path], Path], tmp_path: Path
) -> None:
    store = grown(tmp_path)
    shutil.copytree(tmp_path / "shards", tmp_path / "moved")
    assert embedkd("store", "append", store, "--data", tmp_path / "moved")[0] == 0, "all shards are there too"
    (tmp_path / "images" / "blue").mkdir(parents=True)
    draw(tmp_path / "images" / "blue" / "0.png", 0, 0)
    other = pack(tmp_path / "images", tmp_path / "other", rows_per_shard=8, val=0.0, test=0.0).folder
    assert "names other classes" in refused("store", "append", store, "--data", other)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("subset", "{s}", "{t}"), "nothing says what to keep"),
        (("subset", "{s}", "{t}", "--classes", "dog"), "unknown class"),
        (("subset", "{s}", "{t}", "--slots", "1-x"), "expected slots such as"),
        (("subset", "{s}", "{t}", "--keys", "{t}/none"), "cannot read keys"),
        (("diff", "{s}", "{s}", "--with", "x"), "name that one with --teacher"),
        (("diff", "{s}", "{t}"), "no embedding store"),
        (("copy", "{t}", "{s}"), "no embedding store"),
        (("merge", "{t}", "--out", "{s}"), "no embedding store"),
        (("seal", "{t}"), "no embedding store"),
        (("repair", "{t}"), "no embedding store"),
        (("card", "{t}"), "no embedding store"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    refused: Callable[..., str], small: Path, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    assert says in refused("store", *(argument.format(s=small, t=tmp_path / "t") for argument in arguments))


def test_a_sealed_store_is_described_alike(embedkd: Command, small: Path) -> None:
    before = answer(embedkd, "store", "info", small)
    seal_store(LocalStorage(small))
    assert before["sealed"] is None
    assert answer(embedkd, "store", "info", small) == {**before, "sealed": 0}
    assert tuple(before["classes"]) == CLASSES
