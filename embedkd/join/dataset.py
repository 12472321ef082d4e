"""Stage 2's input: batches of decoded samples with their targets, in an order that any process can compute."""

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from embedkd.errors import ImageError, JoinError
from embedkd.join.order import EpochOrder, batch_positions
from embedkd.join.slots import Joined, SlotReader
from embedkd.seeding import stream_seed
from embedkd.sources.images import decode_image
from embedkd.sources.views import crop_view

if TYPE_CHECKING:
    from PIL.Image import Image

    from embedkd.join.samples import Samples
    from embedkd.records import ViewSpec

Transform = Callable[["Image", int], Tensor]


@dataclass(frozen=True)
class Batch:
    """One rank's share of a step.

    Attributes:
        keys: Of the samples.
        pixels: float32 [B, 3, H, W], as the transform gave them.
        labels: int64 [B], -1 without a label.
        targets: Name of each target to float32 [B, D].
        valid: bool [B]; False marks padding, which must not count.
        beside: Name of each further transform to its pixels of the same images; see `JoinedShards.beside`.
    """

    keys: tuple[str, ...]
    pixels: Tensor
    labels: Tensor
    targets: Mapping[str, Tensor]
    valid: Tensor
    beside: Mapping[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device | str) -> "Batch":
        """On another device; asynchronous from pinned memory."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """In page-locked memory, for DataLoader."""
        return self._each(Tensor.pin_memory)

    def _each(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        return replace(
            self,
            pixels=function(self.pixels),
            labels=function(self.labels),
            targets={name: function(rows) for name, rows in self.targets.items()},
            valid=function(self.valid),
            beside={name: function(pixels) for name, pixels in self.beside.items()},
        )


class JoinedShards(IterableDataset[Batch]):
    """Batches of joined samples, epoch after epoch as one stream.

    The sequence is a function of the arguments alone: the same for any number of DataLoader workers, and the same
    global batches for any number of ranks. Starting at ``(epoch, step)`` gives the identical remaining sequence.

    Args:
        samples: What takes part.
        transform: (PIL image in RGB, seed) -> float32 [3, H, W]; it draws from nothing but the seed, which is
            f(seed, epoch, key).
        global_batch_size: Samples a step, over all ranks; the last step of an epoch may have fewer.
        epochs: Epochs in all.
        start: First epoch and step to yield.
        seed: Of order and augmentation.
        shuffle: Whether the order is shuffled.
        ranks: Rank of this process and number of ranks.

    Raises:
        JoinError: There are no samples, or a number is outside its range.
    """

    def __init__(
        self,
        samples: "Samples",
        transform: Transform,
        *,
        global_batch_size: int,
        epochs: int = 1,
        start: tuple[int, int] = (0, 0),
        seed: int = 0,
        shuffle: bool = True,
        ranks: tuple[int, int] = (0, 1),
    ) -> None:
        super().__init__()
        if not samples.rows:
            raise JoinError("no samples to read: the split is empty, or nothing of it can be used")
        if global_batch_size < 1 or min(start) < 0 or not 0 <= ranks[0] < ranks[1]:
            raise JoinError(
                "expected a global batch of at least 1, a start that is not negative and a rank below the number of "
                f"ranks, got {global_batch_size}, {start} and {ranks}"
            )
        self.samples = samples
        self.global_batch_size = global_batch_size
        self.transform = transform
        self._epochs = epochs
        self._start = start
        self._seed = seed
        self._shuffle = shuffle
        self._ranks = ranks
        self._beside: dict[str, Transform] = {}
        self._order: EpochOrder | None = None

    def beside(self, transforms: Mapping[str, Transform]) -> "JoinedShards":
        """The same batches, with further pixels in `Batch.beside`: each image is decoded once for all transforms.

        Args:
            transforms: By the name that their pixels come under; each is given the same image and the same seed.
        """
        made = copy(self)
        made._beside = dict(transforms)
        return made

    @property
    def rows(self) -> int:
        """Samples an epoch, over all ranks."""
        return self.samples.rows

    @property
    def steps_per_epoch(self) -> int:
        """Batches an epoch."""
        return -(-self.rows // self.global_batch_size)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_reader"}

    @cached_property
    def _reader(self) -> SlotReader:
        return self.samples.reader()

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        first, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        begin = self._start[0] * self.steps_per_epoch + self._start[1]
        for step in range(begin + first, self._epochs * self.steps_per_epoch, stride):
            yield self.batch(*divmod(step, self.steps_per_epoch))

    def batch(self, epoch: int, step: int) -> Batch:
        """One batch by its place.

        Raises:
            JoinError: A sample and its target do not belong together.
            SourceError: A shard or an image is not the one that was indexed.
            StoreError: The store's rows cannot be trusted.
        """
        positions, valid = batch_positions(self.rows, step, self.global_batch_size, *self._ranks)
        places = zip(*self._epoch_order(epoch).at(positions), strict=True)
        turn = self._first_turn + epoch
        joined = self._reader.read_all([(int(slot), int(number)) for slot, number in places], turn)
        pixels, beside = self._pixels(joined, epoch)
        return Batch(
            keys=tuple(sample.key for sample in joined),
            pixels=pixels,
            labels=torch.tensor([sample.label for sample in joined], dtype=torch.int64),
            targets={
                name: torch.from_numpy(np.stack([sample.targets[name] for sample in joined]).astype(np.float32))
                for name in (target.name for target in self.samples.targets)
            },
            valid=torch.from_numpy(valid),
            beside=beside,
        )

    def _pixels(self, joined: list[Joined], epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        """What the transform makes of some samples, and what the others beside it do."""
        found: dict[str | None, list[Tensor]] = {None: [], **{name: [] for name in self._beside}}
        for sample in joined:  # one image after the other: decoded ones are large
            image, seed = self._image(sample, epoch), stream_seed(self._seed, "augment", epoch, sample.key)
            found[None].append(self.transform(image, seed))
            for name, transform in self._beside.items():
                found[name].append(transform(image, seed))
        return torch.stack(found[None]), {name: torch.stack(found[name]) for name in self._beside}

    def _image(self, sample: Joined, epoch: int) -> "Image":
        try:
            image = decode_image(sample.image, self.samples.policy)
        except ImageError as error:
            raise ImageError(f"{sample.where}: {error}") from error
        view = self.view(epoch)
        return image if view is None else crop_view(image, view, sample.key)

    @cached_property
    def _first_turn(self) -> int:
        """Where the round of stored views begins: other seeds begin with other views."""
        return stream_seed(self._seed, "view") % max(len(self.samples.views), 1)

    def view(self, epoch: int) -> "ViewSpec | None":
        """The stored view that all targets of an epoch belong to; None for whole images.

        One for all samples: which part of an image a view shows is drawn for each sample by itself, so others gain
        nothing by another number, and an epoch reads the rows of one view.
        """
        views = self.samples.views
        return views[(self._first_turn + epoch) % len(views)] if views else None

    def _epoch_order(self, epoch: int) -> EpochOrder:
        if self._order is None or self._order.epoch != epoch:
            self._order = EpochOrder(self.samples.counts, self._seed, epoch, self._shuffle)
        return self._order
