import errno
import json
from pathlib import Path

import pytest

from embedkd.config import load_config
from embedkd.errors import CheckpointError, StorageError, TrainingError
from embedkd.rundir import MetricsLog, RunDir, environment, read_json, write_json


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "runs" / "a")


def test_a_new_folder_is_claimed_for_a_config(run: RunDir) -> None:
    config = load_config(sets=["train.epochs=3"])
    run.check(config, resume=False)
    assert not run.path.exists(), "a check touches nothing"
    run.claim(config)
    assert run.read_config() == config
    assert read_json(run.environment)["packages"]["torch"]
    assert run.read_result() is None
    assert run.read_metrics() == []


def test_resume_of_nothing_begins(run: RunDir) -> None:
    run.check(load_config(), resume=True)


def test_a_folder_with_a_run_is_not_begun_again(run: RunDir) -> None:
    run.claim(load_config())
    with pytest.raises(TrainingError, match=r"already holds a run; add --resume .* or name another folder with --out"):
        run.check(load_config(), resume=False)
    run.check(load_config(), resume=True)


def test_another_config_does_not_go_on(run: RunDir) -> None:
    run.claim(load_config(sets=["losses.cosine=1"]))
    with pytest.raises(CheckpointError) as caught:
        run.check(load_config(sets=["optimiser.lr=2e-3"]), resume=True)
    first, second = str(caught.value).split("\n")
    assert "losses.cosine was 1.0, is unset; optimiser.lr was 0.001, is 0.002" in first
    assert "undo the change" in second


def test_many_changes_are_counted(run: RunDir) -> None:
    run.claim(load_config())
    changes = [f"train.{key}=9" for key in ("epochs", "global_batch_size", "seed", "validate_every_epochs")]
    with pytest.raises(CheckpointError, match="; 2 more\n"):
        run.check(load_config(sets=[*changes, "augment.flip=0", "student.drop_path=0.5"]), resume=True)


def test_going_on_keeps_the_first_environment_and_the_last_config(run: RunDir) -> None:
    run.claim(load_config())
    write_json(run.environment, {"python": "first"})
    run.claim(load_config(sets=["train.workers=1"]))
    assert read_json(run.environment) == {"python": "first"}
    assert run.read_config().train.workers == 1


def test_metrics_are_there_as_soon_as_they_are_appended(run: RunDir) -> None:
    run.claim(load_config())
    with MetricsLog(run.metrics) as log:
        log.append({"kind": "train", "step": 1, "loss": 0.5})
        log.append({"kind": "validation", "step": 1, "top1": 0.25})
        assert [r["kind"] for r in run.read_metrics()] == ["train", "validation"]
        assert log.sync() == run.metrics.stat().st_size
    assert run.read_metrics("validation") == [{"kind": "validation", "step": 1, "top1": 0.25}]


def test_metrics_are_cut_back_to_the_checkpoint(run: RunDir) -> None:
    run.claim(load_config())
    with MetricsLog(run.metrics) as log:
        log.append({"kind": "train", "step": 1})
        kept = log.sync()
        log.append({"kind": "train", "step": 2})
    with run.metrics.open("ab") as file:
        file.write(b'{"kind": "train", "st')  # a torn line
    assert [r["step"] for r in run.read_metrics()] == [1, 2], "a torn line is left out"
    with MetricsLog(run.metrics, keep_bytes=kept) as log:
        log.append({"kind": "train", "step": 2})
    assert [r["step"] for r in run.read_metrics()] == [1, 2]
    with MetricsLog(run.metrics):
        pass
    assert run.read_metrics() == [], "without a checkpoint nothing stays"


def test_metrics_shorter_than_the_checkpoint_says_are_refused(run: RunDir) -> None:
    run.claim(load_config())
    with pytest.raises(CheckpointError, match="has 0 bytes, the checkpoint was written after 7"):
        MetricsLog(run.metrics, keep_bytes=7)


def test_a_metric_that_json_cannot_say_is_refused(run: RunDir) -> None:
    run.claim(load_config())
    with MetricsLog(run.metrics) as log, pytest.raises(ValueError, match="not JSON compliant"):
        log.append({"kind": "train", "loss": float("nan")})
    assert run.metrics.read_bytes() == b""


def test_a_full_disk_is_one_line(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run.claim(load_config())
    monkeypatch.setattr("embedkd.rundir.write_all", full)
    with MetricsLog(run.metrics) as log, pytest.raises(StorageError, match=r"no space left to write .*metrics\.jsonl"):
        log.append({"kind": "train"})


def test_json_files_are_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("inf")})
    assert read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("text", "message"), [("{", "cannot be read"), ("[1]", "expected a JSON object, got list")])
def test_a_broken_json_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(TrainingError, match=message):
        read_json(path)


def test_a_folder_without_a_run_is_named(run: RunDir) -> None:
    with pytest.raises(TrainingError, match=r"expected a run folder with config.json, .*runs/a has none"):
        run.read_config()


def test_the_environment_names_versions_and_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedkd.rundir._PACKAGES", ("torch", "no-such-package"))
    found = environment()
    assert set(found["packages"]) == {"torch"}
    assert set(found) == {"python", "platform", "machine", "cpus", "packages"}
    json.dumps(found, allow_nan=False)
