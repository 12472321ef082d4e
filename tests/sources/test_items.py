"""Folders and CSVs as sources of samples."""

from pathlib import Path

import pytest

from embedkd.errors import SourceError
from embedkd.sources.items import PackItem, read_csv, read_folder


def put(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def by_name(items: tuple[PackItem, ...]) -> dict[str, PackItem]:
    return {item.name: item for item in items}


class TestFolder:
    def test_one_folder_a_class(self, tmp_path: Path) -> None:
        source = read_folder(
            put(tmp_path, "dog/b.PNG", "cat/deep/er/a.jpg", "cat/notes.txt", "dog/.hidden.png", ".git/x.png")
        )
        assert source.classes == ("cat", "dog")
        assert source.ignored == 1
        items = by_name(source.items)
        assert {name: (i.label, i.suffix, i.split, i.caption) for name, i in items.items()} == {
            "cat/deep/er/a.jpg": (0, "jpg", None, None),
            "dog/b.PNG": (1, "png", None, None),
        }
        assert items["dog/b.PNG"].read() == b"dog/b.PNG"

    def test_split_folders_above_the_classes(self, tmp_path: Path) -> None:
        source = read_folder(put(tmp_path, "train/cat/1.jpg", "Validation/dog/1.jpg", "test/cat/2.jpg", "readme.md"))
        assert source.classes == ("cat", "dog")
        assert [(i.name, i.label, i.split) for i in source.items] == [
            ("Validation/dog/1.jpg", 1, "val"),
            ("test/cat/2.jpg", 0, "test"),
            ("train/cat/1.jpg", 0, "train"),
        ]

    def test_a_class_may_be_called_test(self, tmp_path: Path) -> None:
        assert read_folder(put(tmp_path, "test/1.jpg", "cat/1.jpg")).classes == ("cat", "test")

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            ((), "holds no images"),
            (("cat/readme.txt",), "holds no images"),
            (("stray.jpg", "cat/1.jpg"), "stray.jpg lies in no class folder"),
            (("train/1.jpg",), "1.jpg lies in no class folder"),
            (("train/cat/1.jpg", "extra/1.jpg"), "'train' beside 'extra'"),
        ],
    )
    def test_other_layouts_are_refused(self, tmp_path: Path, names: tuple[str, ...], message: str) -> None:
        with pytest.raises(SourceError, match=message):
            read_folder(put(tmp_path, *names))

    def test_links_may_not_leave_the_folder(self, tmp_path: Path) -> None:
        root = put(tmp_path / "root", "cat/1.jpg")
        secret = put(tmp_path, "secret.jpg") / "secret.jpg"
        (root / "cat" / "inside.jpg").symlink_to(root / "cat" / "1.jpg")
        assert len(read_folder(root).items) == 2
        (root / "cat" / "2.jpg").symlink_to(secret)
        with pytest.raises(SourceError, match=r"2\.jpg leads out of"):
            read_folder(root)

    def test_links_to_folders_are_refused(self, tmp_path: Path) -> None:
        (put(tmp_path, "cat/1.jpg") / "cat" / "loop").symlink_to(tmp_path)
        with pytest.raises(SourceError, match="link to a folder"):
            read_folder(tmp_path)

    def test_a_name_outside_utf8_is_refused(self, tmp_path: Path) -> None:
        folder = put(tmp_path, "cat/1.jpg")
        try:
            (folder / "cat" / "\udcff.jpg").write_bytes(b"")
        except OSError:  # this file system refuses such names itself
            assert len(read_folder(folder).items) == 1
        else:
            with pytest.raises(SourceError, match="not UTF-8"):
                read_folder(folder)

    def test_a_file_that_vanished_is_named(self, tmp_path: Path) -> None:
        source = read_folder(put(tmp_path, "cat/1.jpg"))
        (tmp_path / "cat" / "1.jpg").unlink()
        with pytest.raises(SourceError, match=r"cannot read .*1\.jpg"):
            source.items[0].read()

    def test_a_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match="cannot list"):
            read_folder(tmp_path / "none")


def table(root: Path, text: str, name: str = "list.csv") -> Path:
    path = put(root, "a/1.jpg", "a/2.png", "b/3.webp") / name
    path.write_text(text, encoding="utf-8")
    return path


class TestCsv:
    def test_all_columns(self, tmp_path: Path) -> None:
        text = (
            '\ufeffPath, Label ,caption,split,extra\na/1.jpg,dog,"a dog, barking",train,9\nb/3.webp,cat,,validation,\n'
        )
        source = read_csv(table(tmp_path, text))
        assert source.classes == ("cat", "dog")
        assert [(i.name, i.suffix, i.label, i.caption, i.split) for i in source.items] == [
            ("a/1.jpg", "jpg", 1, "a dog, barking", "train"),
            ("b/3.webp", "webp", 0, None, "val"),
        ]
        assert source.items[0].read() == b"a/1.jpg"

    def test_numbers_sort_as_numbers(self, tmp_path: Path) -> None:
        source = read_csv(table(tmp_path, "path,label\na/1.jpg,10\na/2.png,2\nb/3.webp,0\n"))
        assert source.classes == ("0", "2", "10")
        assert [item.label for item in source.items] == [2, 1, 0]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "columns none; expected path and label"),
            ("path,lable\na/1.jpg,x\n", "columns path, lable; expected path and label"),
            ("path,label\n", "holds no rows"),
            ("path,label\na/1.jpg,\n", "line 2 has no path or no label"),
            ("path,label\na/1.jpg\n", "line 2 has no path or no label"),
            ("path,label\na/1.jpg,x\na/9.jpg,x\n", "line 3: there is no file"),
            ("path,label\na/1.jpg,x\n./a/1.jpg,y\n", r"line 3 lists a/1\.jpg a second time"),
            ("path,label\n../secret.jpg,x\n", r"line 2: '\.\./secret\.jpg' leads out of"),
            ("path,label\n/etc/passwd.jpg,x\n", "line 2: '/etc/passwd.jpg' leads out of"),
            ("path,label\na/1.txt,x\n", r"line 2: a/1\.txt is no image by its name"),
            ("path,label,split\na/1.jpg,x,dev\n", "expected train, val, test or nothing as split, got 'dev'"),
            ('path,label\n"a/1.jpg,x\n', "cannot read .* as UTF-8 CSV"),
        ],
    )
    def test_bad_tables_are_refused(self, tmp_path: Path, text: str, message: str) -> None:
        with pytest.raises(SourceError, match=message):
            read_csv(table(tmp_path, text))

    def test_bytes_that_are_no_utf8(self, tmp_path: Path) -> None:
        path = table(tmp_path, "")
        path.write_bytes(b"path,label\n\xff\xfe,x\n")
        with pytest.raises(SourceError, match="as UTF-8 CSV"):
            read_csv(path)

    def test_a_link_out_of_the_folder(self, tmp_path: Path) -> None:
        put(tmp_path, "secret.jpg")
        path = table(tmp_path / "in", "path,label\na/link.jpg,x\n")
        (tmp_path / "in" / "a" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
        with pytest.raises(SourceError, match="leads out of"):
            read_csv(path)
