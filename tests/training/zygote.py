"""A process that has imported everything that training needs, and forks one process for every line that it reads.

So a rank starts within milliseconds, and can be killed as often as a test likes. Lines in, as JSON: {"start": [name of
a role below, its arguments], "environment": {...}, "errors": file for its standard error} -> process id;
{"wait": id, "limit_s": ...} -> its exit code, negative for a signal, or null where it still ran and had to be killed.
"""

import hashlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import embedkd.training.stage  # like others: imported here once, rather than in every child
from embedkd.cli import main as command_line
from embedkd.config import Config, load_config
from embedkd.errors import JoinError
from embedkd.join import JoinedShards
from embedkd.training.distributed import Ranks, joined
from embedkd.training.plan import Plan
from embedkd.training.recorder import Recorder
from embedkd.training.state import Learner


def trains(arguments: list[str], faults: dict[str, Any]) -> None:
    """``embedkd train`` with what befalls it: {"after_step": n, "rank": r, "signal": s}, or {"batch": n, "rank": r}."""
    if faults.get("rank", 0) == int(os.environ.get("RANK", "0")):
        _befall(faults)
    sys.argv = ["embedkd", "train", *arguments]
    command_line()


def learns(sets: list[str], steps: int, out: str) -> None:
    """Some steps of a learner; what it holds then goes to ``out`` and the rank, digests by name."""
    ranks = Ranks.from_environment()
    with joined(ranks):
        plan = Plan.of(_config(sets), ranks)
        learner, card = plan.build()
        learner.student.train()
        batches = plan.division.by_step(plan.training_batches(card, 0), 0)
        keys = []
        for _ in range(steps):
            step = next(batches)
            keys.append(learner.keys(step))
            learner.gradients(*step)
            learner.update()
        state = {**learner.student.state_dict(), **learner.objective.state_dict()}
        digests = {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in state.items()}
        Path(f"{out}.{ranks.rank}").write_text(json.dumps({"state": digests, "keys": keys}))


def dies_at_effect(sets: list[str], count: int) -> None:
    """A run that dies by SIGKILL before its ``count``-th effect on files; 0 lets it live."""
    left = iter(range(count - 1, -1, -1))

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if next(left, -1) == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for home, name in ((os, "write"), (os, "fsync"), (Path, "replace")):
        setattr(home, name, counted(getattr(home, name)))
    embedkd.training.stage.train(_config(sets), resume=True)


def _config(sets: list[str]) -> Config:
    return load_config(values={"recipe": "clip-embed-kd"}, sets=sets)


def learns_online(sets: list[str]) -> None:
    """A run with a tiny teacher in the loop, whatever its name."""
    import embedkd.teachers
    from embedkd.online import train_online
    from tests.tiny import TinyTeacher

    embedkd.teachers.load_teacher = lambda *_: TinyTeacher()
    train_online(load_config(sets=sets))


def _befall(faults: dict[str, Any]) -> None:
    update, batch, best = Learner.update, JoinedShards.batch, Recorder.best

    def updated(self: Learner) -> None:
        update(self)
        if self.position.step == faults.get("after_step"):
            os.kill(os.getpid(), faults["signal"])

    def read(self: JoinedShards, epoch: int, step: int) -> Any:
        if epoch * self.steps_per_epoch + step == faults.get("batch"):
            raise JoinError("these do not belong together")
        return batch(self, epoch, step)

    def kept(self: Recorder, learner: Learner) -> None:
        time.sleep(faults.get("slow_best_s", 0))
        best(self, learner)

    faulty = ((Recorder, "best", kept), (Learner, "update", updated), (JoinedShards, "batch", read))
    for owner, name, function in faulty:
        setattr(owner, name, function)


ROLES: dict[str, Callable[..., None]] = {
    "trains": trains,
    "learns": learns,
    "learns_online": learns_online,
    "dies_at_effect": dies_at_effect,
}


def start(request: dict[str, Any]) -> int:
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        os.dup2(os.open(request["errors"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), sys.stderr.fileno())
        os.environ.update(request["environment"])
        name, arguments = request["start"]
        ROLES[name](*arguments)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(child: int, limit_s: float) -> int | None:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def main() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        request = json.loads(line)
        answer = start(request) if "start" in request else wait(request["wait"], request["limit_s"])
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
