import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from embedkd.config import Config
from embedkd.errors import (
    CheckpointError,
    Interrupted,
)
from embedkd.rundir import RunDir, write_json
from embedkd.training import stage, train
from embedkd.training.checkpoint import read_checkpoint
from embedkd.training.distributed import Ranks
from embedkd.training.state import Position
from tests.training.conftest import EVERY_LOSS, traces
from tests.watch import Watch

ConfigOf = Callable[..., Config]
STEPS = 9


@pytest.fixture(scope="module")
def undisturbed(config_in: ConfigOf, tmp_path_factory: pytest.TempPathFactory) -> object:
    config = config_in(tmp_path_factory.mktemp("undisturbed"), EVERY_LOSS, "train.allow_view_mismatch=true")
    torch.set_num_threads(1)  # before the fixture that does it for each test
    train(config)
    return traces(config)


@pytest.mark.parametrize("step", range(1, STEPS + 1))
@pytest.mark.parametrize("number", [signal.SIGTERM])
def test_a_run_stopped_after_any_step_ends_as_if_it_was_not(
    config_of: ConfigOf, undisturbed: object, step: int, number: signal.Signals
) -> None:
    config = config_of(EVERY_LOSS, "train.allow_view_mismatch=true")
    with pytest.raises(Interrupted, match=f"stopped after step {step} of {STEPS}"):
        train(config, progress=Watch(step, number))
    watch = Watch()
    train(config, resume=True, progress=watch)
    assert watch.steps == STEPS - step
    assert traces(config) == undisturbed


def test_a_run_stopped_many_times_ends_as_if_it_was_not(config_of: ConfigOf, undisturbed: object) -> None:
    config = config_of(EVERY_LOSS, "train.allow_view_mismatch=true")
    for _ in range(4):
        with pytest.raises(Interrupted):
            train(config, resume=True, progress=Watch(2, signal.SIGINT))
    train(config, resume=True)
    assert traces(config) == undisturbed


KILLED = """
import importlib.abc, json, os, signal, sys

class Ban(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"open_clip", "transformers"} or name.startswith("embedkd.teachers"):
            raise ImportError(f"{name} must not be imported")

sys.meta_path.insert(0, Ban())
import torch
from embedkd.config import Config, load_config
from embedkd.progress import Silent
from embedkd.training import train

class Killer(Silent):
    steps = 0
    def advance(self, count, note=""):
        self.steps += count
        if self.steps == 8:
            os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(1)
train(Config.from_dict(json.loads(sys.argv[1])), progress=Killer())
"""


def test_a_killed_run_ends_as_if_it_was_not_and_never_needed_a_teacher(
    config_of: ConfigOf, undisturbed: object
) -> None:
    config = config_of(EVERY_LOSS, "train.allow_view_mismatch=true", "train.checkpoint_every_steps=2")
    command = [sys.executable, "-c", KILLED, json.dumps(config.to_dict())]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    run = RunDir(Path(config.train.out))
    assert len(run.read_metrics("train")) == 8
    assert read_checkpoint(run.checkpoint).position.step == 6
    train(config, resume=True)
    assert traces(config) == undisturbed


def test_a_run_killed_before_its_first_checkpoint_begins_again(config_of: ConfigOf) -> None:
    config, other = config_of(), config_of(out="other")
    train(other)
    run = RunDir(Path(config.train.out))
    run.claim(config)
    run.metrics.write_text('{"kind": "train", "step": 1}\n{"kind":')
    train(config, resume=True)
    assert traces(config) == traces(other)


def test_a_run_killed_before_its_result_only_writes_that(config_of: ConfigOf) -> None:
    config = config_of()
    train(config)
    before = traces(config)
    RunDir(Path(config.train.out)).result.unlink()
    watch = Watch()
    train(config, resume=True, progress=watch)
    assert watch.steps == 0
    assert traces(config) == before


def test_resume_of_nothing_begins(config_of: ConfigOf) -> None:
    assert train(config_of("train.epochs=1"), resume=True).steps == 3


def test_another_config_does_not_go_on(config_of: ConfigOf) -> None:
    train(config_of("train.epochs=1"))
    with pytest.raises(CheckpointError, match=r"train.epochs was 1, is 2"):
        train(config_of("train.epochs=2"), resume=True)


def test_losses_in_another_order_do_not_go_on(config_of: ConfigOf) -> None:
    for names, resume in ((("mse", "cosine"), False), (("cosine", "mse"), True)):
        losses = ", ".join(f"{name}=1" for name in names)
        config = config_of(f"losses={{{losses}}}", "train.allow_view_mismatch=true")
        expected, match = (CheckpointError, "order of losses was mse, cosine") if resume else (Interrupted, "stopped")
        with pytest.raises(expected, match=match):
            train(config, resume=resume, progress=Watch(2))


def test_a_moving_average_goes_on_as_if_it_was_not_stopped(config_of: ConfigOf) -> None:
    whole, stopped = (config_of("train.ema_decay=0.8", "train.epochs=2", out=out) for out in ("whole", "stopped"))
    train(whole)
    with pytest.raises(Interrupted):
        train(stopped, progress=Watch(4))
    train(stopped, resume=True)
    assert traces(stopped) == traces(whole)


@pytest.mark.parametrize("changes", [["optimiser.name=sgd", "optimiser.schedule=step"], ["optimiser.name=lamb"]])
def test_a_run_of_another_optimiser_goes_on_as_if_it_was_not_stopped(config_of: ConfigOf, changes: list[str]) -> None:
    changes = [*changes, "train.epochs=2", "optimiser.decay_epochs=0.5", "optimiser.lr=0.01"]
    whole, stopped = config_of(*changes, out="whole"), config_of(*changes, out="stopped")
    train(whole)
    with pytest.raises(Interrupted):
        train(stopped, progress=Watch(4))
    train(stopped, resume=True)
    assert traces(stopped) == traces(whole)


def test_a_damaged_checkpoint_is_named(config_of: ConfigOf) -> None:
    config = config_of()
    with pytest.raises(Interrupted):
        train(config, progress=Watch(4))
    run = RunDir(Path(config.train.out))
    run.checkpoint.write_bytes(run.checkpoint.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"checkpoint.pt cannot be read"):
        train(config, resume=True)


def test_a_checkpoint_of_another_student_is_named(config_of: ConfigOf) -> None:
    config = config_of()
    with pytest.raises(Interrupted):
        train(config, progress=Watch(4))
    changed = config_of("student.dropout=0.5", "student.patch_px=2")
    run = RunDir(Path(config.train.out))
    write_json(run.config, changed.to_dict())
    with pytest.raises(CheckpointError, match="the checkpoint belongs to another student or other losses"):
        train(changed, resume=True)


def test_ranks_that_found_other_checkpoints_do_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ranks, "listed", lambda ranks, value: [value, 0])
    with pytest.raises(CheckpointError, match="they found those of steps 3, 0; put the run folder where all machines"):
        stage._agree(Ranks(0, 2), Position(step=3))
