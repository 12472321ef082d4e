"""Run folders of strangers: a report is made of what they say, or refused in a line."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedkd.errors import EmbedKDError, TrainingError
from embedkd.report import write_report
from embedkd.rundir import MAX_DOCUMENT_BYTES, RunDir, read_json
from embedkd.store import open_store
from embedkd.training.data import _count_classes
from tests.report.conftest import LOSSES, RESULT, write_metrics
from tests.strangers.forge import Files, Memory, content_of, resealed, sealed_keys
from tests.strangers.mutations import changes
from tests.strangers.readers import check_message

FILES = ("config.json", "environment.json", "result.json", "student.json", "evaluation.json")
ESTIMATE = {"value": 0.5, "low": 0.4, "high": 0.6}


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a finished run wrote, as values."""
    folder = RunDir(tmp_path_factory.mktemp("run"))
    write_metrics(folder, LOSSES, 2, 1.0, validate=True)
    return {
        "config.json": {
            "train": {"targets": "nowhere.zarr", "teacher": None, "out": "run", "epochs": 2},
            "student": {"name": "vit-tiny", "image_px": 32},
            "losses": LOSSES,
            "data": {"shards": None},
        },
        "environment.json": {"python": "3.11", "packages": {"torch": "2"}},
        "result.json": {**asdict(RESULT), "epochs": 2},
        "student.json": {"format": 1, "parameters": 10, "weights_blake2b": "w", "class_names": ["a", "b"]},
        "evaluation.json": {
            "format": 1,
            "weights_blake2b": "w",
            "data": "nowhere.zarr",
            "split": "test",
            "rows": 200,
            "bank_rows": 100,
            "left_out": {},
            "device": "cpu",
            "metrics": {"top1": ESTIMATE, "knn": ESTIMATE, "nll": ESTIMATE},
            "notes": ["nothing"],
            "details": {
                "reliability": {
                    "low": [0.0, 0.5],
                    "high": [0.5, 1.0],
                    "rows": [3, 4],
                    "hits": [1, 4],
                    "confidence": [0.4, 0.9],
                },
                "classes": {"rows": [3, 4], "hits": [1, 4], "answers": [1, 6]},
                "confusions": {"label": [0], "answer": [1], "rows": [2], "left_out": 0},
            },
        },
        "metrics": [json.loads(line) for line in folder.metrics.read_text().splitlines()],
    }


def write_run(documents: dict[str, Any], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (folder / name).write_text(json.dumps(documents[name]))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in documents["metrics"]))
    return folder


def test_the_run_itself_is_reported(documents: dict[str, Any], tmp_path: Path) -> None:
    page = write_report([write_run(documents, tmp_path / "run")], tmp_path / "page.html").read_text()
    assert "45.0" in page or "50.0" in page


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_change_of_a_run_gives_a_page_or_one_line(
    data: st.DataObject, documents: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    changed = json.loads(json.dumps(documents))
    name = data.draw(st.sampled_from([*FILES, "metrics", "metrics"]))
    data.draw(changes(changed[name], {}))
    folder = tmp_path_factory.mktemp("changed")
    try:
        page = write_report([write_run(changed, folder / "run")], folder / "page.html").read_text()
    except EmbedKDError as error:
        check_message(error)
    else:
        assert "<script" not in page
        assert "\x1b" not in page


def deep(path: Path) -> None:
    path.write_bytes(b'{"a":' * 50_000 + b"1" + b"}" * 50_000)


def rather_deep(path: Path) -> None:
    path.write_bytes(b'{"a":' * 500 + b"1" + b"}" * 500)


def long(path: Path) -> None:
    path.write_bytes(b'{"a":"' + b"x" * MAX_DOCUMENT_BYTES + b'"}')


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def broken(path: Path) -> None:
    path.write_bytes(b"\xff\xfe{")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("put", [deep, rather_deep, long, sparse, broken, pipe, endless])
@pytest.mark.parametrize("name", ["config.json", "result.json"])
def test_documents_that_no_run_writes(
    documents: dict[str, Any], tmp_path: Path, name: str, put: Callable[[Path], None]
) -> None:
    folder = write_run(documents, tmp_path / "run")
    (folder / name).unlink()
    put(folder / name)
    with pytest.raises(TrainingError) as caught:
        read_json(folder / name)
    check_message(caught.value)
    with pytest.raises(EmbedKDError):
        write_report([folder], tmp_path / "page.html")


ODD_LINES = [b"[]", b"1", b"{}", b'{"kind":5}', b'{"kind":"train"}', b"x" * 70_000, b'{"kind":"train","step":1e999}']


@pytest.mark.parametrize("line", ODD_LINES, ids=range(len(ODD_LINES)))
def test_metrics_that_no_run_writes(documents: dict[str, Any], tmp_path: Path, line: bytes) -> None:
    folder = write_run(documents, tmp_path / "run")
    (folder / "metrics.jsonl").write_bytes(line + b"\n")
    with pytest.raises(TrainingError) as caught:
        write_report([folder], tmp_path / "page.html")
    check_message(caught.value)


@pytest.mark.parametrize(("label", "classes"), [(2**20 - 1, 2**20), (2**20, None), (2**31 - 1, None)])
def test_a_label_of_a_stranger_makes_no_student_of_any_size(sound: Files, label: int, classes: int | None) -> None:
    """Without names of classes the largest label that a commit tells of decides how wide a student is."""
    files = {key: data for key, data in sound.items() if "sealed/" not in key}
    contents = {key: content_of(files[key]) for key in sealed_keys(files)}
    for content in contents.values():
        content |= {"classes": None} if "slots" in content else {}
        content |= {"max_label": label} if "max_label" in content else {}
    view = open_store(Memory(resealed(files, contents))).teacher()
    if classes is not None:
        assert _count_classes(view, "cls") == classes
        return
    with pytest.raises(TrainingError, match="labels up to"):
        _count_classes(view, "cls")
