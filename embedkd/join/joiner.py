"""What one process reads of a slot: the samples by the store that leads, and the targets of all stores."""

from typing import TYPE_CHECKING

import numpy as np

from embedkd.errors import JoinError
from embedkd.join.files import SampleTable
from embedkd.join.slots import SlotTargets
from embedkd.join.targets import Opened, TargetReader
from embedkd.records import RowStatus
from embedkd.sources.fields import NO_LABEL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from embedkd.join.targets import PartRead, Target
    from embedkd.store import Slot, SlotSamples


class Joiner:
    """Reads slots of the store that leads, with their targets; safe for threads.

    Args:
        store: Path or URL of the store that leads: its slots are read, and it proves their samples.
        teacher_id: A teacher in it, whose first output tells what can be used where nothing is joined.
        targets: What is joined.
        labels_needed: Whether samples without a label cannot be used.

    Raises:
        StoreError: A store cannot be opened.
    """

    def __init__(self, store: str, teacher_id: str, targets: "Sequence[Target]", *, labels_needed: bool) -> None:
        opened = Opened()
        self._lead = opened.view(store, teacher_id)
        self._readers = {
            target.name: TargetReader(target, tuple(opened.view(target.store, one) for one in target.teacher_ids))
            for target in targets
        }
        self._labels_needed = labels_needed

    def prepare(self, slot: "Slot") -> None:
        """Read what slots share, before several threads want it at once."""
        self._lead.committed(slot, self._lead.outputs[0])
        for reader in self._readers.values():
            reader.prepare(slot)

    def read(self, slot: "Slot", turn: int = 0) -> SlotTargets:
        """One slot with its targets.

        Args:
            slot: Of the store that leads.
            turn: Which of the stored views, from 0, round and round.

        Raises:
            JoinError: Two stores do not hold the same samples.
            StoreError: See `TeacherView.read`.
        """
        reads = {name: reader.read(slot, turn) for name, reader in self._readers.items()}
        samples = self._samples(slot, reads)
        usable = np.ones(slot.rows, np.bool_) if reads else samples.status == RowStatus.OK
        for name, read in reads.items():
            usable &= self._readers[name].usable(slot, read, turn)
            self._check_same(slot, samples, name, read)
        unlabelled = usable & (samples.labels == NO_LABEL) if self._labels_needed else np.zeros(slot.rows, np.bool_)
        return SlotTargets(
            np.flatnonzero(usable & ~unlabelled),
            SampleTable(samples.keys, samples.places),
            samples.labels,
            {name: read.stored for name, read in reads.items()},
            int(unlabelled.sum()),
        )

    def samples(self, slot: "Slot") -> "SlotSamples":
        """Keys, labels and places of all samples of a slot, and nothing of the targets."""
        return self._lead.read_samples(slot, self._lead.outputs[0])

    def _samples(self, slot: "Slot", reads: "dict[str, PartRead]") -> "PartRead | SlotSamples":
        """As the store that leads has them: of one of its targets, or read for that alone."""
        for name, read in reads.items():
            if self._readers[name].store is self._lead.store:
                return read
        return self.samples(slot)

    def _check_same(self, slot: "Slot", ours: "PartRead | SlotSamples", name: str, theirs: "PartRead") -> None:
        store = self._readers[name].store
        if store is self._lead.store:
            return  # they share their rows/key and rows/label
        for what, mine, other in (("key", ours.keys, theirs.keys), ("label", ours.labels, theirs.labels)):
            differs: NDArray[np.bool_] = mine != other
            if differs.any():
                raise JoinError(
                    f"sample {slot.start + int(differs.argmax())} of {slot.shard.url} has another {what} in "
                    f"{store.storage.url} than in {self._lead.store.storage.url}; precompute one of them again"
                )
