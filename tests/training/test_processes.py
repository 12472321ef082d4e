"""Training in processes of its own: several ranks, and kills at every turn.

A zygote (a few seconds to start) forks every process that is needed here.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch._C._distributed_c10d import TCPStore

from embedkd.config import Config
from embedkd.rundir import RunDir, read_json
from embedkd.training.checkpoint import read_checkpoint

ConfigOf = Callable[..., Config]
LIMIT_S = 120.0
# 22 samples in batches of 7: the last has one, so that of two ranks one has none.
BATCH_LOSSES = (
    "losses={cross_entropy=0.5, class_contrastive=0.5, sample_contrastive=0.3, mse=1, relational_distance=0.5, "
    "relational_angle=0.5, relational_similarity=0.5, relational_probability=0.5, scaled_kl=0.2}",
    "train.global_batch_size=7",
    "train.allow_view_mismatch=true",
    "student.drop_path=0",
)


class Zygote:
    """Forks processes, alone or as the ranks of one run."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.training.zygote"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, role: str, *arguments: Any, ranks: int = 1, errors: Path) -> list[int | None]:
        """Exit codes of all ranks; None for one that did not end by itself."""
        # As torchrun does it, the store in which ranks meet outlives them.
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port, "TORCHELASTIC_USE_AGENT_STORE": True}
        children = []
        for rank in range(ranks):
            told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
            environment = {name: str(value) for name, value in {**meeting, **told}.items()} if ranks > 1 else {}
            children.append(self._ask(start=[role, arguments], environment=environment, errors=str(errors)))
        return [self._ask(wait=child, limit_s=LIMIT_S) for child in children]

    def _ask(self, **request: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    made = Zygote()
    yield made
    made.close()


@pytest.fixture
def errors(tmp_path: Path) -> Path:
    return tmp_path / "errors.txt"


def sets_of(data: Path, out: Path, *sets: str) -> list[str]:
    return [
        f"train.targets={data / 'store.zarr'}",
        f"train.out={out}",
        *("train.epochs=2", "train.global_batch_size=8", "train.workers=0", "train.device=cpu"),
        *("student.image_px=8", "student.patch_px=4", "student.drop_path=0.2", "augment.flip=0.5"),
        *sets,
    ]


def flags(sets: Sequence[str], *more: str) -> list[str]:
    return [*(part for one in sets for part in ("--set", one)), *more]


def metrics_of(out: Path, kind: str) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k != "elapsed_s"} for line in RunDir(out).read_metrics(kind)]


def told(errors: Path) -> list[str]:
    """The lines of all ranks that are no notes or progress."""
    notes = ("note: ", "train vit-tiny: ")
    return [line for line in errors.read_text().splitlines() if not line.startswith(notes) and "(allowed)" not in line]


def test_two_ranks_learn_what_one_does(data: Path, tmp_path: Path, zygote: Zygote, errors: Path) -> None:
    made = {ranks: tmp_path / str(ranks) for ranks in (1, 2)}
    for ranks, out in made.items():
        arguments = flags(sets_of(data, out, *BATCH_LOSSES))
        assert zygote.run("trains", arguments, {}, ranks=ranks, errors=errors) == [0] * ranks, errors.read_text()
    assert told(errors) == []
    one, two = (metrics_of(out, "train") for out in made.values())
    assert len(one) == len(two) == 8
    for before, after in zip(one, two, strict=True):
        assert after["terms"] == pytest.approx(before["terms"], rel=1e-3, abs=1e-5)
        assert after["loss"] == pytest.approx(before["loss"], rel=1e-3)
        assert after["grad_norm"] == pytest.approx(before["grad_norm"], rel=1e-3)
    assert metrics_of(made[1], "validation") == metrics_of(made[2], "validation")
    for name in ("student.safetensors", "student-projections.safetensors"):
        torch.testing.assert_close(load_file(made[2] / name), load_file(made[1] / name), rtol=1e-2, atol=2e-4)
    results = [read_json(RunDir(out).result) for out in made.values()]
    assert [result["test_rows"] for result in results] == [9, 9]


def test_all_ranks_hold_the_same(data: Path, tmp_path: Path, zygote: Zygote, errors: Path) -> None:
    out = tmp_path / "state"
    sets = sets_of(data, tmp_path / "run", *BATCH_LOSSES)
    assert zygote.run("learns", sets, 4, str(out), ranks=3, errors=errors) == [0, 0, 0], errors.read_text()
    first, *others = (json.loads(Path(f"{out}.{rank}").read_text()) for rank in range(3))
    assert {name.split(".")[1] for name in first["state"] if name.startswith("losses")} == {
        *("class_contrastive", "sample_contrastive", "mse", "scaled_kl")
    }
    assert others == [first] * 2
    assert sorted(key for keys in first["keys"] for key in keys) == [f"train-{n:03d}" for n in range(22)]


def test_statistics_of_batch_norms_are_the_same_on_all_ranks(
    data: Path, tmp_path: Path, zygote: Zygote, errors: Path
) -> None:
    out = tmp_path / "state"
    # Besides, no loss reads the head, which then has no gradient to average.
    student = ("student.name=timm:test_resnet", "student.image_px=32", "student.drop_path=0")
    sets = sets_of(data, tmp_path / "run", *student, "losses={mse=1}", "train.allow_view_mismatch=true")
    sets = [one for one in sets if "patch_px" not in one]
    assert zygote.run("learns", sets, 2, str(out), ranks=2, errors=errors) == [0, 0], errors.read_text()
    first, second = (json.loads(Path(f"{out}.{rank}").read_text()) for rank in range(2))
    assert any(name.endswith("running_var") for name in first["state"])
    assert first == second


def test_all_ranks_test_the_student_that_the_first_kept(
    data: Path, tmp_path: Path, zygote: Zygote, errors: Path
) -> None:
    arguments = flags(sets_of(data, tmp_path / "run", "train.epochs=1"))
    assert zygote.run("trains", arguments, {"slow_best_s": 1}, ranks=2, errors=errors) == [0, 0], errors.read_text()
    assert read_json(RunDir(tmp_path / "run").result)["test_rows"] == 9


def test_a_rank_that_fails_ends_all_with_one_message(data: Path, tmp_path: Path, zygote: Zygote, errors: Path) -> None:
    arguments = flags(sets_of(data, tmp_path / "run"))
    for rank in (1, 0):
        errors.unlink(missing_ok=True)
        codes = zygote.run("trains", arguments, {"batch": 4, "rank": rank}, ranks=2, errors=errors)
        assert codes == [1, 1], errors.read_text()
        assert told(errors) == ["error: these do not belong together"]
        arguments = flags(sets_of(data, tmp_path / "run"), "--resume")


def test_what_all_ranks_refuse_is_said_once(data: Path, tmp_path: Path, zygote: Zygote, errors: Path) -> None:
    arguments = flags(sets_of(data, tmp_path / "run", "losses.mes=1"))
    assert zygote.run("trains", arguments, {}, ranks=2, errors=errors) == [1, 1]
    assert len(told(errors)) == 1
    assert "did you mean mse" in told(errors)[0]


def test_a_rank_that_is_killed_ends_all(data: Path, tmp_path: Path, zygote: Zygote, errors: Path) -> None:
    arguments = flags(sets_of(data, tmp_path / "run"))
    faults = {"after_step": 4, "rank": 1, "signal": signal.SIGKILL}
    codes = zygote.run("trains", arguments, faults, ranks=2, errors=errors)
    assert codes == [1, -signal.SIGKILL], errors.read_text()
    assert told(errors) == [
        "error: another process of this run died; was there too little memory? add --resume to go on"
    ]
    assert zygote.run("trains", [*arguments, "--resume"], {}, ranks=2, errors=errors) == [0, 0], errors.read_text()


def test_a_wish_of_one_rank_stops_all_and_another_number_of_ranks_goes_on(
    data: Path, tmp_path: Path, zygote: Zygote, errors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(tmp_path / "run")
    arguments = flags(sets_of(data, run.path, *BATCH_LOSSES))
    faults = {"after_step": 3, "rank": 1, "signal": signal.SIGTERM}
    assert zygote.run("trains", arguments, faults, ranks=2, errors=errors) == [1, 1], errors.read_text()
    assert told(errors) == ["stopped after step 3 of 8; add --resume to the same command to go on"]
    assert read_checkpoint(run.checkpoint).position.step == 3
    assert zygote.run("trains", [*arguments, "--resume"], {}, ranks=1, errors=errors) == [0], errors.read_text()
    undisturbed = tmp_path / "undisturbed"
    assert zygote.run("trains", flags(sets_of(data, undisturbed, *BATCH_LOSSES)), {}, errors=errors) == [0]
    one, two = metrics_of(undisturbed, "train"), metrics_of(run.path, "train")
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], rel=1e-3)


def test_a_loss_that_is_not_finite_names_the_samples_of_all_ranks(
    data: Path, tmp_path: Path, zygote: Zygote, errors: Path
) -> None:
    run = RunDir(tmp_path / "run")
    arguments = flags(sets_of(data, run.path, "optimiser.lr=1e30"))
    assert zygote.run("trains", arguments, {}, ranks=2, errors=errors) == [1, 1]
    assert len(told(errors)) == 2
    assert "expected finite losses" in told(errors)[0]
    assert len(read_json(run.failed_batch)["keys"]) == 8


def test_torchrun_starts_it_and_a_pre_empted_node_keeps_its_last_step(data: Path, tmp_path: Path) -> None:
    run, said = RunDir(tmp_path / "run"), tmp_path / "said.txt"
    arguments = flags(sets_of(data, run.path, "train.epochs=10000", "train.log_every_steps=1"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    with said.open("w") as file:
        agent = subprocess.Popen([*command, "-m", "embedkd", "train", *arguments], stdout=file, stderr=file)
        try:
            while agent.poll() is None and len(run.read_metrics("train")) < 2:
                time.sleep(0.1)
            agent.terminate()
            code = agent.wait(LIMIT_S)
        finally:
            agent.kill()
    stopped = [line for line in said.read_text().splitlines() if line.startswith("stopped after step ")]
    assert (code != 0, len(stopped)) == (True, 1), said.read_text()
    assert read_checkpoint(run.checkpoint).position.step == int(stopped[0].split()[3])
    assert len(run.read_metrics("train")) == int(stopped[0].split()[3])


@pytest.mark.parametrize("effect", [1, 16, 23, 31, 38, 52])
def test_a_run_killed_between_any_two_writes_ends_as_if_it_was_not(
    data: Path, tmp_path: Path, zygote: Zygote, errors: Path, whole: Path, effect: int
) -> None:
    out = tmp_path / "run"
    sets = sets_of(data, out, *KILLED)
    assert zygote.run("dies_at_effect", sets, effect, errors=errors) == [-signal.SIGKILL], errors.read_text()
    assert zygote.run("dies_at_effect", sets, 0, errors=errors) == [0], errors.read_text()
    assert left_by(out) == left_by(whole)


KILLED = ("train.checkpoint_every_steps=1", "train.ema_decay=0.9", "losses={cross_entropy=1, class_contrastive=1}")


@pytest.fixture(scope="module")
def whole(data: Path, zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, undisturbed."""
    folder = tmp_path_factory.mktemp("whole")
    assert zygote.run("dies_at_effect", sets_of(data, folder / "run", *KILLED), 0, errors=folder / "errors") == [0]
    return folder / "run"


def left_by(out: Path) -> tuple[object, ...]:
    """All that a run leaves, but for times and memory."""
    run = RunDir(out)
    result = {k: v for k, v in (run.read_result() or {}).items() if k not in {"elapsed_s", "memory"}}
    weights = [(out / name).read_bytes() for name in ("student.safetensors", "student-projections.safetensors")]
    return weights, metrics_of(out, "train"), metrics_of(out, "validation"), read_json(run.student), result
