"""The temperature at which a teacher's probabilities fit the labels best.

Legend: N samples, C classes.
"""

import math
from typing import TYPE_CHECKING, Final

from embedkd.errors import LossError
from embedkd.losses._checks import check_tensors

if TYPE_CHECKING:
    from torch import Tensor

_LEAST, _GREATEST = 0.01, 100.0
_HALVINGS: Final = 50  # of a factor of 10,000: below the rounding of a float64


def fitted_temperature(logits_NC: "Tensor", labels_N: "Tensor") -> float:
    """The temperature from 0.01 to 100 with the least mean cross-entropy of labels under the softened probabilities.

    The cost is convex in 1 / temperature, so its slope changes sign once; that is where the bisection ends. At a bound
    the logits say too little (100), or always put the label first (0.01).

    >>> import torch
    >>> teacher = torch.tensor([[30.0, 0.0]]).repeat(4, 1)
    >>> round(fitted_temperature(teacher, torch.tensor([0, 0, 0, 1])), 3)  # three times out of four: log 3 apart
    27.307

    Args:
        logits_NC: Raw logits.
        labels_N: int64, from 0 to C - 1.

    Raises:
        LossError: A shape or a dtype does not fit, a label is no class, or a logit is not finite.

    Source:
        Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2.
    """
    check_tensors("fitted_temperature", logits_NC=logits_NC, labels_N=labels_N)
    wide_NC = logits_NC.detach().double()
    in_range = bool(((labels_N >= 0) & (labels_N < wide_NC.shape[1])).all())
    if not in_range or not bool(wide_NC.isfinite().all()):
        raise LossError(
            f"losses.fitted_temperature: expected finite logits and labels from 0 to {wide_NC.shape[1] - 1}, got others"
        )
    right_N = wide_NC.gather(1, labels_N[:, None]).squeeze(1)
    low, high = math.log(1 / _GREATEST), math.log(1 / _LEAST)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        expected_N = ((wide_NC * math.exp(middle)).softmax(dim=1) * wide_NC).sum(dim=1)
        if bool((expected_N - right_N).mean() <= 0):  # sharper costs less, or no more
            low = middle
        else:
            high = middle
    return math.exp(-(low + high) / 2)
