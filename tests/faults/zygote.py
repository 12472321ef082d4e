"""A process that has imported everything, and forks one run of precompute for every line that it reads.

So a run starts within milliseconds, and a storm of kills takes seconds. The teachers are tiny ones; everything else is
what `embedkd precompute` runs. Nothing waits for the disk: a killed process loses nothing that the kernel has.

Lines in: {"start": {"data": ..., "out": ..., "teachers": [...], "die_at": ...}} -> its process id; {"wait": id} -> its
exit code, negative
for a signal. A child dies by SIGKILL before it gives its ``die_at``-th name to a folder or file; 0 lets it live.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import torch
import webdataset.tariterators  # noqa: F401 - imported here once, rather than in every child

import embedkd.teachers
from embedkd.config import Config, DataConfig, PrecomputeConfig
from embedkd.precompute import precompute
from embedkd.teachers import LoadOptions
from tests.tiny import TEXT_SPEC, TextTeacher, TinyTeacher


def run(data: str, out: str, teachers: list[str]) -> None:
    """One precompute, from the question what is there to the class means."""
    settings = PrecomputeConfig(
        teachers=tuple(teachers),
        out=out,
        outputs=("cls", "pooled", "image", "text")[: 2 * len(teachers)],
        batch_size=3,
        threads=1,
        decode_workers=0,
        device="cpu",
    )
    precompute(Config(data=DataConfig(shards=data), precompute=settings))


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


def start(arguments: dict[str, Any]) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        if death := arguments.pop("die_at"):
            die_at(death)
        run(**arguments)
        code = 0
    finally:
        sys.stderr.flush()
        if code:
            sys.excepthook(*sys.exc_info())
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
