import json
import platform
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from embedkd.config import Config
from embedkd.errors import ConfigError, Interrupted, TrainingError, UnknownNameError
from embedkd.rundir import RunDir, read_json, write_json
from embedkd.training import train
from embedkd.training.logs import LOGS, open_logs, require_logs
from embedkd.training.logs.logger import Background, Guarded, scalars
from embedkd.training.logs.tensorboard import _varint
from tests.watch import Watch

Curves = dict[str, list[tuple[int, float]]]


def record(step: int, loss: float = 0.5, kind: str = "train") -> dict[str, Any]:
    if kind == "validation":
        facts: dict[str, Any] = {"top1": loss, "rows": 9, "best": True}
    else:
        facts = {"loss": loss, "terms": {"mse": 2 * loss}, "lr": 0.1}
    return {"kind": kind, "step": step, "epoch": 1, **facts, "elapsed_s": step / 10}


def curves(folder: Path) -> Curves:
    """What TensorBoard itself reads."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found: Curves = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, float(value.tensor.float_val[0])))
    return found


def accumulated(folder: Path) -> Curves:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    made = EventAccumulator(str(folder))
    made.Reload()
    return {tag: [(event.step, event.value) for event in made.Scalars(tag)] for tag in made.Tags()["scalars"]}


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


def write(run: RunDir, names: list[str], records: list[dict[str, Any]], keep_bytes: int = 0, say: Any = print) -> int:
    with open_logs(run, names, {"a": {"b": 1}}, keep_bytes=keep_bytes, elapsed_s=0.0, say=say) as logs:
        for line in records:
            logs.append(line)
        return logs.sync()


def test_tensorboard_reads_what_was_written(run: RunDir) -> None:
    values = [0.1 * step for step in range(1, 200)]
    write(run, ["tensorboard"], [record(step, value) for step, value in enumerate(values, 1)])
    found = curves(run.path)
    assert [step for step, _ in found["train/loss"]] == list(range(1, 200))
    assert [value for _, value in found["train/loss"]] == pytest.approx(values, rel=1e-6)
    assert found["train/terms/mse"][198][1] == pytest.approx(39.8)
    assert accumulated(run.path) == found
    assert set(found) == {"train/epoch", "train/loss", "train/terms/mse", "train/lr"}


def test_wall_times_go_on_where_an_earlier_part_ended(run: RunDir) -> None:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    with open_logs(run, ["tensorboard"], {}, keep_bytes=0, elapsed_s=100.0, say=print) as logs:
        logs.append({**record(7), "elapsed_s": 101.0})
    (path,) = run.path.glob("events.*")
    times = [event.wall_time for event in EventFileLoader(str(path)).Load() if event.step == 7]
    assert times == [pytest.approx(time.time() + 1, abs=5)]


def test_a_resumed_run_shows_no_step_twice(run: RunDir) -> None:
    kept = write(run, ["tensorboard"], [record(1), record(2)])
    with run.metrics.open("ab") as file:
        file.write(json.dumps(record(3, 9.0)).encode() + b"\n")  # after the checkpoint
    write(run, ["tensorboard"], [record(3, 0.25), record(4)], keep_bytes=kept)
    assert [step for step, _ in curves(run.path)["train/loss"]] == [1, 2, 3, 4]
    assert curves(run.path)["train/loss"][2] == (3, 0.25)
    (path,) = run.path.glob("events.out.tfevents.*")
    assert path.name == "events.out.tfevents.0000000001.embedkd"


def test_every_byte_is_there_while_the_run_goes_on(run: RunDir) -> None:
    with open_logs(run, ["tensorboard"], {}, keep_bytes=0, elapsed_s=0.0, say=print) as logs:
        for step in (1, 2, 3):
            logs.append(record(step))
            assert len(curves(run.path)["train/loss"]) == step


@pytest.mark.parametrize(
    ("value", "encoded"), [(0, b"\x00"), (127, b"\x7f"), (128, b"\x80\x01"), (300, b"\xac\x02"), (2**40, None)]
)
def test_varints(value: int, encoded: bytes | None) -> None:
    found = _varint(value)
    assert encoded in {found, None}
    assert sum((byte & 0x7F) << 7 * at for at, byte in enumerate(found)) == value


def test_the_numbers_of_a_record() -> None:
    assert scalars(record(3, 0.5, "validation")) == {"validation/epoch": 1.0, "validation/top1": 0.5}


class Broken:
    identity: str | None = None

    def __init__(self, at: int, error: Exception) -> None:
        self.taken: list[int] = []
        self._at, self._error = at, error

    def extend(self, records: Any) -> None:
        for entry in records:
            if entry["step"] == self._at:
                raise self._error
            self.taken.append(entry["step"])

    def close(self, outcome: str) -> None:
        self.taken.append(-1)


def test_a_logger_that_fails_costs_one_line() -> None:
    broken, lines = Broken(2, RuntimeError("no \x1b[31mroute to host\nTraceback ...")), list[str]()
    guarded = Guarded("wandb", broken, lines.append)
    for step in range(1, 5):
        guarded.extend([record(step)])
    guarded.close("finished")
    assert broken.taken == [1]
    assert len(lines) == 1
    assert "--log wandb failed and is left out from here on (no \\x1b[31mroute to host)" in lines[0]


def test_a_slow_logger_holds_up_nobody_and_gets_all_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, lines = threading.Event(), list[str]()

    class Slow(Broken):
        def extend(self, records: Any) -> None:
            gate.wait()
            super().extend(records)

    slow = Slow(-1, RuntimeError())
    background = Background(Guarded("mlflow", slow, lines.append), lines.append)
    for step in range(1, 1000):
        background.extend([record(step)])
    assert slow.taken == []
    gate.set()
    background.close("finished")
    assert slow.taken == [*range(1, 1000), -1]
    gate.clear()
    monkeypatch.setattr("embedkd.training.logs.logger._CLOSE_S", 0.01)
    stuck = Background(Guarded("mlflow", slow, lines.append), lines.append)
    stuck.extend([record(1)])
    stuck.close("finished")
    assert lines == ["warning: a logger took more than 0 s to finish and is left behind"]
    gate.set()


def test_a_full_disk_does_not_end_the_run(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    with open_logs(run, ["tensorboard"], {}, keep_bytes=0, elapsed_s=0.0, say=lines.append) as logs:
        logs.append(record(1))
        monkeypatch.setattr("embedkd.training.logs.tensorboard.write_all", full)
        logs.append(record(2))
        logs.append(record(3))
    assert [line["step"] for line in run.read_metrics()] == [1, 2, 3]
    assert lines == [
        "warning: --log tensorboard failed and is left out from here on ([Errno 28] No space left on device); "
        "metrics.jsonl has every line"
    ]


def full(*arguments: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_logger_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch, config_of: Any) -> None:
    monkeypatch.setattr("embedkd.training.logs.opening.find_spec", lambda name: None)
    require_logs(["tensorboard"])
    with pytest.raises(
        ConfigError, match=r"expected the package wandb for --log wandb.*pip install 'embedkd\[wandb\]'"
    ):
        train(config_of("train.logs=wandb"))
    with pytest.raises(UnknownNameError, match="did you mean tensorboard"):
        require_logs(["tensorbord"])


def test_loggers_are_not_imported_unless_they_are_asked_for() -> None:
    code = "import sys, embedkd.training.logs; print(sorted({'wandb', 'mlflow', 'tensorboard'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Both services without any server, and a key that must not be found in a file."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    return tmp_path


def wandb_records(folder: Path) -> list[Any]:
    """All that wandb kept: frames of a LevelDB log, in order of the files' names, which begin with their time."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = []
    for path in sorted(folder.rglob("*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        data, at, parts = path.read_bytes(), 7, b""
        while at + 7 <= len(data):
            if (left := 32768 - at % 32768) < 7:
                at += left
                continue
            _, length, kind = struct.unpack_from("<IHB", data, at)
            parts += data[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in {1, 4}:
                found.append(Record.FromString(parts))
                parts = b""
    return found


def wandb_steps(folder: Path) -> list[tuple[int, dict[str, float]]]:
    rows = [entry.history for entry in wandb_records(folder) if entry.WhichOneof("record_type") == "history"]
    return [
        (row.step.num, {key: json.loads(item.value_json) for item in row.item if "/" in (key := item.nested_key[0])})
        for row in rows
    ]


def interrupted_twice(run: RunDir, name: str) -> None:
    """Steps 1 to 8; after 5 back to 2, and after 4 back to 2 again, as by kills behind a checkpoint."""
    kept = write(run, [name], [record(1), record(2)])
    for steps in ([3, 4, 5], [3, 4], [3, 4, 5, 6, 7]):
        write(run, [name], [record(step, 1 / step) for step in steps], keep_bytes=kept)
    whole = run.metrics.stat().st_size
    write(run, [name], [record(7, 0.75, "validation"), record(8, 1 / 8)], keep_bytes=whole)


def test_wandb_gets_every_step_once(offline: Path, run: RunDir) -> None:
    import wandb

    interrupted_twice(run, "wandb")
    wandb.teardown()  # ends its service process, which may still be writing, as the end of this process would
    rows = wandb_steps(run.path)
    assert [step for step, _ in rows if step != 7] == [1, 2, 3, 4, 5, 6, 8]
    assert rows[2] == (3, {"train/loss": 1 / 3, "train/terms/mse": 2 / 3, "train/lr": 0.1, "train/epoch": 1})
    assert [values["validation/top1"] for step, values in rows if "validation/top1" in values] == [0.75]
    runs = [entry.run for entry in wandb_records(run.path) if entry.WhichOneof("record_type") == "run"]
    assert {made.run_id for made in runs} == {read_json(run.logs)["wandb"]["identity"]}
    assert {made.host for made in runs} == {""}
    assert [(entry.key, entry.value_json) for entry in runs[0].config.update if entry.key == "a.b"] == [("a.b", "1")]
    host = platform.node().encode()  # as a string of a record or of JSON: two letters alone may be in any bytes
    private = [b"0123456789" * 4, str(Path(sys.executable)).encode(), bytes([len(host)]) + host, b'"%b"' % host]
    for path in run.path.rglob("*.wandb"):
        assert not any(text in path.read_bytes() for text in private)
    assert not any(private[0] in path.read_bytes() for path in offline.rglob("*") if path.is_file())


def test_mlflow_gets_every_step_once(offline: Path, run: RunDir) -> None:
    from mlflow.tracking import MlflowClient

    with pytest.raises(Interrupted), open_logs(run, ["mlflow"], {}, keep_bytes=0, elapsed_s=0, say=print):
        raise Interrupted("stopped")
    client, identity = MlflowClient(), read_json(run.logs)["mlflow"]["identity"]
    assert client.get_run(identity).info.status == "KILLED"
    run.logs.unlink()
    interrupted_twice(run, "mlflow")
    identity = read_json(run.logs)["mlflow"]["identity"]
    history = client.get_metric_history(identity, "train/terms/mse")
    assert [(point.step, point.value) for point in history[2:]] == [(step, 2 / step) for step in range(3, 9)]
    assert [point.step for point in client.get_metric_history(identity, "validation/top1")] == [7]
    made = client.get_run(identity)
    assert (made.info.status, made.info.run_name, made.data.params) == ("FINISHED", "run", {"a.b": "1"})


def test_a_logger_that_joins_late_gets_the_history(offline: Path, run: RunDir) -> None:
    from mlflow.tracking import MlflowClient

    kept = write(run, [], [record(step) for step in range(1, 400)])
    assert not run.logs.exists()
    write(run, ["mlflow"], [record(400)], keep_bytes=kept)
    write(run, [], [record(401)], keep_bytes=kept)
    write(run, ["mlflow"], [record(402)], keep_bytes=run.metrics.stat().st_size)
    history = MlflowClient().get_metric_history(read_json(run.logs)["mlflow"]["identity"], "train/loss")
    assert [point.step for point in history] == list(range(1, 403)), "that which it missed in between too"


def test_a_service_that_was_away_gets_no_step_twice(
    offline: Path, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    write(run, ["mlflow"], [record(1)])
    kept = run.metrics.stat().st_size
    write(run, ["mlflow"], [record(2), record(3)], keep_bytes=kept)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "update_run", refused)
        with pytest.raises(TrainingError, match="--log mlflow cannot begin: no key"):
            write(run, ["tensorboard", "mlflow"], [], keep_bytes=kept)
    write(run, ["mlflow"], [record(2), record(3), record(4)], keep_bytes=kept)
    history = MlflowClient().get_metric_history(read_json(run.logs)["mlflow"]["identity"], "train/loss")
    assert [point.step for point in history] == [1, 2, 3, 4]


def test_a_run_goes_on_without_the_history_that_it_cannot_read(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    kept = write(run, ["tensorboard"], [record(1)])
    monkeypatch.setattr("embedkd.rundir.MAX_METRICS_LINES", 0)
    write(run, ["tensorboard"], [record(2)], keep_bytes=kept, say=lines.append)
    assert [step for step, _ in curves(run.path)["train/loss"]] == [2]
    assert [line.partition(" (")[0] for line in lines] == ["warning: loggers get no lines of the earlier part"]
    write_json(run.logs, {"other": {"identity": "a", "last": {"train": 1}, "active": True}})
    write(run, ["tensorboard"], [record(3)], keep_bytes=kept, say=lines.append)
    assert read_json(run.logs)["other"] == {"identity": "a", "last": {"train": 1}, "active": False}


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_service_that_cannot_begin_is_an_error_before_the_first_step(
    name: str, offline: Path, config_of: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"embedkd.training.logs.{name}.{LOGS[name].kind}.__init__", refused)
    config = config_of(f"train.logs={name}")
    with pytest.raises(TrainingError, match=f"--log {name} cannot begin: no key"):
        train(config)
    assert not RunDir(Path(config.train.out)).config.exists(), "so that the same command can be given again"


def refused(*arguments: object, **more: object) -> None:
    raise RuntimeError("no key\nmore")


@pytest.mark.parametrize("text", ['{"wandb": {"identity": 3}}', '{"wandb": 1}', '{"wandb": {"id": "a"}}'])
def test_a_file_that_no_run_wrote_is_refused(run: RunDir, text: str) -> None:
    run.path.mkdir()
    run.logs.write_text(text)
    with pytest.raises(TrainingError, match="is not what a run writes; remove it"):
        write(run, ["tensorboard"], [])


def test_a_stopped_run_has_the_curves_of_one_that_was_not(config_of: Callable[..., Config]) -> None:
    whole, parted = config_of(out="whole"), config_of(out="parted")
    train(whole)
    with pytest.raises(Interrupted):
        train(parted, progress=Watch(5))
    train(parted, resume=True)
    expected = curves(Path(whole.train.out))
    assert curves(Path(parted.train.out)) == expected
    assert [step for step, _ in expected["train/loss"]] == list(range(1, 10))
    assert [step for step, _ in expected["validation/top1"]] == [3, 6, 9]
    assert [step for step, _ in expected["test/top1"]] == [9]
    assert not RunDir(Path(whole.train.out)).logs.exists()
