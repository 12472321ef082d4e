"""Stage 1: shards -> teacher -> store. Resumable anywhere; the commits in the store are the only state."""

from embedkd.precompute.averages import add_class_set
from embedkd.precompute.describe import describe_store
from embedkd.precompute.opening import EMBEDDED_DATA
from embedkd.precompute.process import ShardProcessor
from embedkd.precompute.stage import PrecomputeResult, find_finished, precompute

__all__ = [
    "EMBEDDED_DATA",
    "PrecomputeResult",
    "ShardProcessor",
    "add_class_set",
    "describe_store",
    "find_finished",
    "precompute",
]
