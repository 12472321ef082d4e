"""What joining targets costs: the sample rate of the training input with and without them.

    python -m benchmarks.joining STORE [--output pooled] [--rounds 7] [--json FILE]

Both sides read the same samples of the same shards in the same order, prove, decode and augment them the same; one of
them reads and checks the store for it, and hands out one stored row a sample; the other knows where samples lie.
A third side reads the shards without any store, and so has to scan each tar before it knows where samples lie. What is
measured is processor time: all is done in this process, and others may use the machine.
"""

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from benchmarks.measure import finish, interleaved, summary
from embedkd.config import AugmentConfig
from embedkd.join import JoinedShards, Samples, stored_samples
from embedkd.join.samples import open_slots
from embedkd.join.slots import SlotReader, SlotTargets
from embedkd.store import open_store
from embedkd.training.augment import Augment


@dataclass(frozen=True)
class Known(Samples):
    """Samples of a store that was read before: where they lie, their keys and labels.

    Attributes:
        known: Of each slot, without rows.
    """

    known: Mapping[int, SlotTargets] = field(default_factory=dict)

    @classmethod
    def of(cls, samples: Samples) -> "Known":
        """The same samples without targets."""
        assert samples.store is not None
        joiner = replace(samples, targets=()).joiner()
        assert joiner is not None
        read = {slot.index: joiner.read(slot) for slot in samples.slots}
        facts = {one.name: getattr(samples, one.name) for one in fields(Samples)}
        return cls(**(facts | {"targets": (), "known": read}))

    def reader(self) -> SlotReader:
        """A reader that asks no store."""
        return SlotReader(
            self.slots,
            self.counts,
            self.root,
            lambda slot, turn: self.known[slot.index],
            labels_needed=True,
            open_slots=open_slots(self.counts),
            at_once=False,
        )


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
    plain = replace(joined, store=None, teacher_id=None, targets=())
    bare = Known.of(joined)

    transform = Augment(AugmentConfig(), image_px=32)

    def seconds_per_sample(samples: Samples) -> float:
        dataset = JoinedShards(samples, transform, global_batch_size=64, epochs=options.epochs)
        started = time.process_time()
        rows = sum(len(batch.keys) for batch in dataset)
        return (time.process_time() - started) / rows

    measures = {
        "with targets": lambda: seconds_per_sample(joined),
        "without": lambda: seconds_per_sample(bare),
        "without a store": lambda: seconds_per_sample(plain),
    }
    interleaved(measures, 1)  # warm-up
    found = interleaved(measures, options.rounds)
    for name, values in found.items():
        rate = summary([1 / value for value in values])
        print(f"  {name:<15} {rate['median']:7.1f} samples a processor second ({rate['min']:.1f} to {rate['max']:.1f})")
    costs = [a / b - 1 for a, b in zip(found["with targets"], found["without"], strict=True)]
    cost = summary(costs)
    print(f"  joining costs {cost['median']:.1%} ({cost['min']:.1%} to {cost['max']:.1%}), goal <= 5 %")
    finish("joining", {"seconds_per_sample": found, "cost": costs}, options.json)


if __name__ == "__main__":
    main()
