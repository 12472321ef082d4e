"""Where samples lie: the bytes that a place names are the sample's, and give it back by themselves."""

import io
import tarfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext

from embedkd.errors import ShardError
from embedkd.records import Sample, crc32c
from embedkd.sources import reader
from embedkd.sources.index import index_shard
from embedkd.sources.members import is_meta, key_and_suffix
from embedkd.sources.places import Places
from embedkd.sources.ranges import _plain_members, sample_of
from embedkd.sources.reader import ShardStream
from tests.tiny import picture, sample, tar_at, write_tar

# Names behind one another, of which some are long, some need extended headers, and some belong to no sample.
NAMES = ("a", "b", "é", "d/" * 60 + "a", "d/" * 60 + "z" * 120, "__meta__/a", "README", "folder/", "x/../a", "n\nn")
SUFFIXES = ("jpg", "txt", "cls", "json", "tar.gz", "CLS")
members = st.lists(
    st.tuples(
        st.sampled_from(NAMES),
        st.lists(st.sampled_from(SUFFIXES), min_size=1, max_size=3, unique_by=str.lower),
        st.lists(st.sampled_from((0, 1, 511, 512, 513, 1024, 2000)), min_size=3, max_size=3),
        st.sampled_from(("", "folder", "link", "__meta__", "no field", "global")),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda drawn: drawn[0],
)
FORMATS = (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT)


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, comment: str = "") -> None:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, "a" * (kind == tarfile.SYMTYPE)
    info.pax_headers = {"comment": comment} if comment else {}
    tar.addfile(info, io.BytesIO(data))


def add_between(tar: tarfile.TarFile, kind: str) -> None:
    """What belongs to no sample and may stand between the members of one."""
    match kind:
        case "folder":
            add(tar, "some/folder", kind=tarfile.DIRTYPE)
        case "link":
            add(tar, "some/link.jpg", kind=tarfile.SYMTYPE)
        case "__meta__":
            add(tar, "__meta__/x.jpg", b"m" * 700)
        case "no field":
            add(tar, "LICENCE", b"l" * 513)
        case "global":
            block = tarfile.TarInfo.create_pax_global_header({"comment": "a global header"})
            assert tar.fileobj is not None
            tar.fileobj.write(block)
            tar.offset += len(block)


def write(path: Path, drawn: list[tuple[str, list[str], list[int], str]], form: int) -> None:
    with tarfile.open(path, "w", format=form) as tar:
        for name, suffixes, sizes, between in drawn:
            for i, suffix in enumerate(suffixes):
                add_between(tar, between)
                full = name if name.endswith(("/", "README")) else f"{name}.{suffix}"
                comment = "extended" if sizes[i] == 1 else ""  # only one of the forms has room for it
                try:
                    add(tar, full, bytes([i + 1]) * sizes[i], comment=comment)
                except ValueError:  # a name that this form has no room for
                    add(tar, f"short{len(name)}.{suffix}", b"s")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("places") / "the.tar"


@given(drawn=members, form=st.sampled_from(FORMATS))
@example(drawn=[("a", ["jpg", "cls"], [1, 1, 1], "__meta__"), ("b", ["jpg"], [1, 1, 1], "")], form=tarfile.PAX_FORMAT)
@example(drawn=[("a", ["jpg", "cls"], [513, 0, 0], "global")], form=tarfile.PAX_FORMAT)
def test_a_range_alone_gives_the_sample(
    scratch: Path, drawn: list[tuple[str, list[str], list[int], str]], form: int
) -> None:
    write(scratch, drawn, form)
    data, found = scratch.read_bytes(), list[Sample]()
    with suppress(ShardError), ShardStream(tar_at(scratch)) as stream:  # a key may come twice, or none at all
        found = list(stream)
    assume(found)
    end = 0
    for one in found:
        offset, size, checksum = one.place
        part = data[offset : offset + size]
        assert offset >= end
        assert len(part) == size > 0 == size % 512
        assert checksum == crc32c(part)
        assert sample_of(part, "it") == (one.key, one.fields)
        end = offset + size
    assert [(s.key, s.place) for s in found] == [(s.key, s.place) for s in index_shard(tar_at(scratch)).samples]


@given(name=st.one_of(st.text(max_size=12), st.text(alphabet="_./aB\n", max_size=12)))
@example("a\n")
@example("a.b\n")
@example("__a__")
def test_names_are_cut_as_webdataset_cuts_them(name: str) -> None:
    key, suffix = base_plus_ext(name)
    expected = None if key is None or is_meta(name) else (key, suffix.lower())
    assert key_and_suffix(name) == expected


def test_plain_members_are_read_without_tarfile(tmp_path: Path) -> None:
    """Or every sample would cost as much as the slow way, and nobody would see it."""
    path = write_tar(tmp_path / "x.tar", sample("a", 7))
    (found,) = index_shard(tar_at(path)).samples
    part = path.read_bytes()[found.place.offset_bytes :][: found.place.size_bytes]
    assert _plain_members(part) == [("a.png", picture("a")), ("a.txt", b"a"), ("a.cls", b"7")]


def test_the_place_begins_with_the_extended_header_and_ends_with_the_padding(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", [("a.jpg", b"1"), ("é.jpg", b"2" * 513), ("b.jpg", b"")], tarfile.PAX_FORMAT)
    places = [found.place for found in index_shard(tar_at(path)).samples]
    assert [(place.offset_bytes, place.size_bytes) for place in places] == [(0, 1024), (1024, 2560), (3584, 512)]


def test_what_lies_between_is_inside_and_what_follows_is_not(tmp_path: Path) -> None:
    names = ("a.jpg", "LICENCE", "a.cls", "__meta__/x", "README", "b.jpg")
    path = write_tar(tmp_path / "x.tar", [(name, b"1") for name in names])
    places = [found.place for found in index_shard(tar_at(path)).samples]
    assert [(place.offset_bytes, place.size_bytes) for place in places] == [(0, 3072), (5120, 1024)]
    data = path.read_bytes()
    assert [place.crc32c for place in places] == [crc32c(data[:3072]), crc32c(data[5120:6144])]


def test_no_more_is_kept_than_was_read_ahead() -> None:
    """A gigabyte between two samples, or inside one, is summed as it comes."""
    places = Places()
    places.member("a", 0, 1 << 30)
    for _ in range(64):
        places.take(bytes(1 << 16))
        assert len(places._waiting) == 0
    places.member(None, 1 << 22, 1 << 30)
    places.take(bytes(1 << 16))
    assert len(places._waiting) == 0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "holds 0 samples"),
        (bytes(1024), "holds 0 samples"),
        (b"x" * 1024, "is no sample of a tar"),
        (b"x" * 100, "is no sample of a tar"),
    ],
)
def test_what_is_no_sample_is_refused_in_one_line(data: bytes, reason: str) -> None:
    with pytest.raises(ShardError, match=rf"^sample 3 of x\.tar {reason}.*$"):
        sample_of(data, "sample 3 of x.tar")


def test_two_samples_in_a_range_are_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", [("a.jpg", b"1"), ("b.jpg", b"2")])
    with pytest.raises(ShardError, match="holds 2 samples; expected one"):
        sample_of(path.read_bytes()[:2048], "it")


def test_a_sample_that_spans_too_much_is_refused_as_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "x.tar", [("a.jpg", b"1"), ("LICENCE", b"l" * 4096), ("a.cls", b"1")])
    monkeypatch.setattr(reader, "MAX_SAMPLE_BYTES", 6656)
    assert len(index_shard(tar_at(path)).samples) == 1
    monkeypatch.setattr(reader, "MAX_SAMPLE_BYTES", 6655)
    with pytest.raises(
        ShardError, match=r"^sample 'a' of x\.tar spans 6656 bytes, expected up to 6655; pack it smaller"
    ):
        index_shard(tar_at(path))


@pytest.mark.parametrize("headers", [{"path": "b.jpg"}, {"size": "3"}, {"hdrcharset": "BINARY"}])
def test_a_global_header_that_renames_members_is_refused(tmp_path: Path, headers: dict[str, str]) -> None:
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT, pax_headers=headers) as tar:
        add(tar, "a.jpg", b"123")
    with pytest.raises(ShardError, match=r"shard x\.tar holds a global header that renames its members"):
        index_shard(tar_at(tmp_path / "x.tar"))
