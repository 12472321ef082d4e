"""The whole pipeline on the embedded data set: pack -> precompute -> average -> train -> evaluate -> report.

It begins with plain image files and a CSV, as a user's own data would. Every step is skipped where its result is there,
so a demo that was stopped goes on.
"""

import csv
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from importlib import resources
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from embedkd.errors import EmbedKDError
from embedkd.evaluation import evaluate_run
from embedkd.precompute import EMBEDDED_DATA, add_class_set, precompute
from embedkd.report import write_report
from embedkd.sources.fields import image_suffix, label
from embedkd.sources.index_json import INDEX_NAME
from embedkd.sources.pack import pack
from embedkd.sources.reader import ShardStream
from embedkd.sources.roots import ShardSource, open_root
from embedkd.sources.shards import list_data
from embedkd.storage import write_error
from embedkd.store import open_store
from embedkd.training import TrainResult, train

if TYPE_CHECKING:
    from collections.abc import Callable

    from embedkd.config import Config
    from embedkd.progress import Progress

P = ParamSpec("P")
R = TypeVar("R")
_ROWS_PER_SHARD = 256  # several shards, as a real data set has


@dataclass(frozen=True)
class DemoStudent:
    """One student of the comparison.

    Attributes:
        name: Of its run.
        trained: What training left.
        metrics: Name of a metric on the test split to its value and 95 % interval.
    """

    name: str
    trained: TrainResult
    metrics: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class DemoResult:
    """What the demo leaves.

    Attributes:
        students: What came of each, in order.
        report: The page.
        seconds: Wall time by step.
    """

    students: tuple[DemoStudent, ...]
    report: Path
    seconds: dict[str, float]


def run_demo(config: "Config", folder: Path, progress: "Progress") -> DemoResult:
    """Run the pipeline in a folder.

    Args:
        config: Its ``demo.runs`` are trained with one budget; names of places in it are replaced by ones in ``folder``.
        folder: Everything goes here.
        progress: Who watches.

    Raises:
        EmbedKDError: A step failed; run the demo again to go on.
    """
    seconds: dict[str, float] = {}
    started = time.perf_counter()

    def done(step: str) -> None:
        nonlocal started
        seconds[step] = time.perf_counter() - started
        started = time.perf_counter()

    shards, store = folder / "shards", folder / "store.zarr"
    if not (shards / INDEX_NAME).is_file():
        progress.line("pack: image files and a CSV -> shards")
        try:
            table = unpack_embedded(folder / "images")
        except OSError as error:
            raise write_error(folder, error) from error
        pack(table, shards, rows_per_shard=_ROWS_PER_SHARD)
    done("pack")
    config = replace(
        config,
        data=replace(config.data, shards=str(shards)),
        precompute=replace(config.precompute, out=str(store)),
        train=replace(config.train, targets=(str(store),)),
    )
    result = _in_own_process(precompute, config, progress)
    done("precompute")
    for entry in result.teachers:
        view = open_store(store).teacher(entry.teacher_id)
        for output in entry.outputs:
            add_class_set(view, output, config.average, progress)
    done("average")
    runs = {run.name: folder / "runs" / run.name for run in config.demo.runs}
    trained = {}
    for run in config.demo.runs:
        progress.line(f"train: {run.name}")
        settings = config.for_demo_run(run)
        settings = replace(settings, train=replace(settings.train, out=str(runs[run.name])))
        trained[run.name] = _in_own_process(train, settings, resume=runs[run.name].exists(), progress=progress)
    done("train")
    metrics = {name: evaluate_run(out, progress=progress)["metrics"] for name, out in runs.items()}
    done("evaluate")
    report = write_report(list(runs.values()), folder / "report.html")
    done("report")
    students = tuple(DemoStudent(name, trained[name], metrics[name]) for name in runs)
    return DemoResult(students, report, seconds)


def _in_own_process(step: "Callable[P, R]", *args: "P.args", **kwargs: "P.kwargs") -> "R":
    """Run one step in a fresh process, as its own command would: its memory is its own, and no teacher is about."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(step, *args, **kwargs).result()
        except BrokenProcessPool as error:
            raise EmbedKDError(
                "a step's process was killed; was there too little memory? run the demo again, it goes on"
            ) from error


def demo_config() -> Path:
    """The demo's settings: pipelines/clipart.toml of a checkout, or its copy in the wheel."""
    package = Path(str(resources.files("embedkd")))
    carried = package / "_data" / "clipart.toml"
    return carried if carried.is_file() else package.parent / "pipelines" / "clipart.toml"


def unpack_embedded(folder: Path) -> Path:
    """Write the embedded data set as image files and a CSV (path, label, caption, split).

    Returns:
        The CSV.
    """
    listing = list_data(EMBEDDED_DATA)
    classes, root = listing.classes or (), open_root(listing.root)
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "images.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "caption", "split"])
        for shard in listing.indexed:
            with ShardStream(ShardSource(root, shard.url)) as stream:
                for sample in stream:
                    suffix = image_suffix(sample.fields, sample.key)
                    assert suffix is not None
                    name = f"{sample.key.replace('/', '-')}.{suffix}"
                    (folder / name).write_bytes(sample.fields[suffix])
                    caption = sample.fields.get("txt", b"").decode()
                    rows.writerow([name, classes[label(sample.fields, sample.key)], caption, shard.split])
    return table
