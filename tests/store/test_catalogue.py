"""Finding the newest catalogue of a sealed store where nothing can be listed."""

from pathlib import Path

import pytest

from embedkd.storage import LocalStorage
from embedkd.store.catalogue import Catalogue, catalogue_key, newest_catalogue
from embedkd.store.documents import seal


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 7, 8, 9, 30])
def test_the_newest_catalogue_is_found_in_few_questions(tmp_path: Path, count: int) -> None:
    storage = LocalStorage(tmp_path)
    for number in range(count):
        storage.put_new(catalogue_key(number), seal(Catalogue("id", number, 0, "0" * 64, {}).to_json()))
    asked: list[str] = []

    class Asked(LocalStorage):
        def exists(self, key: str) -> bool:
            asked.append(key)
            return super().exists(key)

    found = newest_catalogue(Asked(tmp_path), "id")
    assert (found.number if found else -1) == count - 1
    assert len(asked) <= 2 * (count + 1).bit_length()
