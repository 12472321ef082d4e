"""Stage 2's input: shards joined with stored targets by (slot, ordinal), the key checked."""

from embedkd.join.attach import AttachTargets, attach_targets
from embedkd.join.dataset import Batch, JoinedShards
from embedkd.join.loader import make_loader
from embedkd.join.order import EpochOrder, batch_positions
from embedkd.join.samples import Samples, shard_samples, stored_samples

__all__ = [
    "AttachTargets",
    "Batch",
    "EpochOrder",
    "JoinedShards",
    "Samples",
    "attach_targets",
    "batch_positions",
    "make_loader",
    "shard_samples",
    "stored_samples",
]
