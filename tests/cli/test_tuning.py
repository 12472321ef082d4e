"""``embedkd head`` and ``finetune`` as a person types them, on the embedded teacher."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def copy(store: Path, tmp_path: Path) -> Path:
    """A store of one's own, beside nothing; its shards are not needed."""
    return Path(shutil.copytree(store, tmp_path / "store.zarr"))


def test_head_says_what_it_measured_and_what_is_next(embedkd: Command, copy: Path) -> None:
    code, out, err = embedkd("head", copy, "--output", "pooled", "--folds", 3, "--device", "cpu")
    assert code == 0, err
    first, second = out.splitlines()
    assert first.startswith("packaged:efficientnet-lite0+linear: logits of 3 classes, top-1 train (out of fold)")
    assert "test" in first
    assert ", l2 " in first
    assert second == f"next: embedkd train --targets {copy} --recipe embedkd-head"
    assert "has the lowest cross-entropy on the validation split" in err
    code, out, _ = embedkd("store", "info", copy)
    assert "logits" in out
    assert "packaged-efficientnet-lite0-linear-" in out


def test_head_as_json_twice(embedkd: Command, copy: Path) -> None:
    asked = ("head", copy, "--l2", "0.1", "--name", "mine", "--folds", 2, "--device", "cpu", "--json")
    code, out, _ = embedkd(*asked)
    assert code == 0
    first = json.loads(out)
    assert (first["head"], first["kind"], first["l2"], first["classes"]) == ("mine", "linear", 0.1, 3)
    assert first["test_top1"] > 0.5
    assert json.loads(embedkd(*asked)[1]) == first


def test_head_refuses_what_it_cannot_do(refused: Callable[..., str], copy: Path, tmp_path: Path) -> None:
    assert "no common space of pooled and text" in refused("head", copy, "--kind", "zero-shot")
    assert "head.folds: expected from 2 to 64, got 1" in refused("head", copy, "--folds", 1)
    assert "did you mean pooled" in refused("head", copy, "--output", "poled")
    assert "is no embedding store" in refused("head", tmp_path / "nothing.zarr")
    assert "head's name" in refused("head", copy, "--name", "../up", "--l2", "1")


def test_finetune_refuses_before_it_loads_anything(refused: Callable[..., str], shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    assert "name them with --data" in refused("finetune", "--out", out)
    assert "unknown teacher 'efficientnet-lite1'" in refused("finetune", "--teacher", "efficientnet-lite1")
    assert "finetune.lr: expected above 0" in refused("finetune", "--lr", "0")
    assert "precision" in refused("finetune", "--precision", "float8", "--data", shards)
    out.mkdir()
    assert "is there already" in refused("finetune", "--out", out, "--data", shards)


def test_finetune_gives_a_teacher_for_precompute(embedkd: Command, shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    options = ("--epochs", 1, "--warmup-epochs", 1, "--last-blocks", 0, "--batch-size", 16, "--device", "cpu")
    code, said, err = embedkd(
        "finetune", "--teacher", "packaged:efficientnet-lite0", "--data", shards, "--out", out, *options
    )
    assert code == 0, err
    first, second = said.splitlines()
    assert first.startswith(f"{out}: packaged:efficientnet-lite0 tuned to 3 classes, top-1 validation")
    assert second == f"next: embedkd precompute --teacher {out} --data {shards}"
    store = tmp_path / "tuned.zarr"
    code, said, err = embedkd("precompute", "--teacher", out, "--data", shards, "--out", store, "--outputs", "logits")
    assert code == 0, err
    facts = json.loads(embedkd("store", "info", store, "--json")[1])
    (teacher,) = facts["teachers"]
    assert [(output["name"], output["dim"]) for output in teacher["outputs"]] == [("logits", 3)]


def test_train_learns_from_the_logits(embedkd: Command, copy: Path, shards: Path, tmp_path: Path) -> None:
    result = json.loads(embedkd("head", copy, "--l2", "0.1", "--folds", 2, "--device", "cpu", "--json")[1])
    run = ("train", "--targets", copy, "--data", shards, "--epochs", 1, "--batch-size", 8, "--out")
    losses = ("--loss", "cross_entropy=0.5", "--loss", "mse=0.5", "--allow-view-mismatch")
    code, out, err = embedkd(*run, tmp_path / "of-head", *losses, "--teacher", result["derived_id"], "--json")
    assert code == 0, err
    assert json.loads(out)["teacher"] == result["derived"]
    code, out, err = embedkd(*run, tmp_path / "of-base", *losses, "--json")
    assert code == 0, err
    assert result["derived"].startswith(json.loads(out)["teacher"]), "a head does not get into its teacher's way"
    assert result["derived"] != json.loads(out)["teacher"]
