"""What members of a sample mean."""

import pytest

from embedkd.errors import ShardError
from embedkd.sources.fields import NO_LABEL, image_suffix, label


@pytest.mark.parametrize(
    ("suffixes", "expected"),
    [
        (["cls", "jpg", "txt"], "jpg"),
        (["crop.jpeg"], "crop.jpeg"),
        (["tiff", "json"], "tiff"),
        (["cls", "txt"], None),
        (["jpg.txt"], None),
        (["notjpg", ""], None),
        ([], None),
    ],
)
def test_the_image_is_known_by_its_last_suffix(suffixes: list[str], expected: str | None) -> None:
    assert image_suffix(suffixes, "sample 'a' of x.tar") == expected


@pytest.mark.parametrize("suffixes", [["jpg", "png"], ["z.jpg", "cls", "w.jpg"]])
def test_two_images_in_one_sample_are_refused(suffixes: list[str]) -> None:
    with pytest.raises(ShardError, match=r"^sample 'a' of x\.tar holds 2 images \(.*\); expected one a sample: .*$"):
        image_suffix(suffixes, "sample 'a' of x.tar")


@pytest.mark.parametrize(("text", "expected"), [(b"0", 0), (b"12\n", 12), (b" 7 ", 7), (b"2147483647", 2**31 - 1)])
def test_labels_are_whole_numbers(text: bytes, expected: int) -> None:
    assert label({"cls": text, "txt": b"9"}, "here") == expected


def test_a_sample_without_label() -> None:
    assert label({"txt": b"9"}, "here") == NO_LABEL


@pytest.mark.parametrize(
    "text", [b"", b"cat", b"-1", b"1.0", b"2147483648", b"9" * 5000, "٣".encode(), b"\xff", b"1 2"]
)
def test_other_labels_are_refused_in_one_line(text: bytes) -> None:
    with pytest.raises(ShardError, match=r"^here: expected a class number in \.cls, got b.*$") as refused:
        label({"cls": text}, "here")
    assert len(str(refused.value)) < 100
