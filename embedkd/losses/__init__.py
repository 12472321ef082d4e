"""The losses: pure functions of tensors, and one table of them.

Every loss is ``f(student_BD, target, ..., *, <options>, reduction)``. Names end in their shape: B samples, C classes,
D width. Shapes are checked at the door; values are not, a look at them would make the host wait for the device at every
loss (``weighted_sum`` looks at the total if asked). Half precision is computed in float32.
"""

from embedkd.losses._checks import Reduction
from embedkd.losses.catalogue import LOSSES
from embedkd.losses.class_contrastive import class_contrastive, require_class_means
from embedkd.losses.cosine import cosine
from embedkd.losses.cross_entropy import cross_entropy
from embedkd.losses.entry import Input, LossEntry
from embedkd.losses.mse import mse
from embedkd.losses.sample_contrastive import sample_contrastive
from embedkd.losses.weighted import active_weights, weighted_sum

__all__ = [
    "LOSSES",
    "Input",
    "LossEntry",
    "Reduction",
    "active_weights",
    "class_contrastive",
    "cosine",
    "cross_entropy",
    "mse",
    "require_class_means",
    "sample_contrastive",
    "weighted_sum",
]
