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

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from multiprocessing.connection import Connection

    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor

    from embedkd.records import DecodePolicy

CHUNK_ROWS = 8  # samples a task: passing one on costs as much as a tenth of decoding one


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
    images: "Sequence[bytes | None]",
    transforms: "Sequence[tuple[Callable[[Image], Tensor], NDArray[np.float32]]]",
    policy: "DecodePolicy",
) -> Decoded:
    """Decode every image once and let each teacher's preprocessing write its pixels.

    Args:
        images: Files; None where a sample has none.
        transforms: Preprocessing, and float32 [>= N, 3, H, W] that takes its result at the image's place.
        policy: How images are decoded.

    Raises:
        TeacherError: A teacher's preprocessing failed, or gave something else than its specification says.
    """
    started = time.perf_counter()
    faults: dict[int, str] = {}
    for at, data in enumerate(images):
        if data is None:
            continue
        try:
            image = decode_image(data, policy)
            for preprocess, out in transforms:
                _write(preprocess, image, out[at])
        except ImageError as error:
            faults[at] = str(error)
    return Decoded(faults, time.perf_counter() - started)


def _write(preprocess: "Callable[[Image], Tensor]", image: "Image", out: "NDArray[np.float32]") -> None:
    try:
        pixels = preprocess(image).numpy()
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


def block_views(buffer: Any, shapes: "Sequence[tuple[int, int]]", blocks: int) -> "list[list[NDArray[np.float32]]]":
    """A buffer as blocks, each with room for one chunk of every transform: [block][transform] [CHUNK_ROWS, 3, H, W]."""
    flat = np.frombuffer(buffer, np.float32)
    views: list[list[NDArray[np.float32]]] = []
    at = 0
    for _ in range(blocks):
        views.append([])
        for height, width in shapes:
            size = CHUNK_ROWS * 3 * height * width
            views[-1].append(flat[at : at + size].reshape(CHUNK_ROWS, 3, height, width))
            at += size
    return views


def block_bytes(shapes: "Sequence[tuple[int, int]]") -> int:
    """Length of one block."""
    return sum(CHUNK_ROWS * 3 * height * width * 4 for height, width in shapes)


def serve(
    tasks: "Connection", buffer: Any, shapes: "Sequence[tuple[int, int]]", blocks: int, transforms: bytes, policy: bytes
) -> None:
    """The body of a worker process: decode what comes, until the parent closes its end or dies.

    Args:
        tasks: Brings (images, block, numbers of the transforms wanted); takes back a `Decoded` or an error.
        buffer: Shared memory.
        shapes: Height and width of each transform's pixels.
        blocks: Number of blocks in the buffer.
        transforms: The pickled list of preprocessings; they come as bytes so that nothing heavy is imported before
            Ctrl-C is ignored.
        policy: The pickled decode policy.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the parent to answer
    import torch

    torch.set_num_threads(1)
    views = block_views(buffer, shapes, blocks)
    preprocess, how = pickle.loads(transforms), pickle.loads(policy)
    parent = parent_process()
    watched: list[Any] = [tasks] if parent is None else [tasks, parent.sentinel]
    try:
        while tasks in wait(watched):
            images, block, wanted = tasks.recv()
            try:
                tasks.send(decode_into(images, [(preprocess[i], views[block][i]) for i in wanted], how))
            except EmbedKDError as error:
                tasks.send(error)
    except (EOFError, OSError):
        return  # the parent has left
