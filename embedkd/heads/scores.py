"""How good stored logits are, split by split, and which temperature calibrates them."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from embedkd.heads.derived import LOGITS
from embedkd.records import SPLITS, RowStatus, Split

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from embedkd.store import TeacherView

TEMPERATURES = tuple(float(t) for t in np.geomspace(0.25, 8.0, 41))  # 9 % apart; 1 is among them but for rounding


@dataclass
class Score:
    """Counts over the labelled rows of one split.

    Attributes:
        rows: How many there are.
        hits: Of these, where the greatest logit is the label's.
        losses: float64 [T], summed cross-entropy at each of `TEMPERATURES`.
    """

    rows: int = 0
    hits: int = 0
    losses: "NDArray[np.float64]" = field(default_factory=lambda: np.zeros(len(TEMPERATURES)))

    def add(self, logits: "NDArray[np.float64]", labels: "NDArray[np.int64]", *, calibrate: bool) -> None:
        """Count rows [n, C] with labels [n]."""
        self.rows += len(labels)
        self.hits += int((logits.argmax(axis=1) == labels).sum())
        for at, temperature in enumerate(TEMPERATURES if calibrate else ()):
            scaled = (logits - logits.max(axis=1, keepdims=True)) / temperature
            own = scaled[np.arange(len(labels)), labels]
            self.losses[at] += (np.log(np.exp(scaled).sum(axis=1)) - own).sum()

    @property
    def top1(self) -> float | None:
        """Share of hits; None without rows."""
        return self.hits / self.rows if self.rows else None

    @property
    def temperature(self) -> float | None:
        """The one of `TEMPERATURES` with the lowest cross-entropy; None where none was summed."""
        return TEMPERATURES[int(self.losses.argmin())] if self.losses.any() else None


def score(view: "TeacherView") -> dict[Split, Score]:
    """Compare a derived teacher's logits with the labels; cross-entropies are summed on ``val``, one slot at a time."""
    scores: dict[Split, Score] = {split: Score() for split in SPLITS}
    for slot in view.store.slots:
        read = view.read(slot, LOGITS)
        counted = (read.status == RowStatus.OK) & (read.labels >= 0)
        if counted.any():
            logits = read.stored.take(np.flatnonzero(counted)).decode().astype(np.float64)
            labels = read.labels[counted].astype(np.int64)
            scores[slot.shard.split].add(logits, labels, calibrate=slot.shard.split == "val")
    return scores
