"""Every loss by name."""

from typing import Final

from embedkd.losses.class_contrastive import class_contrastive
from embedkd.losses.cosine import cosine
from embedkd.losses.cross_entropy import cross_entropy
from embedkd.losses.entry import CLIP_LOG_SCALE, LossEntry
from embedkd.losses.fusion_contrastive import fusion_contrastive
from embedkd.losses.gradient import gradient
from embedkd.losses.interactive_contrastive import interactive_contrastive
from embedkd.losses.kl import kl
from embedkd.losses.mae import mae
from embedkd.losses.mse import mse
from embedkd.losses.relational_angle import relational_angle
from embedkd.losses.relational_distance import relational_distance
from embedkd.losses.relational_probability import relational_probability
from embedkd.losses.relational_similarity import relational_similarity
from embedkd.losses.sample_contrastive import sample_contrastive
from embedkd.losses.scaled_kl import scaled_kl
from embedkd.losses.similarity_binary_kl import similarity_binary_kl
from embedkd.losses.similarity_kl import similarity_kl
from embedkd.losses.smooth_l1 import smooth_l1

LOSSES: Final[dict[str, LossEntry]] = {
    "cross_entropy": LossEntry(
        cross_entropy,
        inputs=("logits", "labels"),
        source="the task loss",
    ),
    "class_contrastive": LossEntry(
        class_contrastive,
        inputs=("student", "classes", "labels"),
        projection="target",
        source="L_clip of CLIP-Embed-KD (Nair 2024)",
    ),
    "sample_contrastive": LossEntry(
        sample_contrastive,
        inputs=("student", "rows", "labels", "own"),
        optional=frozenset({"labels", "own"}),
        gathered=frozenset({"rows", "labels"}),
        projection="target",
        per_sample=True,
        smallest_batch=2,
        source="L_clip of CLIP-Teacher-KD (Nair 2024)",
    ),
    "kl": LossEntry(
        kl,
        inputs=("logits", "target_logits"),
        per_sample=True,
        default_output="logits",
        source="Hinton et al. 2015",
    ),
    "scaled_kl": LossEntry(
        scaled_kl,
        inputs=("logits", "target_logits", "log_scale"),
        learned={"log_scale": 0.0},
        per_sample=True,
        default_output="logits",
        source="Hinton et al. 2015, with a learned factor of the student's logits",
    ),
    "mse": LossEntry(
        mse,
        inputs=("student", "rows"),
        projection="student",
        per_sample=True,
        source="feature-based distillation; FD of CLIP-KD (Yang et al. 2024) when normalised",
    ),
    "mae": LossEntry(
        mae,
        inputs=("student", "rows"),
        projection="student",
        per_sample=True,
        source="feature-based distillation",
    ),
    "smooth_l1": LossEntry(
        smooth_l1,
        inputs=("student", "rows"),
        projection="student",
        per_sample=True,
        source="feature-based distillation",
    ),
    "cosine": LossEntry(
        cosine,
        inputs=("student", "rows"),
        projection="student",
        per_sample=True,
        source="feature-based distillation",
    ),
    "similarity_kl": LossEntry(
        similarity_kl,
        inputs=("student", "rows", "classes", "log_scale"),
        learned={"log_scale": CLIP_LOG_SCALE},
        projection="student",
        per_sample=True,
        prefers_text=True,
        source="CRD of CLIP-KD (Yang et al. 2024)",
    ),
    "similarity_binary_kl": LossEntry(
        similarity_binary_kl,
        inputs=("student", "rows", "classes", "log_scale", "bias"),
        learned={"log_scale": CLIP_LOG_SCALE, "bias": -10.0},
        projection="student",
        per_sample=True,
        prefers_text=True,
        source="CRD of CLIP-KD for sigmoid teachers (Zhai et al. 2023)",
    ),
    "interactive_contrastive": LossEntry(
        interactive_contrastive,
        inputs=("student", "classes", "labels", "log_scale"),
        learned={"log_scale": CLIP_LOG_SCALE},
        projection="student",
        prefers_text=True,
        source="ICL of CLIP-KD (Yang et al. 2024)",
    ),
    "fusion_contrastive": LossEntry(
        fusion_contrastive,
        inputs=("student", "rows", "classes", "labels", "log_scale", "fusion_weight", "fusion_bias"),
        learned={"log_scale": CLIP_LOG_SCALE},
        projection="student",
        per_sample=True,
        prefers_text=True,
        source="AFD of CLIP-KD (Yang et al. 2024)",
    ),
    "gradient": LossEntry(
        gradient,
        inputs=("student", "rows", "classes", "labels", "log_scale"),
        learned={"log_scale": CLIP_LOG_SCALE},
        projection="student",
        per_sample=True,
        prefers_text=True,
        source="GD of CLIP-KD (Yang et al. 2024)",
    ),
    "relational_distance": LossEntry(
        relational_distance,
        inputs=("student", "rows", "own"),
        optional=frozenset({"own"}),
        gathered=frozenset({"student", "rows"}),
        per_sample=True,
        smallest_batch=3,
        source="RKD-D (Park et al. 2019)",
    ),
    "relational_angle": LossEntry(
        relational_angle,
        inputs=("student", "rows", "own"),
        optional=frozenset({"own"}),
        gathered=frozenset({"student", "rows"}),
        per_sample=True,
        smallest_batch=3,
        source="RKD-A (Park et al. 2019)",
    ),
    "relational_similarity": LossEntry(
        relational_similarity,
        inputs=("student", "rows", "own"),
        optional=frozenset({"own"}),
        gathered=frozenset({"student", "rows"}),
        per_sample=True,
        smallest_batch=2,
        source="similarity-preserving (Tung and Mori 2019)",
    ),
    "relational_probability": LossEntry(
        relational_probability,
        inputs=("student", "rows", "own"),
        optional=frozenset({"own"}),
        gathered=frozenset({"student", "rows"}),
        per_sample=True,
        smallest_batch=3,
        source="probabilistic knowledge transfer (Passalis and Tefas 2018)",
    ),
}
