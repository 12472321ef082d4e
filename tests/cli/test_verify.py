"""``embedkd store verify`` as a person types it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

Command = Callable[..., tuple[int, str, str]]


def test_a_store_and_its_teacher_agree(embedkd: Command, store: Path) -> None:
    code, out, err = embedkd("store", "verify", store, "--live", 6)
    assert code == 0, err
    assert "packaged-efficientnet-lite0-" in out
    assert out.count("36") >= 2
    code, out, _ = embedkd("store", "verify", store, "--live", 3, "--seed", 1, "--json")
    assert code == 0
    (teacher,) = json.loads(out)["teachers"]
    assert {output["output"]: output["usable"] for output in teacher["outputs"]} == {"logits": 36, "pooled": 36}
    assert {check["output"]: (check["rows"], check["passed"]) for check in teacher["live"]} == {
        "logits": (3, True),
        "pooled": (3, True),
    }
    assert all(0.9999 <= check["cosine_min"] <= 1.0001 for check in teacher["live"])


def test_a_damaged_object_ends_with_an_error_that_names_it(embedkd: Command, store: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(store, tmp_path / "s.zarr"))
    chunk = next(copy.glob("teachers/*/pooled/c/1/0"))
    chunk.write_bytes(chunk.read_bytes()[:-1])
    code, out, err = embedkd("store", "verify", copy, "--live", 3)
    assert code == 1
    assert "pooled, slot 1: " in out  # its rows, and below its digest
    assert "live" not in out
    assert err.strip().splitlines()[-1].startswith(f"error: {copy} has 2 problems")


def test_an_unknown_teacher_is_refused_in_one_line(embedkd: Command, store: Path) -> None:
    arguments = ("store", "verify", store, "--live", 2, "--teacher", "packaged:efficientnet", "--of", "packaged")
    code, _, err = embedkd(*arguments)
    assert code == 1
    assert err.strip().splitlines()[-1].startswith("error: unknown teacher 'packaged:efficientnet'; did you mean")
