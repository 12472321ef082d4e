"""The largest batch that fits into memory, found before a pass is created, which then keeps it."""

import gc
from typing import TYPE_CHECKING

from embedkd.errors import TeacherError
from embedkd.precompute.rows import TEXT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedkd.precompute.rows import Job
    from embedkd.progress import Progress
    from embedkd.teachers.base import Teacher

_CPU_REFUSALS = ("can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was refused, on a GPU or on the CPU."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _CPU_REFUSALS)


def find_batch_size(teacher: "Teacher", outputs: "Sequence[str]", wanted: int, watch: "Progress") -> int:
    """Try a batch of zeros, and half of it as long as there is no memory for it.

    Args:
        teacher: The teacher.
        outputs: Of the pass.
        wanted: Batch size to begin with.
        watch: Is told where another size is taken.

    Returns:
        The wanted size, or its half, quarter, ... that fits.

    Raises:
        TeacherError: Not even one image fits.
    """
    size = wanted
    while not _fits(teacher, outputs, size):
        if size == 1:
            raise TeacherError(f"{teacher.spec.name} has no memory for a single image; take a device that has more")
        size //= 2
        _free()
    if size != wanted:
        watch.line(f"a batch of {wanted} does not fit into memory: {teacher.spec.name} runs in batches of {size}")
    return size


def _fits(teacher: "Teacher", outputs: "Sequence[str]", size: int) -> bool:
    import torch

    images = [name for name in outputs if name != TEXT]
    try:
        if images:
            teacher.embed(torch.zeros(size, 3, *teacher.spec.preprocess.crop_px), images)
        if TEXT in outputs and teacher.tokenize is not None:
            teacher.embed_text(teacher.tokenize([""] * size))
    except Exception as error:
        if is_out_of_memory(error):
            return False
        raise
    return True


def _free() -> None:
    """Give back what the failed try left, so that a smaller one does not fail for it."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def advise_smaller(job: "Job") -> str:
    """What to do where a pass's recorded batch size does not fit any more."""
    return (
        f"{job.teacher.spec.name} has no memory for a batch of {job.plan.batch_size}, which its pass records\n"
        "free memory or take a larger device, or begin another store (--out) with a smaller --batch-size"
    )
