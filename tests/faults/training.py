"""What training reads of a store and of its shards."""

from pathlib import Path

from embedkd.join.samples import stored_samples
from embedkd.records import SPLITS
from embedkd.store import open_store
from tests.faults.scenes import views_of

Read = dict[tuple[object, ...], object]


def train_reads(store: Path) -> Read:
    """All that training could read of a store: each sample with its image, label and targets, and the class means.

    Raises:
        EmbedKDError: Something of it cannot be used.
    """
    found: Read = {}
    for view in views_of(open_store(store)):
        for split in SPLITS:
            samples = stored_samples(view, split, view.outputs, allow_partial=True)
            if samples.rows:
                reader = samples.reader()
                for at, number in ((a, n) for a, count in enumerate(samples.counts) for n in range(count)):
                    one = reader.read(at, number)
                    targets = {output: row.tobytes() for output, row in one.targets.items()}
                    found[view.spec.name, split, one.key] = (one.image, one.label, targets)
        for output in view.outputs:
            made = view.class_set(None, output)
            found[view.spec.name, output] = (made.mean.tobytes(), made.count.tobytes())
    return found
