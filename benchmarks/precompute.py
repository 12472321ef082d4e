"""How close precompute comes to what the bare teacher and bare decoding allow together.

    python -m benchmarks.precompute [--rounds 5] [--json FILE]

A round measures three rates on the same images, one after the other: the teacher on preloaded tensors, decoding and
preprocessing alone, and the whole of precompute (tar, decode, teacher, encode, write, commit), teacher already loaded.
The limit is 1 / (t_teacher + t_decode): both use all cores, so on a CPU they cannot overlap for free.
"""

import argparse
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from benchmarks.measure import finish, interleaved, summary
from embedkd.precompute import ShardProcessor
from embedkd.progress import Silent
from embedkd.records import DecodePolicy
from embedkd.sources.fields import image_suffix
from embedkd.sources.images import decode_image
from embedkd.sources.reader import ShardStream
from embedkd.sources.shards import list_data, shard_path
from embedkd.storage import LocalStorage
from embedkd.store import Pass, PassWriter, create_store
from embedkd.teachers import load_teacher, tune_allocator


class Comparison:
    """One teacher on one data set, measured in three ways; each measure gives seconds an image."""

    def __init__(self, teacher: str, data: str, batch_size: int) -> None:
        self._cores = os.cpu_count() or 1
        tune_allocator()
        torch.set_num_threads(self._cores)
        self._teacher = load_teacher(teacher)
        self._outputs = tuple(output.name for output in self._teacher.spec.outputs)
        self._listing = list_data(data)
        self._batch_size = batch_size
        self.images = [
            sample.fields[suffix]
            for name in self._listing.names
            for sample in ShardStream(shard_path(self._listing.root, name), name)
            if (suffix := image_suffix(sample.fields, sample.key)) is not None
        ]
        preloaded = [self._decode(data) for data in self.images[: 4 * batch_size]]
        self._batches = [torch.stack(preloaded[i : i + batch_size]) for i in range(0, len(preloaded), batch_size)]

    def _decode(self, data: bytes) -> torch.Tensor:
        return self._teacher.preprocess(decode_image(data))

    def teacher(self) -> float:
        """The bare teacher on preloaded tensors."""
        started = time.perf_counter()
        done = 0
        while done < len(self.images):
            for batch in self._batches:
                self._teacher.embed(batch, self._outputs)
                done += len(batch)
        return (time.perf_counter() - started) / done

    def decode(self) -> float:
        """Decoding and preprocessing alone, on all cores."""
        started = time.perf_counter()
        with ThreadPoolExecutor(self._cores) as pool:
            for _ in pool.map(self._decode, self.images):
                pass
        return (time.perf_counter() - started) / len(self.images)

    def precompute(self) -> float:
        """Tar to commit, the teacher already loaded."""
        with tempfile.TemporaryDirectory() as folder:
            store = create_store(
                LocalStorage(Path(folder) / "store.zarr"),
                self._listing.indexed,
                root=self._listing.root,
                classes=self._listing.classes,
                policy=DecodePolicy(),
            )
            plan = Pass(self._outputs, self._batch_size, self._cores, "benchmark")
            processor = ShardProcessor(
                store,
                self._listing.root,
                self._teacher,
                PassWriter(store, self._teacher.spec, plan),
                decode_threads=self._cores,
                max_bad_fraction=0.1,
                progress=Silent(),
            )
            started = time.perf_counter()
            processor.run(store.slots)
            return (time.perf_counter() - started) / processor.tally.rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="packaged:efficientnet-lite0")
    parser.add_argument("--data", default="data:clipart")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    one = Comparison(options.teacher, options.data, options.batch_size)
    measures = {"teacher": one.teacher, "decode": one.decode, "precompute": one.precompute}
    interleaved(measures, 1)  # warm-up
    found = interleaved(measures, options.rounds)
    print(f"{options.teacher}, {len(one.images)} images, batch {options.batch_size}, {options.rounds} rounds")
    for name, values in found.items():
        rate = summary([1 / value for value in values])
        print(f"  {name:<11} {rate['median']:7.1f} images/s  ({rate['min']:.1f} to {rate['max']:.1f})")
    rounds = zip(found["teacher"], found["decode"], found["precompute"], strict=True)
    ratios = [(teacher + decode) / whole for teacher, decode, whole in rounds]
    ratio = summary(ratios)
    print(f"  precompute / limit: {ratio['median']:.3f} ({ratio['min']:.3f} to {ratio['max']:.3f}), goal >= 0.9")
    finish("precompute", {"seconds_per_image": found, "ratio": ratios}, options.json)


if __name__ == "__main__":
    main()
