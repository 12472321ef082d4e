"""How many jobs go over the data together: as many as there is room for, since each image is decoded once a round."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedkd.precompute.rows import Job

ROUND_BYTES = 2 << 30


def rounds(jobs: "Sequence[Job]", slot_rows: int) -> "list[list[Job]]":
    """Jobs in order, cut where together they would hold more than ROUND_BYTES of pixels and rows.

    Args:
        jobs: Of all teachers and views.
        slot_rows: Samples of the largest slot.
    """
    made: list[list[Job]] = []
    room = 0
    for job in jobs:
        size = job_bytes(job, slot_rows)
        if size > room:
            made.append([])
            room = ROUND_BYTES
        made[-1].append(job)
        room -= size
    return made


def job_bytes(job: "Job", slot_rows: int) -> int:
    """What a job holds: the batch that is being filled, a slot's rows, and those of the slot before until written.

    The batches that wait for a teacher are few, however many jobs there are.
    """
    height, width = job.teacher.spec.preprocess.crop_px
    pixels = min(job.plan.batch_size, slot_rows) * 3 * height * width if job.image_outputs else 0
    dims = sum(output.dim for name in job.plan.outputs if (output := job.writer.spec.output(name)) is not None)
    return 4 * (pixels + 2 * slot_rows * dims)
