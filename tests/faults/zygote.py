"""A process that has imported everything, and forks one command for every line that it reads.

So a run starts within milliseconds, and a storm of kills takes seconds. The teachers are tiny ones; everything else is
what ``embedkd precompute`` runs. Nothing waits for the disk: a killed process loses nothing that the kernel has. No
remote storage is used here, since that would not survive the fork: each child opens its own.

Lines in: {"start": {"arguments": [...], "environment": {...}, "die_at": ..., "errors": ...}} -> its process id;
{"wait": id} -> its exit code, negative for a signal. A child dies by SIGKILL before it gives its ``die_at``-th name to
a folder or file of a local disk; 0 lets it live. What it prints is lost, but for its standard error, which goes to a
file if one is named.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch
import webdataset.tariterators  # noqa: F401 - like others below: imported here once, rather than in every child

import embedkd.storage.buckets  # noqa: F401
import embedkd.teachers
from embedkd.cli import main as command_line
from embedkd.precompute import precompute  # noqa: F401
from embedkd.teachers import LoadOptions
from tests.tiny import TEXT_SPEC, TextTeacher, TinyTeacher


def die_at(count: int) -> None:
    """Arrange the death: names are given by `os.mkdir` and `os.link` alone, so between them nothing visible happens."""
    left = iter(range(count - 1, -1, -1))

    def counted(function: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any, **options: Any) -> None:
            if next(left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            function(*arguments, **options)

        return call

    os.mkdir = counted(os.mkdir)
    os.link = counted(os.link)


def run(arguments: list[str]) -> int:
    """One command; its exit code."""
    sys.argv = ["embedkd", *arguments]
    try:
        command_line()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    return 0


def start(request: dict[str, Any]) -> int:
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if request["errors"]:
            os.dup2(os.open(request["errors"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), sys.stderr.fileno())
        os.environ.update(request["environment"])
        if request["die_at"]:
            die_at(request["die_at"])
        code = run(request["arguments"])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def answer(request: dict[str, Any]) -> int:
    if "start" in request:
        return start(request["start"])
    return os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])


def load_tiny(name: str, options: LoadOptions | None = None) -> TinyTeacher:
    return TextTeacher() if name == TEXT_SPEC.name else TinyTeacher()


def main() -> None:
    os.fsync = lambda handle: None  # type: ignore[assignment]
    embedkd.teachers.load_teacher = load_tiny
    torch.set_num_threads(1)
    for line in sys.stdin:
        sys.stdout.write(f"{answer(json.loads(line))}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
