"""Every loss by name."""

from typing import Final

from embedkd.losses.class_contrastive import class_contrastive
from embedkd.losses.cosine import cosine
from embedkd.losses.cross_entropy import cross_entropy
from embedkd.losses.entry import LossEntry
from embedkd.losses.mse import mse
from embedkd.losses.sample_contrastive import sample_contrastive

LOSSES: Final[dict[str, LossEntry]] = {
    "cross_entropy": LossEntry(
        cross_entropy,
        inputs=("logits", "labels"),
        source="the task loss",
    ),
    "class_contrastive": LossEntry(
        class_contrastive,
        inputs=("student", "class_means", "labels"),
        projection="target",
        source="L_clip of CLIP-Embed-KD (Nair 2024)",
    ),
    "sample_contrastive": LossEntry(
        sample_contrastive,
        inputs=("student", "rows", "labels"),
        optional=frozenset({"labels"}),
        projection="target",
        per_sample=True,
        smallest_batch=2,
        source="L_clip of CLIP-Teacher-KD (Nair 2024)",
    ),
    "mse": LossEntry(
        mse,
        inputs=("student", "rows"),
        projection="student",
        per_sample=True,
        source="feature-based distillation; FD of CLIP-KD (Yang et al. 2024) when normalised",
    ),
    "cosine": LossEntry(
        cosine,
        inputs=("student", "rows"),
        projection="student",
        per_sample=True,
        source="feature-based distillation",
    ),
}
