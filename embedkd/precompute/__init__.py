"""Stage 1: shards -> teacher -> store. Resumable anywhere; the commits in the store are the only state."""

from embedkd.precompute.averages import add_class_set
from embedkd.precompute.describe import describe_store
from embedkd.precompute.opening import EMBEDDED_DATA
from embedkd.precompute.process import ShardProcessor
from embedkd.precompute.results import PrecomputeResult, TeacherResult, find_finished
from embedkd.precompute.rows import Job
from embedkd.precompute.stage import precompute

__all__ = [
    "EMBEDDED_DATA",
    "Job",
    "PrecomputeResult",
    "ShardProcessor",
    "TeacherResult",
    "add_class_set",
    "describe_store",
    "find_finished",
    "precompute",
]
