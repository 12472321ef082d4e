"""``embedkd average`` and ``store info`` at the command line, and what precompute says comes next."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from embedkd.cli.stores import _flags
from embedkd.records import ELSEWHERE, DecodePolicy
from embedkd.storage import LocalStorage
from embedkd.store import create_store, open_store, seal_store
from tests.cli.conftest import Command
from tests.example_store import CLASSES, SHARDS

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def example(example_store: Path, tmp_path: Path) -> Path:
    """A store of three classes, all with training rows."""
    shutil.copytree(example_store / "store.zarr", tmp_path / "store.zarr")
    return tmp_path / "store.zarr"


@pytest.fixture
def gap(tmp_path: Path) -> Path:
    """The same, but the data names two classes more, which have no image."""
    from tests import example_store

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(example_store, "CLASSES", ("ant", "bee", "cat", "dog", "eel"))
        example_store.make_example(tmp_path / "gap.zarr")
    return tmp_path / "gap.zarr"


def test_medians_and_trimmed_means(embedkd: Command, example: Path) -> None:
    asked = ("average", example, "--per-class", 4, "--seed", 5, "--output", "logits")
    code, out, err = embedkd(*asked, "--method", "median")
    assert (code, out) == (0, "logits: class set median-n4-seed5, 3 of 3 classes, 12 rows\n"), err
    code, out, err = embedkd(*asked, "--method", "trimmed", "--trim", 0.25)
    assert (code, out) == (0, "logits: class set trimmed0.25-n4-seed5, 3 of 3 classes, 12 rows\n"), err
    store = open_store(example)
    for name, method, trim in (("median-n4-seed5", "median", None), ("trimmed0.25-n4-seed5", "trimmed", 0.25)):
        made = store.classes(name, output="logits")
        assert (made.method, made.trim, made.samples_per_class, made.seed) == (method, trim, 4, 5)
    assert embedkd(*asked, "--method", "median")[0] == 0, "again is nothing new"


def test_numbers_and_names_that_cannot_be(refused: Callable[..., str], example: Path) -> None:
    assert "--trim belongs to --method trimmed, the method is mean" in refused("average", example, "--trim", 0.2)
    for trim in (0, 0.5, -1):
        told = refused("average", example, "--method", "trimmed", "--trim", trim)
        assert "average.trim: expected above 0 and below 0.5" in told
    assert "average.method" in refused("average", example, "--method", "mode")
    assert "did you mean logits" in refused("average", example, "--output", "logit")


def test_empty_classes_are_named_and_nothing_is_written(
    embedkd: Command, refused: Callable[..., str], gap: Path
) -> None:
    """`--allow-empty` lets them through, as precompute's own set does."""
    before = sorted(gap.rglob("*"))
    told = refused("average", gap, "--per-class", 3, "--output", "cls")
    assert "2 of 5 classes have no training row of cls: dog, eel" in told
    assert "--allow-empty" in told
    assert sorted(gap.rglob("*")) == before
    code, out, err = embedkd("average", gap, "--per-class", 3, "--output", "cls", "--allow-empty")
    assert code == 0
    assert "class set n3-seed0 of cls: 2 of 5 classes have no training row and are NaN: dog, eel" in err
    assert "3 of 5 classes, 9 rows" in out
    made = open_store(gap).classes("n3-seed0", output="cls")
    assert made.count.tolist() == [3, 3, 3, 0, 0]
    assert np.isnan(made.mean[3:]).all()


def test_info_shows_what_there_is(embedkd: Command, example: Path) -> None:
    code, out, _ = embedkd("store", "info", example)
    assert code == 0
    view = open_store(example).teacher()
    for line in (
        r"^  data     data:clipart: 3 shards, 24 samples \(20 train, 4 val\)$",
        r"^  classes  3: ant, bee, cat$",
        r"^  store    format 1, 4 slots of up to 8 rows, not sealed$",
        rf"^  id     {view.teacher_id}$",
        r"^  cls +6  float16 +4/4 +23/24 ",
        r"^  class sets of cls: n100-seed0$",
    ):
        assert re.search(line, out, re.MULTILINE), (line, out)
    assert "not finished" not in out
    commit = next(example.glob("teachers/*/pass-*/commits/2.json"))
    commit.unlink()
    seal_store(LocalStorage(example))
    out = embedkd("store", "info", example)[1]
    assert "sealed once" in out
    assert re.search(r"^  cls +6  float16 +3/4 +15/24 ", out, re.MULTILINE)
    assert "not finished; next: embedkd precompute again" in out


def test_info_of_a_store_without_teachers(embedkd: Command, tmp_path: Path) -> None:
    create_store(LocalStorage(tmp_path / "s"), SHARDS, root="data:clipart", classes=CLASSES, policy=DecodePolicy())
    assert "no teacher's rows yet; next: embedkd precompute" in embedkd("store", "info", tmp_path / "s")[1]


def test_every_member_of_the_json_is_documented(embedkd: Command, example: Path) -> None:
    """In both directions: docs/stores.md names all of them and no others."""
    facts = json.loads(embedkd("store", "info", example, "--json")[1])
    (teacher,) = facts["teachers"]
    found = {*facts, *teacher, *teacher["outputs"][0], *teacher["outputs"][0]["error"]}
    assert teacher["views"] == []
    page = (DOCS / "stores.md").read_text().split("## What `info --json` says", 1)[1].split("\n## ", 1)[0]
    assert set(re.findall(r"^\| `(\w+)`", page, re.MULTILINE)) == found


@pytest.mark.parametrize(
    ("root", "data", "expected"),
    [
        ("../data", "shards", ""),
        ("data:clipart", "data:clipart", ""),
        (ELSEWHERE, "/data/train-{000000..000003}.tar", " --data '/data/train-{000000..000003}.tar'"),
        (ELSEWHERE, "s3://bucket/shards", " --data s3://bucket/shards"),
    ],
)
def test_what_comes_next_names_the_data_where_the_store_cannot(
    tmp_path: Path, root: str, data: str, expected: str
) -> None:
    create_store(LocalStorage(tmp_path / "s"), SHARDS, root=root, classes=CLASSES, policy=DecodePolicy())
    result: Any = SimpleNamespace(
        store=str(tmp_path / "s"), teachers=(SimpleNamespace(teacher_id="x", random_weights=False),)
    )
    assert _flags(result, data) == expected
