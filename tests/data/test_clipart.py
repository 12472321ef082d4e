"""The embedded data set as it lies in the repository, and the script that made it."""

import importlib.util
import io
import re
import struct
import sys
import tarfile
import zlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, ImageDraw

from embedkd.records import SPLITS, blake2b_hex
from embedkd.sources.images import decode_image
from embedkd.sources.shards import list_data

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLIPART = Path(__file__).parents[2] / "data" / "clipart"
LISTING = list_data(str(CLIPART / "shards"))
CLASSES, SHARDS = LISTING.classes, LISTING.indexed


@dataclass(frozen=True, eq=False)
class Entry:
    key: str
    split: str
    shard: str
    label: int
    caption: str
    webp: bytes
    image: Image.Image

    @property
    def pixels(self) -> "NDArray[np.uint8]":
        return np.asarray(self.image)


@pytest.fixture(scope="module")
def prepare() -> ModuleType:
    spec = importlib.util.spec_from_file_location("clipart_prepare", CLIPART / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["clipart_prepare"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def entries() -> list[Entry]:
    found = []
    for shard in SHARDS:
        with tarfile.open(CLIPART / "shards" / shard.url) as tar:
            members = {info.name: file.read() for info in tar if (file := tar.extractfile(info)) is not None}
        for name, data in members.items():
            key, suffix = name.split(".")
            if suffix == "webp":
                label, caption = int(members[f"{key}.cls"]), members[f"{key}.txt"].decode()
                found.append(Entry(key, shard.split, shard.url, label, caption, data, decode_image(data)))
        assert len(members) == 3 * shard.rows
    return found


class TestShards:
    @pytest.mark.parametrize("shard", SHARDS, ids=lambda shard: shard.url)
    def test_the_index_tells_the_truth(self, shard: object) -> None:
        (found,) = (s for s in SHARDS if s is shard)
        data = (CLIPART / "shards" / found.url).read_bytes()
        assert (len(data), blake2b_hex(data)) == (found.size_bytes, found.blake2b)
        assert found.url.startswith(found.split)

    def test_nothing_else_lies_there(self) -> None:
        assert {path.name for path in (CLIPART / "shards").iterdir()} == {"index.json", *(s.url for s in SHARDS)}

    def test_it_is_small_enough_to_ship(self) -> None:
        assert sum(path.stat().st_size for path in CLIPART.rglob("*") if path.is_file()) < 9_000_000

    def test_there_are_several_shards_of_rows_that_add_up(self, entries: list[Entry]) -> None:
        per_split = Counter(shard.split for shard in SHARDS)
        assert 4 <= per_split["train"] <= 6
        assert 1500 <= len(entries) == sum(shard.rows for shard in SHARDS) <= 1700

    def test_every_train_shard_mixes_the_classes(self, entries: list[Entry]) -> None:
        labels = defaultdict(set)
        for entry in entries:
            labels[entry.shard].add(entry.label)
        assert min(map(len, labels.values())) >= 30

    def test_keys_are_unique_and_safe(self, entries: list[Entry]) -> None:
        assert len({entry.key for entry in entries}) == len(entries)
        assert all(re.fullmatch(r"[A-Za-z0-9_-]+", entry.key) for entry in entries)


class TestContent:
    def test_every_image_is_96_pixels_of_something_on_white(self, entries: list[Entry]) -> None:
        for entry in entries:
            assert entry.image.size == (96, 96), entry.key
            assert entry.pixels.min() < 245, entry.key
            assert entry.pixels[[0, -1]].min() > 230, entry.key

    def test_classes_are_named_and_all_are_in_every_split(self, entries: list[Entry]) -> None:
        assert CLASSES is not None
        assert len(CLASSES) >= 30
        assert list(CLASSES) == sorted(set(CLASSES))
        for split in SPLITS:
            assert {e.label for e in entries if e.split == split} == set(range(len(CLASSES)))

    def test_splits_are_stratified(self, entries: list[Entry]) -> None:
        rows = Counter((e.label, e.split) for e in entries)
        for label in {e.label for e in entries}:
            train, val, test = (rows[label, split] for split in SPLITS)
            total = train + val + test
            assert total >= 20
            assert abs(train / total - 0.7) < 0.08
            assert abs(val / total - 0.15) < 0.08
            assert abs(test / total - 0.15) < 0.05
        shares = [sum(e.split == split for e in entries) / len(entries) for split in SPLITS]
        np.testing.assert_allclose(shares, [0.7, 0.15, 0.15], atol=0.01)

    def test_captions_are_words(self, entries: list[Entry]) -> None:
        assert all(re.fullmatch(r"[^\W\d_]+( [^\W\d_]+)*", entry.caption) for entry in entries)
        assert len({entry.caption for entry in entries}) > 800

    def test_no_picture_comes_twice(self, entries: list[Entry]) -> None:
        assert len({entry.pixels.tobytes() for entry in entries}) == len(entries)
        thumbnails = np.stack(
            [np.asarray(e.image.resize((16, 16), Image.Resampling.BOX), np.float32).ravel() for e in entries]
        )
        squares = (thumbnails**2).sum(axis=1)
        distances = squares[:, None] + squares - 2 * thumbnails @ thumbnails.T
        np.fill_diagonal(distances, np.inf)
        assert np.sqrt(distances.min() / thumbnails.shape[1]) > 7  # 8 before compression

    def test_versions_of_a_drawing_stay_in_one_split(self, entries: list[Entry], prepare: ModuleType) -> None:
        edges = np.stack([prepare._edge_map(entry.image) for entry in entries])
        labels = np.array([entry.label for entry in entries])
        splits = np.array([entry.split for entry in entries])
        apart = (labels[:, None] == labels) & (splits[:, None] != splits)
        assert (edges @ edges.T)[apart].max() < prepare.VARIANT_COSINE + 0.03  # compression moves edges a little


class TestReadme:
    TEXT = (CLIPART / "README.md").read_text(encoding="utf-8")

    def test_counts_are_those_of_the_shards(self, prepare: ModuleType) -> None:
        packed = prepare.PackedData(CLIPART / "shards", CLASSES, SHARDS)
        assert prepare.table(CLIPART / "shards", packed) in self.TEXT

    def test_figures_in_the_prose(self, entries: list[Entry], prepare: ModuleType) -> None:
        assert CLASSES is not None
        tar_bytes, webp_bytes = sum(s.size_bytes for s in SHARDS), sum(len(e.webp) for e in entries)
        assert f"{len(entries):,} real drawings in {len(CLASSES)} classes" in self.TEXT
        assert f"{tar_bytes:,} bytes of tars, of which {webp_bytes:,} are images" in self.TEXT
        assert f"Pillow {prepare.VERSIONS['Pillow']}, libwebp {prepare.VERSIONS['libwebp']}" in self.TEXT
        assert f"one of the {len(prepare.ARTISTS)} listed" in self.TEXT


def drawing(seed: int, page: tuple[int, int] = (120, 90)) -> bytes:
    """A few coloured shapes on a transparent page."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGBA", page)
    pen = ImageDraw.Draw(image)
    for _ in range(6):
        x, y = rng.integers(0, page[0] - 40), rng.integers(0, page[1] - 40)
        pen.ellipse((int(x), int(y), int(x) + 40, int(y) + 40), fill=(*map(int, rng.integers(0, 200, 3)), 255))
    return png(image)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG whose header claims 30,000 x 30,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 6, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def tiny_files() -> dict[str, bytes]:
    files = {f"food/fruit/fruit_{n}_ganson.png": drawing(n) for n in range(8)}
    files |= {f"animals/birds/seagull_contour_nicu_buc_{n:02d}.png": drawing(100 + n) for n in range(8)}
    return files | {
        "food/fruit/bomb.png": bomb(),
        "food/fruit/cut.png": drawing(1)[:200],
        "food/fruit/blank.png": png(Image.new("RGBA", (50, 50))),
        "food/fruit/thin.png": png(Image.new("RGB", (200, 10), "black")),
        "food/fruit/zz_again.png": drawing(3, (120, 90)),
        "unsorted/other.png": drawing(50),
    }


def folder_package(root: Path, prepare: ModuleType) -> Path:
    for name, data in tiny_files().items():
        path = root / prepare.PNG_FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (root / prepare.PNG_FOLDER / "food/fruit/link.png").symlink_to("fruit_0_ganson.png")
    return root


def deb_package(path: Path, prepare: ModuleType) -> Path:
    """An ar archive with the members of a .deb; the data tar is compressed as Debian's are."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as tar:
        for name, content in tiny_files().items():
            info = tarfile.TarInfo(f"./{prepare.PNG_FOLDER}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo(f"./{prepare.PNG_FOLDER}/food/fruit/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "fruit_0_ganson.png"
        tar.addfile(link)
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": data.getvalue()}
    archive = b"!<arch>\n"
    for name, content in members.items():
        archive += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
        archive += content + b"\n" * (len(content) % 2)
    path.write_bytes(archive)
    return path


class TestPrepare:
    def test_a_small_package(self, tmp_path: Path, prepare: ModuleType) -> None:
        packed, left_out = prepare.build(folder_package(tmp_path / "in", prepare), tmp_path / "out")
        assert sum(shard.rows for shard in packed.shards) == 16
        assert left_out == {
            "too large to decode": 1,
            "damaged": 1,
            "blank, tiny or thin": 2,
            "repeated": 1,
            "more than a class needs": 0,
        }
        with tarfile.open(tmp_path / "out" / "train-000000.tar") as tar:
            labels = {
                int(file.read()) for info in tar if info.name.endswith(".cls") and (file := tar.extractfile(info))
            }
        assert labels == {prepare.CLASSES.index("bird"), prepare.CLASSES.index("fruit")}

    def test_the_package_and_its_folder_give_the_same_bytes(self, tmp_path: Path, prepare: ModuleType) -> None:
        first, _ = prepare.build(folder_package(tmp_path / "in", prepare), tmp_path / "a")
        second, _ = prepare.build(deb_package(tmp_path / "in.deb", prepare), tmp_path / "b")
        assert first.shards == second.shards

    def test_the_command_says_what_came_out(
        self, tmp_path: Path, prepare: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        package = folder_package(tmp_path / "in", prepare)
        assert prepare.main([str(package), str(tmp_path / "a")]) == 0
        said = capsys.readouterr().out
        assert "| all | " in said
        assert "left out, too large to decode: 1" in said
        assert f"{tmp_path / 'a'}: NOT the same bytes as" in said
        monkeypatch.setattr(prepare, "SHARDS", tmp_path / "a")
        monkeypatch.setattr(prepare, "VERSIONS", {"Pillow": "0.1", "libwebp": "0.1"})
        assert prepare.main([str(package), str(tmp_path / "b")]) == 0
        said = capsys.readouterr().out
        assert said.startswith("note: the shards were made with {'Pillow': '0.1'")
        assert f"{tmp_path / 'b'}: the same bytes as" in said

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"no package", "is no Debian package"),
            (b"!<arch>\n", r"holds no data\.tar"),
            (None, "No such file"),
        ],
    )
    def test_other_files_are_refused_in_one_line(
        self,
        tmp_path: Path,
        prepare: ModuleType,
        content: bytes | None,
        message: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        if content is not None:
            (tmp_path / "in.deb").write_bytes(content)
        assert prepare.main([str(tmp_path / "in.deb"), str(tmp_path / "out")]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert re.search(message, line)

    def test_an_empty_folder_is_refused(self, tmp_path: Path, prepare: ModuleType) -> None:
        assert prepare.main([str(tmp_path), str(tmp_path / "out")]) == 1

    def test_usage(self, prepare: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
        assert prepare.main([]) == 2
        assert "prepare.py openclipart-png" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("name", "caption"),
        [
            ("food/fruit/red_apple_01.png", "red apple"),
            ("food/fruit/apple_mateya_01.png", "apple mateya"),
            ("animals/birds/seagull_contour_nicu_buc_01.png", "seagull contour"),
            ("shapes/arrows/arrow-up-red_benji_park_01.png", "arrow up red"),
            ("food/fruit/ganson.png", "ganson"),
            ("shapes/flowchart/fc26.png", "flowchart symbol"),
            ("people/head3.png", "head"),
            ("signs_and_symbols/flags/africa/d_a.png", "flag"),
        ],
    )
    def test_captions(self, prepare: ModuleType, name: str, caption: str) -> None:
        assert prepare.caption_of(name) == caption

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("people/smilies/a.png", "smiley"),
            ("people/deep/er/a.png", "person"),
            ("tools/weapons/a.png", ""),
            ("unsorted/a.png", ""),
            ("a.png", ""),
        ],
    )
    def test_the_longest_folder_gives_the_class(self, prepare: ModuleType, name: str, expected: str) -> None:
        assert prepare.class_of(name) == expected

    def test_pictures_keep_their_proportions(self, prepare: ModuleType) -> None:
        page = Image.new("RGB", (300, 400), "white")
        page.paste((10, 20, 30), (100, 200, 200, 250))
        square = np.asarray(prepare.normalise(page))
        ink = np.argwhere((square < 128).all(axis=2))
        assert (ink.max(axis=0) - ink.min(axis=0) + 1).tolist() == [44, 88]
        assert (ink.max(axis=0) + ink.min(axis=0)).tolist() == [95, 95]

    def test_versions_share_a_group(self, prepare: ModuleType) -> None:
        def picture(name: str, seed: int, invert: bool = False) -> object:
            image = prepare.normalise(decode_image(drawing(seed)))
            swapped = Image.merge("RGB", image.split()[::-1]) if invert else image
            return prepare.Picture(f"food/fruit/{name}.png", 0, swapped)

        pictures = [
            picture("a", 1),
            picture("b", 1, invert=True),
            picture("plum_01", 2),
            picture("plum_bw", 3),
            picture("c", 4),
        ]
        one, two, three, four, five = prepare.variants(pictures)
        assert one == two
        assert three == four
        assert len({one, three, five}) == 3

    def test_many_versions_and_large_classes_are_thinned(
        self, prepare: ModuleType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        image = prepare.normalise(decode_image(drawing(1)))
        same = [prepare.Picture(f"food/fruit/same_{n}.png", 0, image) for n in range(9)]
        assert len(prepare.choose(same)) == prepare.MAX_VARIANTS
        others = [prepare.Picture(f"x/{n}.png", 1, prepare.normalise(decode_image(drawing(n)))) for n in range(9)]
        monkeypatch.setattr(prepare, "MAX_PER_CLASS", 5)
        assert Counter(picture.label for picture, _ in prepare.choose(same + others)) == {0: 4, 1: 5}
