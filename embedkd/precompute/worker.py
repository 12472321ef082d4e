"""Image bytes to a teacher's pixels, in a thread of this process or in a worker process.

Importing this is cheap, and torch is imported within the functions: a worker process must be able to ignore Ctrl-C
before anything takes time.
"""

import pickle
import signal
import time
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.process import parent_process
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkd.errors import EmbedKDError, ImageError, TeacherError
from embedkd.sources.images import decode_image
from embedkd.sources.views import crop_view

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from multiprocessing.connection import Connection

    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor

    from embedkd.records import DecodePolicy, ViewSpec

CHUNK_ROWS = 8  # samples a task: passing one on costs as much as a tenth of decoding one

Part = tuple[bytes | None, str]  # a file, None where a sample has none, and the sample's key


@dataclass(frozen=True)
class Transform:
    """One way to make a teacher's pixels of an image.

    Attributes:
        preprocess: From RGB to float32 [3, H, W].
        crop_px: H and W.
        view: The part of the image that is preprocessed; None for all of it.
    """

    preprocess: "Callable[[Image], Tensor]"
    crop_px: tuple[int, int]
    view: "ViewSpec | None" = None

    def pixels(self, image: "Image", key: str) -> "Tensor":
        """Of the sample of that key."""
        return self.preprocess(image if self.view is None else crop_view(image, self.view, key))


@dataclass(frozen=True)
class Decoded:
    """What became of one chunk.

    Attributes:
        faults: Place in the chunk to the reason why there are no pixels.
        seconds: Spent on it.
    """

    faults: "Mapping[int, str]" = field(default_factory=dict)
    seconds: float = 0.0


def decode_into(
    parts: "Sequence[Part]",
    transforms: "Sequence[tuple[Transform, NDArray[np.float32]]]",
    policy: "DecodePolicy",
) -> Decoded:
    """Decode every image once and let each transform write its pixels.

    Args:
        parts: Files and keys.
        transforms: Each with float32 [>= N, 3, H, W] that takes its result at the image's place.
        policy: How images are decoded.

    Raises:
        TeacherError: A teacher's preprocessing failed, or gave something else than its specification says.
    """
    started = time.perf_counter()
    faults: dict[int, str] = {}
    for at, (data, key) in enumerate(parts):
        if data is None:
            continue
        try:
            image = decode_image(data, policy)
            for transform, out in transforms:
                _write(transform, image, key, out[at])
        except ImageError as error:
            faults[at] = str(error)
    return Decoded(faults, time.perf_counter() - started)


def _write(transform: Transform, image: "Image", key: str, out: "NDArray[np.float32]") -> None:
    try:
        pixels = transform.pixels(image, key).numpy()
    except ImageError:
        raise
    except Exception as error:  # whatever a family's library raises
        reason = " ".join(str(error).split())
        raise TeacherError(
            f"preprocessing an image of {image.size} failed: {type(error).__name__}: {reason}"
        ) from error
    if pixels.shape != out.shape or pixels.dtype != np.float32:
        raise TeacherError(
            f"expected float32 {list(out.shape)} from a teacher's preprocessing, "
            f"got {pixels.dtype} {list(pixels.shape)}"
        )
    out[...] = pixels


def chunk_rows(transforms: int) -> int:
    """Samples a task: fewer where each of them makes more pixels, so that a block keeps its size.

    >>> [chunk_rows(transforms) for transforms in (0, 1, 2, 3, 9, 51)]
    [8, 8, 4, 2, 1, 1]
    """
    return max(1, CHUNK_ROWS // max(transforms, 1))


def block_views(buffer: Any, shapes: "Sequence[tuple[int, int]]", blocks: int) -> "list[list[NDArray[np.float32]]]":
    """A buffer as blocks, each with room for one chunk of every transform: [block][transform] [rows, 3, H, W]."""
    flat, rows = np.frombuffer(buffer, np.float32), chunk_rows(len(shapes))
    views: list[list[NDArray[np.float32]]] = []
    at = 0
    for _ in range(blocks):
        views.append([])
        for height, width in shapes:
            size = rows * 3 * height * width
            views[-1].append(flat[at : at + size].reshape(rows, 3, height, width))
            at += size
    return views


def block_bytes(shapes: "Sequence[tuple[int, int]]") -> int:
    """Length of one block."""
    return sum(chunk_rows(len(shapes)) * 3 * height * width * 4 for height, width in shapes)


def serve(
    tasks: "Connection", buffer: Any, shapes: "Sequence[tuple[int, int]]", blocks: int, transforms: bytes, policy: bytes
) -> None:
    """The body of a worker process: decode what comes, until the parent closes its end or dies.

    Args:
        tasks: Brings (files and keys, block, numbers of the transforms wanted); takes back a `Decoded` or an error.
        buffer: Shared memory.
        shapes: Height and width of each transform's pixels.
        blocks: Number of blocks in the buffer.
        transforms: The pickled list of `Transform`; it comes as bytes so that nothing heavy is imported before Ctrl-C
            is ignored.
        policy: The pickled decode policy.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the parent to answer
    import torch

    torch.set_num_threads(1)
    views = block_views(buffer, shapes, blocks)
    ways, how = pickle.loads(transforms), pickle.loads(policy)
    parent = parent_process()
    watched: list[Any] = [tasks] if parent is None else [tasks, parent.sentinel]
    try:
        while tasks in wait(watched):
            parts, block, wanted = tasks.recv()
            try:
                tasks.send(decode_into(parts, [(ways[i], views[block][i]) for i in wanted], how))
            except EmbedKDError as error:
                tasks.send(error)
    except (EOFError, OSError):
        return  # the parent has left
