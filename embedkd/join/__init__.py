"""Stage 2's input: shards joined with stored targets by (slot, ordinal), the key checked."""

from embedkd.join.attach import AttachTargets, attach_targets
from embedkd.join.coverage import check_coverage
from embedkd.join.dataset import Batch, JoinedShards
from embedkd.join.held_out import split_held_out
from embedkd.join.loader import make_loader
from embedkd.join.order import EpochOrder, batch_positions
from embedkd.join.samples import Samples, Wanted, joined_samples, shard_samples, stored_samples
from embedkd.join.targets import Target

__all__ = [
    "AttachTargets",
    "Batch",
    "EpochOrder",
    "JoinedShards",
    "Samples",
    "Target",
    "Wanted",
    "attach_targets",
    "batch_positions",
    "check_coverage",
    "joined_samples",
    "make_loader",
    "shard_samples",
    "split_held_out",
    "stored_samples",
]
