"""``embedkd demo``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedkd.cli.options import ConfigFile, Sets
from embedkd.cli.output import print_rows, say
from embedkd.cli.progress import watcher

if TYPE_CHECKING:
    from embedkd.demo import DemoStudent


def demo_command(
    out: Annotated[Path, typer.Option(help="Folder for everything; one that is there is gone on with.")] = Path(
        "embedkd-demo"
    ),
    config: ConfigFile = None,
    sets: Sets = None,
) -> None:
    """Run the whole pipeline on the embedded data set, end at a report."""
    from embedkd.config import load_config
    from embedkd.demo import demo_config, run_demo

    settings = load_config(config or demo_config(), sets=sets or [])
    result = run_demo(settings, out, watcher())
    say("")
    header = ("student", "test top-1", "95 % interval", "k-NN", "peak memory", "time")
    print_rows(header, [_row(student) for student in result.students])
    steps = ", ".join(f"{step} {taken:.0f} s" for step, taken in result.seconds.items())
    say(f"\n{sum(result.seconds.values()):.0f} s in all ({steps})")
    say(f"report: {result.report}")


def _row(student: "DemoStudent") -> tuple[str, ...]:
    top1, knn = student.metrics["top1"], student.metrics["knn"]
    return (
        student.name,
        f"{top1['value']:.1%}",
        f"{top1['low']:.1%} to {top1['high']:.1%}",
        f"{knn['value']:.1%}",
        f"{student.trained.memory['net_bytes'] / 2**20:.0f} MiB",
        f"{student.trained.elapsed_s:.0f} s",
    )
