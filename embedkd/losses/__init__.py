"""The losses: pure functions of tensors, and one table of them.

Every loss is ``f(student_BD, target, ..., *, <options>, reduction)``. Names end in their shape: B samples, C classes,
D width, N samples of all ranks. Shapes are checked at the door; values are not, a look at them would make the host wait
for the device at every loss (``weighted_sum`` looks at the total if asked). Half precision is computed in float32.
"""

from embedkd.losses._checks import Reduction
from embedkd.losses._rows import MAX_LOG_SCALE
from embedkd.losses.catalogue import LOSSES
from embedkd.losses.class_contrastive import class_contrastive, require_class_means
from embedkd.losses.cosine import cosine
from embedkd.losses.cross_entropy import cross_entropy
from embedkd.losses.entry import Input, LossEntry
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
from embedkd.losses.temperature import fitted_temperature
from embedkd.losses.weighted import active_weights, weighted_sum

__all__ = [
    "LOSSES",
    "MAX_LOG_SCALE",
    "Input",
    "LossEntry",
    "Reduction",
    "active_weights",
    "class_contrastive",
    "cosine",
    "cross_entropy",
    "fitted_temperature",
    "fusion_contrastive",
    "gradient",
    "interactive_contrastive",
    "kl",
    "mae",
    "mse",
    "relational_angle",
    "relational_distance",
    "relational_probability",
    "relational_similarity",
    "require_class_means",
    "sample_contrastive",
    "scaled_kl",
    "similarity_binary_kl",
    "similarity_kl",
    "smooth_l1",
    "weighted_sum",
]
