"""What joining targets costs: the sample rate of the training input with and without them.

    python -m benchmarks.joining STORE [--output pooled] [--rounds 7] [--json FILE]

Both sides read the same shards in the same order, decode and augment the same; one of them also reads, checks and
hands out one stored row a sample.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.measure import finish, interleaved, summary
from embedkd.config import AugmentConfig
from embedkd.join import JoinedShards, Samples, stored_samples
from embedkd.store import open_store
from embedkd.training.augment import Augment


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("--output", default="pooled")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    view = open_store(options.store).teacher()
    joined = stored_samples(view, "train", (options.output,))
    plain = replace(joined, store=None, teacher_id=None, outputs=())

    augment = AugmentConfig()
    transform = Augment(
        image_px=32,
        crop_padding_px=augment.crop_padding_px,
        min_crop_area=augment.min_crop_area,
        flip=augment.flip,
    )

    def seconds_per_sample(samples: Samples) -> float:
        dataset = JoinedShards(samples, transform, global_batch_size=64, epochs=options.epochs)
        started = time.perf_counter()
        rows = sum(len(batch.keys) for batch in dataset)
        return (time.perf_counter() - started) / rows

    measures = {"with targets": lambda: seconds_per_sample(joined), "without": lambda: seconds_per_sample(plain)}
    interleaved(measures, 1)  # warm-up
    found = interleaved(measures, options.rounds)
    for name, values in found.items():
        rate = summary([1 / value for value in values])
        print(f"  {name:<13} {rate['median']:7.1f} samples/s  ({rate['min']:.1f} to {rate['max']:.1f})")
    costs = [a / b - 1 for a, b in zip(found["with targets"], found["without"], strict=True)]
    cost = summary(costs)
    print(f"  joining costs {cost['median']:.1%} ({cost['min']:.1%} to {cost['max']:.1%}), goal <= 5 %")
    finish("joining", {"seconds_per_sample": found, "cost": costs}, options.json)


if __name__ == "__main__":
    main()
