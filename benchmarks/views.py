"""What stored views cost: time beside plain passes, and bytes a sample and view.

    python -m benchmarks.views [--data SHARDS] [--views V] [--rounds N] [--json FILE]

Time: `embedkd precompute` of the packaged ImageNet teacher, from the first image to the last commit, with V views in
one run, beside as many plain runs as there are rows a sample (V + 1); their starts would come on top. Seconds are those
of the processor, in all threads, so other work on the machine hardly counts. Bytes: rows of a view in each encoding,
their status, and what a commit and a sealed index add, a sample.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.measure import finish, interleaved, summary
from embedkd.config import Config, DataConfig, PrecomputeConfig
from embedkd.precompute import precompute
from embedkd.progress import Silent
from embedkd.storage import LocalStorage
from embedkd.store import EmbeddingStore, Pass, PassWriter, SlotRows, TeacherView, create_store, open_store, seal_store

TEACHER = "packaged:efficientnet-lite0"
OUTPUTS = ("pooled", "logits")
ENCODINGS = {
    "pooled": ("float32", "float16", "int8"),
    "logits": ("float16", "int8", "top100", "top50", "top10", "top5"),
}


class Clock(Silent):
    """Seconds of the processor between the first image and the last commit."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._task = ""

    def begin(self, task: str, total: int, unit: str) -> None:
        """Start the clock where the pass begins."""
        self._task = task
        if task == "precompute":
            self.seconds -= time.process_time()

    def end(self) -> None:
        """Stop it where the pass ends."""
        if self._task == "precompute":
            self.seconds += time.process_time()
        self._task = ""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data:clipart")
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        stores: dict[int, Path] = {}

        def run(views: int) -> float:
            stores[views] = folder / f"{len(list(folder.iterdir()))}-{views}"
            return seconds(options.data, stores[views], views)

        run(0)  # libraries are imported and shards are in the file cache from here on
        found = interleaved({"plain": lambda: run(0), "views": lambda: run(options.views)}, options.rounds)
        ratios = [v / ((options.views + 1) * p) for p, v in zip(found["plain"], found["views"], strict=True)]
        rows = sum(slot.rows for slot in open_store(stores[0]).slots)
        print(f"\n{rows:,} images, {options.views} views beside the plain rows")
        for name, values in (*found.items(), (f"views / {options.views + 1} x plain", ratios)):
            print(f"  {name:<20} {'  '.join(f'{key} {value:.3g}' for key, value in summary(values).items())}")
        sizes = bytes_of(open_store(stores[options.views]), folder / "bytes")
    finish("views", {"seconds": found, "ratio": ratios, "bytes": sizes}, options.json)


def seconds(data: str, out: Path, views: int) -> float:
    """Of a run, without its start."""
    settings = PrecomputeConfig(
        teachers=(TEACHER,),
        out=str(out),
        outputs=OUTPUTS,
        encoding=("float32",),
        views=views,
        device="cpu",
        decode_workers=0,  # in threads, whose time is counted
    )
    clock = Clock()
    precompute(Config(data=DataConfig(data), precompute=settings), clock)
    return clock.seconds


def bytes_of(store: EmbeddingStore, folder: Path) -> dict[str, dict[str, float]]:
    """Bytes a sample of one view, by output and encoding; of one output alone, as a store of it would have."""
    view = store.teacher(store.views_of(store.teacher().teacher_id)[0])
    found: dict[str, dict[str, float]] = {}
    print("\nbytes a sample and view")
    for output, encodings in ENCODINGS.items():
        for encoding in encodings:
            facts = found[f"{output} {encoding}"] = written(view, output, encoding, folder / f"{output}-{encoding}")
            print(f"  {output:<7} {encoding:<8}" + "".join(f"  {what} {value:.1f}" for what, value in facts.items()))
    return found


def written(view: TeacherView, output: str, encoding: str, folder: Path) -> dict[str, float]:
    """Rows of a view, written once more in one encoding."""
    spec = replace(view.spec.encoded({output: encoding}), view=view.spec.view)
    store = create_store(
        LocalStorage(folder), view.store.shards, root="data:clipart", classes=None, policy=view.store.policy
    )
    writer = PassWriter(store, spec, Pass((output,), 64, 1, "none"))
    for slot in store.slots:
        read, shard = view.read(slot, output), slot.shard
        source = {"url": shard.url, "bytes": shard.size_bytes, "blake2b": shard.blake2b}
        said = {output: read.rows.astype(np.float32)}
        rows = SlotRows(read.keys, read.labels, read.places, said, {output: read.status}, source)
        writer.write(slot, rows, {"process": "1", "system": "Linux x86_64"})
    sealed = seal_store(LocalStorage(folder)).index_bytes
    made = open_store(folder).teacher()
    paths = [schema.path for schema in made.output_schemas(output)]
    sizes = dict.fromkeys(paths, 0)
    for slot in store.slots:
        for entry in made.committed(slot, output).objects:
            path = entry.key.partition("/c/")[0]
            if path in sizes:
                sizes[path] += entry.size_bytes
    commits = sum(path.stat().st_size for path in folder.glob("teachers/*/*/commits/*.json"))
    rows_total = sum(slot.rows for slot in store.slots)
    parts = {"rows": sum(sizes[path] for path in paths[:-1]), "status": sizes[paths[-1]], "commits": commits}
    return {what: size / rows_total for what, size in (*parts.items(), ("sealed", sealed))}


if __name__ == "__main__":
    main()
