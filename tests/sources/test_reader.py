"""The reader against webdataset itself, and tars that must not be read."""

import io
import os
import tarfile
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from unittest.mock import patch

import pytest
import webdataset as wds
from hypothesis import example, given
from hypothesis import strategies as st
from webdataset.gopen import gopen_schemes

from embedkd.errors import ShardError
from embedkd.sources.index import index_shard
from embedkd.sources.reader import ShardStream
from tests.tiny import sample, tar_at, write_shard, write_tar

Members = list[tuple[str, bytes]]

FOLDERS = ("", "./", "a/", "a.b/", "é/ü/", "long/" * 40, "__meta__/", "__MACOSX/")
STEMS = ("x", "y", "Y", "x y", "日本", "__meta__", "__key", "z" * 120, "")
SUFFIXES = (".jpg", ".JPG", ".cls", ".z.jpg", ".w.jpg", ".", "", "..", ".tar.gz", ".é", ".__info__", "__")
FORMATS = (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)

members = st.lists(
    st.tuples(
        st.tuples(st.sampled_from(FOLDERS), st.sampled_from(STEMS), st.sampled_from(SUFFIXES)).map("".join),
        st.binary(max_size=600),
    ),
    max_size=8,
)


def webdataset_samples(path: Path) -> list[tuple[str, dict[str, bytes]]] | None:
    """What anyone's webdataset pipeline gets, or None where it raises."""
    with path.open("rb") as file, patch.dict(gopen_schemes, {"opened": lambda url, mode, bufsize: file}):
        try:
            found = list(wds.WebDataset(["opened:x.tar"], shardshuffle=False, empty_check=False))
        except ValueError:
            return None
    return [(s["__key__"], {name: data for name, data in s.items() if not name.startswith("__")}) for s in found]


def stream(path: Path) -> list[tuple[str, dict[str, bytes]]]:
    with ShardStream(tar_at(path)) as samples:
        return [(s.key, dict(s.fields)) for s in samples]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tars") / "the.tar"


@given(members=members, form=st.sampled_from(FORMATS))
@example(members=[("y.z.jpg", b"1"), ("y.w.jpg", b"2")], form=tarfile.PAX_FORMAT)
@example(members=[("a.jpg", b"1"), ("a.JPG", b"2")], form=tarfile.PAX_FORMAT)
@example(members=[("a.jpg", b"1"), ("b.jpg", b"2"), ("a.cls", b"3")], form=tarfile.PAX_FORMAT)
def test_samples_are_those_of_webdataset(scratch: Path, members: Members, form: int) -> None:
    write_tar(scratch, members, form)
    expected = webdataset_samples(scratch)
    reserved = any(name.rpartition("/")[2].partition(".")[2].startswith("__") for name, _ in members)
    keys = [key for key, _ in expected or []]
    if not keys or len(set(keys)) < len(keys) or reserved:
        for read in (stream, lambda path: index_shard(tar_at(path))):
            with pytest.raises(ShardError, match=r"^shard the\.tar.*$"):
                read(scratch)
        return
    assert stream(scratch) == expected
    assert [s.key for s in index_shard(tar_at(scratch)).samples] == keys


def test_links_folders_and_meta_members_are_skipped_as_webdataset_skips_them(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        for kind, name in ((tarfile.DIRTYPE, "a"), (tarfile.SYMTYPE, "a/l.jpg"), (tarfile.LNKTYPE, "a/h.jpg")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a/x.jpg"
            tar.addfile(info)
        for name in ("__shard__", "a/x.jpg", "__info__/x.cls", "a/x.cls", "README"):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"7"))
    assert stream(path) == webdataset_samples(path) == [("a/x", {"jpg": b"7", "cls": b"7"})]


def test_size_and_hash_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    write_shard(path, 5)
    data = path.read_bytes()
    with ShardStream(tar_at(path)) as samples:
        assert [s.ordinal for s in samples] == [0, 1, 2, 3, 4]
    assert (samples.size_bytes, samples.blake2b) == (len(data), blake2b(data, digest_size=32).hexdigest())
    index = index_shard(tar_at(path))
    assert (index.size_bytes, index.blake2b) == (samples.size_bytes, samples.blake2b)


def small_tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("a.jpg", "a.cls", "é.jpg", "é.cls"):
            info = tarfile.TarInfo(name)
            info.size = 700
            tar.addfile(info, io.BytesIO(b"x" * 700))
    return file.getvalue()


WHOLE = small_tar()
CONTENT = len(WHOLE.rstrip(b"\0")) // 512 * 512 + 512  # where the zero blocks begin


def with_field(offset: int, field: bytes, header: int = 1536) -> bytes:
    """The tar with a field of one header changed and its checksum made right again (1536 is that of ``a.cls``)."""
    block = bytearray(WHOLE[header : header + 512])
    block[offset : offset + len(field)] = field
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return WHOLE[:header] + bytes(block) + WHOLE[header + 512 :]


def flipped(at: int) -> bytes:
    return WHOLE[:at] + bytes([WHOLE[at] ^ 1]) + WHOLE[at + 1 :]


def zipped(module: str) -> bytes:
    library = __import__(module)
    data: bytes = library.compress(WHOLE)
    return data


SIZE, TYPE = 124, 156
BAD: dict[str, tuple[bytes, str]] = {
    "0 bytes": (b"", "is empty"),
    "text": (b"id,label\n1,2\n" * 100, "is not a tar"),
    "short text": (b"hello", "is not a tar"),
    "gzip": (zipped("gzip"), "is compressed"),
    "bzip2": (zipped("bz2"), "is compressed"),
    "xz": (zipped("lzma"), "is compressed"),
    "empty archive": (bytes(10240), "holds no sample"),
    "damaged first header": (flipped(3), "is not a tar"),
    "damaged header": (flipped(1536 + 3), "is damaged behind byte 1536"),
    "damaged extended header": (flipped(3072 + 3), "is damaged behind byte 3072"),
    "damaged header behind an extended one": (flipped(4096 + 3), "cannot be read: bad checksum"),
    "no end of archive": (WHOLE[:CONTENT], "without an end of archive"),
    "half an end of archive": (WHOLE[: CONTENT + 512], "without an end of archive"),
    "garbage behind the end": (WHOLE + b"garbage", "is damaged behind byte"),
    "garbage inside the end": (WHOLE[:-700] + b"\1" + WHOLE[-699:], "is damaged behind byte"),
    "two archives": (WHOLE + WHOLE, "is damaged behind byte"),
    "size of 2 ** 80": (with_field(SIZE, b"\x80" + (2**80).to_bytes(11, "big"), 0), "was cut: it ends inside 'a.jpg'"),
    "size of 8 GiB": (with_field(SIZE, b"77777777777\0"), "was cut: it ends inside 'a.cls'"),
    "size below 0": (with_field(SIZE, b"\xff" * 11 + b"\0"), "is damaged: 'a.cls' has -256 bytes"),
    "extended header of 2 ** 80 bytes": (
        with_field(SIZE, b"\x80" + (2**80).to_bytes(11, "big"), 3072),
        "cannot be read",
    ),
    "sparse member": (with_field(TYPE, b"S"), "sparse"),
    "name that is no UTF-8": (with_field(0, b"\xff.cls"), "in UTF-8"),
    "reserved suffix": (with_field(0, b"a.__bad__"), "belong to webdataset"),
    "long names without end": (with_field(TYPE, b"L", 0)[:1536] * 2000 + WHOLE, "is not a tar: maximum recursion"),
    "one member twice": (with_field(0, b"a.JPG\0"), "'a.JPG' comes twice in its sample"),
}


@pytest.fixture(params=["stream", "index"])
def read(request: pytest.FixtureRequest) -> Callable[[Path], object]:
    return stream if request.param == "stream" else lambda path: index_shard(tar_at(path))


@pytest.mark.parametrize("name", BAD)
def test_bad_tars_are_refused_in_one_line(tmp_path: Path, read: Callable[[Path], object], name: str) -> None:
    path = tmp_path / "the.tar"
    data, reason = BAD[name]
    path.write_bytes(data)
    with pytest.raises(ShardError) as refused:
        read(path)
    message = str(refused.value)
    assert message.startswith("shard the.tar")
    assert reason in message
    assert len(message.splitlines()) == 1


def test_a_key_that_comes_twice_is_refused(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = write_tar(tmp_path / "the.tar", [*sample("a", 1), *sample("b", 1), *sample("a", 1)])
    with pytest.raises(ShardError, match=r"shard the\.tar holds key 'a' twice \(samples 0 and 2\)"):
        read(path)


def test_what_cannot_be_opened_is_named(tmp_path: Path, read: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "the.tar")
    (tmp_path / "a" / "the.tar").mkdir(parents=True)
    for folder, reason in (("", "it is no regular file"), ("a", "Is a directory"), ("b", "there is none at")):
        with pytest.raises(ShardError, match=reason) as refused:
            read(tmp_path / folder / "the.tar")
        assert "shard the.tar" in str(refused.value)


CUTS = [*range(0, CONTENT + 1024, 512), 1, 100, 511, 513, 700, 1100, 1535, 2000, 3073, CONTENT - 1, CONTENT + 1023]


@pytest.mark.parametrize("length", CUTS)
def test_a_cut_anywhere_is_refused(tmp_path: Path, read: Callable[[Path], object], length: int) -> None:
    path = tmp_path / "the.tar"
    path.write_bytes(WHOLE[:length])
    with pytest.raises(ShardError, match=r"was cut|cannot be read|is empty|is not a tar"):
        read(path)


def test_the_shortest_end_of_archive_is_enough(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = tmp_path / "the.tar"
    path.write_bytes(WHOLE[: CONTENT + 1024])
    read(path)


def test_the_file_is_closed_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "the.tar"
    path.write_bytes(WHOLE[:512])
    with pytest.raises(ShardError), ShardStream(tar_at(path)) as samples:
        list(samples)
    assert samples._file.closed
