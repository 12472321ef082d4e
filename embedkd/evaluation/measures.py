"""What ``embedkd evaluate`` measures; top-1 and top-5 are always among it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedkd.errors import ConfigError

if TYPE_CHECKING:
    from embedkd.records import Split


@dataclass(frozen=True)
class Measures:
    """Which evaluators run; those that are on by default cost no more than looking at the samples.

    Attributes:
        knn: Vote of the nearest training embeddings.
        linear: Linear probe of the embedding, fitted to the training split.
        agreement: Comparison with what the teachers of the run said of the same samples.
        calibration: Calibration errors and scores, with a temperature fitted on the validation split.
        per_class: Counts class by class, what was taken for what, and means over classes.
        zero_shot: Classification by class texts, in the space of a CLIP-like teacher.
        lenient: Leave a note in place of what cannot be measured, instead of refusing.
    """

    knn: bool = True
    linear: bool = False
    agreement: bool = False
    calibration: bool = True
    per_class: bool = True
    zero_shot: bool = False
    lenient: bool = False

    @classmethod
    def everything(cls, split: "Split" = "test", data: str | None = None) -> "Measures":
        """All that a split of some data allows, with a note for each of the others that a run does not allow."""
        learns = split != "train"
        return cls(knn=learns, linear=learns, agreement=data is None, zero_shot=True, lenient=True)

    def check(self, split: "Split", data: str | None) -> None:
        """Refuse what would mean nothing.

        Raises:
            ConfigError: Neighbours or a probe on the split they learn from, or agreement on other shards.
        """
        if (self.knn or self.linear) and split == "train":
            raise ConfigError("k-NN and linear probes learn from the training split; evaluate another split with them")
        if self.agreement and data is not None:
            raise ConfigError("agreement compares with stored rows of the run's own shards; leave out --data or it")
