"""Run clip-retrieval's inference in its own environment and print its rate; `benchmarks.precompute` starts this.

    DIR/bin/python benchmarks/clip_retrieval_run.py SHARDS MODEL OUT BATCH WORKERS

Nothing of embedkd is imported here. The rate leaves out loading the model and the first batch, and what is written
after the last one, so it is the best that clip-retrieval can claim.
"""

import os
import sys
import time
from importlib import import_module
from typing import Any


def main() -> None:
    """Encode every image of the shards, and print images a second."""
    shards, model, out, batch, workers = sys.argv[1:]
    runner = import_module("clip_retrieval.clip_inference.mapper").ClipMapper
    marks: list[tuple[float, int]] = []
    encode = runner.__call__

    def timed(self: Any, item: dict[str, Any]) -> Any:
        said = encode(self, item)
        marks.append((time.perf_counter(), len(item["image_tensor"])))
        return said

    runner.__call__ = timed
    import_module("clip_retrieval.clip_inference.main").main(
        input_dataset=shards,
        output_folder=out,
        input_format="webdataset",
        clip_model=model,
        batch_size=int(batch),
        num_prepro_workers=int(workers),
        enable_text=False,
        enable_metadata=False,
        use_jit=False,
        output_partition_count=1,
    )
    images = sum(count for _, count in marks[1:])
    print(f"\nrate {images / (marks[-1][0] - marks[0][0])}", flush=True)
    os._exit(0)  # its data workers and their threads are not always gone by themselves


if __name__ == "__main__":  # its data workers import this file again
    main()
