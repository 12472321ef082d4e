"""The way from a store to its data, and back."""

import os
from pathlib import Path

import pytest

from embedkd.errors import StorageError
from embedkd.storage.places import is_remote, place_from, relative_place


@pytest.mark.parametrize(
    ("place", "base", "way"),
    [
        ("s3://b/data/shards", "s3://b/stores/a.zarr", "../../data/shards"),
        ("s3://b", "s3://b/a.zarr", ".."),
        ("s3://b/a.zarr/data", "s3://b/a.zarr/", "data"),
        ("s3://b/x", "s3://b", "x"),
        ("https://h:1/x/y", "https://h:1/x/z", "../y"),
        ("s3://b/x", "s3://c/x", None),
        ("gs://b/x", "s3://b/x", None),
        ("/data", "s3://b/x", None),
        ("s3://b/x", "/data", None),
    ],
)
def test_between_urls(place: str, base: str, way: str | None) -> None:
    assert relative_place(place, base) == way
    if way is not None:
        assert place_from(base, way) == place


def test_between_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "link").mkdir(parents=True)
    store, data = tmp_path / "a" / "s.zarr", tmp_path / "data"
    assert relative_place(str(data), str(store)) == "../../data"
    assert relative_place("data", "a/s.zarr") == "../../data"
    assert relative_place(data.as_uri(), str(store)) == "../../data"
    assert place_from("a/s.zarr", "../../data") == str(data)
    assert place_from(store.as_uri(), "../../data") == str(data)
    assert os.path.realpath(store / "../../data") == str(data)


@pytest.mark.parametrize(
    ("base", "way"), [("s3://b", ".."), ("s3://b/a", "../../x"), ("s3://b/a", "y/../../../z"), ("http://b/a", "../..")]
)
def test_no_way_leads_out_of_a_bucket(base: str, way: str) -> None:
    with pytest.raises(StorageError, match=r"leads out of \w+://b; name the place itself"):
        place_from(base, way)


def test_what_is_remote() -> None:
    assert is_remote("s3://b")
    assert is_remote("https://h/x")
    assert not any(is_remote(place) for place in ("a", "/a", "file:///a", "data:clipart"))
